//! Calls of Tarantool's functions over connections that come and go.
//!
//! ```text
//! call ─▶ permit ─▶ the writable instance ─▶ answer
//!                     ▲     │ reply lost, timeout, read-only
//!                     └─────┘ ask all instances who takes writes; repeat, under the same id, until time is up
//! ```

use std::{
    fmt::Display,
    hash::{BuildHasher, RandomState},
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use rusty_tarantool::tarantool::{CommandPacket, TarantoolResponse};
use serde::{Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;
use tokio::{
    runtime::Handle,
    sync::{Mutex, Semaphore},
    time::{Instant, timeout_at},
};

use super::{
    Config,
    answers::{Answer, Status},
    connection::{Connection, Silence},
};
use crate::error::{Error, Result};

/// The version of the functions in `tarantool/` that this code calls.
const INTERFACE: u64 = 1;
/// An empty array.
const NO_ARGUMENTS: [u8; 1] = [0x90];
/// Pauses between repeats grow up to this.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// How long an instance may take to say what it is.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// Repeats of one call.
const ATTEMPTS_MAX: u32 = 50;

/// See the [module](self).
pub(super) struct Link {
    config: Config,
    instances: Vec<Instance>,
    writable: AtomicUsize,
    permits: Semaphore,
    /// The long-lived runtime: connections live on it, whoever opens them.
    pub(super) runtime: Handle,
    seed: u64,
    calls: AtomicU64,
}

struct Instance {
    address: String,
    connection: Mutex<Option<Arc<Connection>>>,
}

/// Why an attempt gave no answer.
enum Failure {
    /// The outcome is unknown.
    Lost(String),
    /// Nothing was done.
    ReadOnly(String),
}

impl Link {
    pub(super) async fn open(config: Config) -> Result<Self> {
        let runtime = Handle::current();
        let instance = |address: &String| Instance { address: address.clone(), connection: Mutex::default() };
        let link = Self {
            instances: config.addresses.iter().map(instance).collect(),
            writable: AtomicUsize::new(0),
            permits: Semaphore::new(config.calls_max.clamp(1, Semaphore::MAX_PERMITS)),
            runtime,
            seed: RandomState::new().hash_one(0),
            calls: AtomicU64::new(0),
            config,
        };
        let deadline = Instant::now() + 2 * link.config.timeout;
        let mut pause = Duration::from_millis(20);
        loop {
            match link.discover().await {
                Ok(()) => return Ok(link),
                Err(error) if Instant::now() + pause >= deadline => return Err(error),
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }

    /// A name for a call, so that it can be repeated: unique over all brokers.
    pub(super) fn id(&self) -> ByteBuf {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let mut id = Vec::with_capacity(16);
        id.extend_from_slice(&self.seed.to_be_bytes());
        id.extend_from_slice(&number.to_be_bytes());
        ByteBuf::from(id)
    }

    /// Calls a function and repeats the call while its outcome is unknown. One that writes has an [`id`](Self::id).
    pub(super) async fn call<T: DeserializeOwned>(&self, function: &str, arguments: &impl Serialize) -> Result<T> {
        self.call_written(function, write(function, arguments)?.into()).await
    }

    /// Calls a function with arguments that are written already.
    pub(super) async fn call_written<T: DeserializeOwned>(&self, function: &str, arguments: ByteBuf) -> Result<T> {
        let limit = self.config.timeout;
        let deadline = Instant::now() + 2 * limit;
        let Ok(Ok(_permit)) = timeout_at(deadline, self.permits.acquire()).await else {
            let what = format!("{} calls of Tarantool are under way: wait and repeat", self.config.calls_max);
            return Err(Error::Exhausted { what, retry_after: PAUSE_MAX });
        };
        self.repeat(limit, deadline, function, arguments.into_vec()).await
    }

    /// Calls a function that has a limit of its own, and no turn to wait for: one that this broker lives by, and calls once
    /// at a time.
    pub(super) async fn call_within<T: DeserializeOwned>(
        &self,
        limit: Duration,
        function: &str,
        arguments: &impl Serialize,
    ) -> Result<T> {
        self.repeat(limit, Instant::now() + 2 * limit, function, write(function, arguments)?).await
    }

    async fn repeat<T: DeserializeOwned>(
        &self,
        limit: Duration,
        deadline: Instant,
        function: &str,
        arguments: Vec<u8>,
    ) -> Result<T> {
        let mut pause = Duration::from_millis(5);
        let mut why = String::new();
        for _ in 0..ATTEMPTS_MAX {
            let at = self.writable.load(Ordering::Relaxed);
            match self.attempt(at, limit, function, arguments.clone()).await {
                Ok(answer) => return answer,
                Err(Failure::Lost(what) | Failure::ReadOnly(what)) => why = what,
            }
            if Instant::now() + pause >= deadline {
                break;
            }
            tokio::time::sleep(self.jittered(pause)).await;
            pause = (2 * pause).min(PAUSE_MAX);
            if let Err(Error::Unavailable { what, .. }) = self.discover().await {
                why = what;
            }
        }
        Err(Error::unavailable(format!(
            "Tarantool gave no answer to {function} ({why}): the outcome is unknown; repeat with the same message id"
        )))
    }

    async fn attempt<T: DeserializeOwned>(
        &self,
        at: usize,
        limit: Duration,
        function: &str,
        arguments: Vec<u8>,
    ) -> Result<Result<T>, Failure> {
        let Some(instance) = self.instances.get(at) else {
            return Err(Failure::Lost("no address is configured".into()));
        };
        let response = self.ask(instance, function, arguments, limit).await.map_err(Failure::Lost)?;
        match Answer::read(&response.data) {
            Some(Answer::Given(answer)) => Ok(Ok(answer)),
            Some(Answer::Refused { kind, message }) if kind == "read_only" => {
                Err(Failure::ReadOnly(format!("{}: {message}", instance.address)))
            }
            Some(Answer::Refused { kind, message }) => Ok(Err(refusal(&kind, message))),
            None => Ok(Err(Error::DataLoss(format!(
                "{}: the answer of {function} cannot be read: check that broker and tarantool/ are of one version",
                instance.address
            )))),
        }
    }

    /// Finds the instance that takes writes: of those that do, the one with the latest term.
    async fn discover(&self) -> Result<()> {
        let asked = self.instances.iter().map(|instance| async move {
            let response = self.ask(instance, "status", NO_ARGUMENTS.into(), STATUS_TIMEOUT).await?;
            match Answer::<Status>::read(&response.data) {
                Some(Answer::Given(status)) => Ok(status),
                _ => Err(format!("{}: it does not know its functions yet", instance.address)),
            }
        });
        let mut found: Option<(u64, usize)> = None;
        let mut why = Vec::new();
        for (at, status) in join_all(asked).await.into_iter().enumerate() {
            match status {
                Ok(status) if status.interface != INTERFACE => why.push(format!(
                    "{}: its functions have version {}, and this broker calls version {INTERFACE}",
                    self.instances[at].address, status.interface
                )),
                Ok(status) if status.is_read_only => {
                    why.push(format!("{}: it is read-only", self.instances[at].address));
                }
                Ok(status) if found.is_none_or(|(term, _)| status.term > term) => found = Some((status.term, at)),
                Ok(_) => {}
                Err(what) => why.push(what),
            }
        }
        let Some((_, at)) = found else {
            return Err(Error::unavailable(format!("no Tarantool instance takes writes: {}", why.join("; "))));
        };
        if self.writable.swap(at, Ordering::Relaxed) != at {
            tracing::info!(address = self.instances[at].address, "this Tarantool instance takes writes");
        }
        Ok(())
    }

    /// Calls one instance once; says why there is no answer. A connection that is found dead is given up, and with it the
    /// calls that wait on it.
    async fn ask(
        &self,
        instance: &Instance,
        function: &str,
        arguments: Vec<u8>,
        limit: Duration,
    ) -> Result<TarantoolResponse, String> {
        let why = |what: &dyn Display| format!("{}: {what}", instance.address);
        let packet = CommandPacket::call_raw(&format!("mts.{function}"), arguments).map_err(|error| why(&error))?;
        let connection = self.connection(instance).await.map_err(|error| why(&error))?;
        match connection.call(packet, limit).await {
            Ok(response) => Ok(response),
            Err(Silence::Ended(what)) => Err(why(&what)),
            Err(Silence::Slow) => Err(why(&format_args!("no answer within {limit:?}"))),
            Err(Silence::Dead) => {
                let mut current = instance.connection.lock().await;
                if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &connection)) {
                    *current = None;
                }
                connection.close();
                Err(why(&format_args!("no answer to anything within {limit:?}")))
            }
        }
    }

    /// The connection to an instance; opened by the first who needs it.
    async fn connection(&self, instance: &Instance) -> io::Result<Arc<Connection>> {
        let mut current = instance.connection.lock().await;
        if let Some(connection) = current.as_ref().filter(|connection| connection.is_open()) {
            return Ok(connection.clone());
        }
        let Config { user, password, .. } = &self.config;
        let connection = Arc::new(Connection::open(&instance.address, user, password, &self.runtime).await?);
        *current = Some(connection.clone());
        Ok(connection)
    }

    /// Half a duration to all of it.
    pub(super) fn jittered(&self, pause: Duration) -> Duration {
        let random = RandomState::new().hash_one(self.calls.load(Ordering::Relaxed));
        pause.mul_f64(0.5 + f64::from((random & 0xFFFF) as u16) / 131_072.0)
    }
}

fn write(function: &str, arguments: &impl Serialize) -> Result<Vec<u8>> {
    rmp_serde::to_vec(arguments)
        .map_err(|error| Error::unavailable(format!("a call of {function} cannot be written: {error}")))
}

fn refusal(kind: &str, message: String) -> Error {
    match kind {
        "conflict" => Error::Conflict(message),
        "data_loss" => Error::DataLoss(message),
        "exhausted" => Error::Exhausted { what: message, retry_after: Duration::from_secs(1) },
        "precondition" => Error::Precondition(message),
        _ => Error::unavailable(message),
    }
}
