//! Calls of Tarantool's functions over connections that come and go.
//!
//! ```text
//! call ─▶ permit ─▶ the writable instance ─▶ answer
//!                     ▲     │ reply lost, timeout, read-only
//!                     └─────┘ ask all instances who takes writes; repeat, under the same id, until time is up
//! ```

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use rusty_tarantool::tarantool::{Client, ClientConfig, CommandPacket};
use serde::{Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Config,
    answers::{Answer, Status},
};
use crate::error::{Error, Result};

/// The version of the functions in `tarantool/` that this code calls.
const INTERFACE: u64 = 1;
/// An empty array.
const NO_ARGUMENTS: [u8; 1] = [0x90];
/// The client's wait before it connects again.
const RECONNECT_MS: u64 = 200;
/// Pauses between repeats grow up to this.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// How long an instance may take to say what it is.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection that does not answer is made anew, but not more often than this: one that hangs cannot be ended.
const RENEWAL_MIN: Duration = Duration::from_secs(2);
/// Repeats of one call.
const ATTEMPTS_MAX: u32 = 50;

/// See the [module](self).
pub(super) struct Link {
    config: Config,
    instances: Vec<Instance>,
    writable: AtomicUsize,
    permits: Semaphore,
    /// The long-lived runtime: the client's own task lives where the first call was made.
    pub(super) runtime: Handle,
    seed: u64,
    calls: AtomicU64,
}

struct Instance {
    address: String,
    client: Mutex<(Client, Instant)>,
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
        let instances = config.addresses.iter().map(|address| Instance {
            address: address.clone(),
            client: Mutex::new((client(&config, address, &runtime), Instant::now())),
        });
        let link = Self {
            instances: instances.collect(),
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
        self.call_within(self.config.timeout, function, arguments).await
    }

    /// The same, of a function that takes its time.
    pub(super) async fn call_within<T: DeserializeOwned>(
        &self,
        limit: Duration,
        function: &str,
        arguments: &impl Serialize,
    ) -> Result<T> {
        let arguments = rmp_serde::to_vec(arguments)
            .map_err(|error| Error::unavailable(format!("a call of {function} cannot be written: {error}")))?;
        self.repeat(limit, function, arguments).await
    }

    /// Calls a function with arguments that are written already.
    pub(super) async fn call_written<T: DeserializeOwned>(&self, function: &str, arguments: ByteBuf) -> Result<T> {
        self.repeat(self.config.timeout, function, arguments.into_vec()).await
    }

    async fn repeat<T: DeserializeOwned>(&self, limit: Duration, function: &str, arguments: Vec<u8>) -> Result<T> {
        let deadline = Instant::now() + 2 * limit;
        let Ok(Ok(_permit)) = timeout_at(deadline, self.permits.acquire()).await else {
            let what = format!("{} calls of Tarantool are under way: wait and repeat", self.config.calls_max);
            return Err(Error::Exhausted { what, retry_after: PAUSE_MAX });
        };
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
        let packet = CommandPacket::call_raw(&format!("mts.{function}"), arguments)
            .map_err(|error| Failure::Lost(error.to_string()))?;
        let client = instance.current();
        let response = match timeout(limit, client.send_command(packet)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(Failure::Lost(format!("{}: {error}", instance.address))),
            Err(_) => {
                self.renew(instance);
                return Err(Failure::Lost(format!("{}: no answer within {limit:?}", instance.address)));
            }
        };
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
            let client = instance.current();
            let ask = async {
                let packet = CommandPacket::call_raw("mts.status", NO_ARGUMENTS.into())?;
                client.send_command(packet).await
            };
            match timeout(STATUS_TIMEOUT, ask).await {
                Ok(Ok(response)) => match Answer::<Status>::read(&response.data) {
                    Some(Answer::Given(status)) => Ok(status),
                    _ => Err(format!("{}: it does not know its functions yet", instance.address)),
                },
                Ok(Err(error)) => Err(format!("{}: {error}", instance.address)),
                Err(_) => {
                    self.renew(instance);
                    Err(format!("{}: no answer within {STATUS_TIMEOUT:?}", instance.address))
                }
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

    /// Connects anew: a connection may be dead without saying so.
    fn renew(&self, instance: &Instance) {
        let mut current = instance.client.lock().unwrap_or_else(PoisonError::into_inner);
        if current.1.elapsed() >= RENEWAL_MIN {
            *current = (client(&self.config, &instance.address, &self.runtime), Instant::now());
        }
    }

    /// Half a duration to all of it.
    pub(super) fn jittered(&self, pause: Duration) -> Duration {
        let random = RandomState::new().hash_one(self.calls.load(Ordering::Relaxed));
        pause.mul_f64(0.5 + f64::from((random & 0xFFFF) as u16) / 131_072.0)
    }
}

impl Instance {
    fn current(&self) -> Client {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

fn client(config: &Config, address: &str, runtime: &Handle) -> Client {
    let config = ClientConfig::new(address, config.user.clone(), config.password.clone());
    let client = config.set_reconnect_time_ms(RECONNECT_MS).build();
    // The first call decides on which runtime the client's own task lives: on the long-lived one.
    let _context = runtime.enter();
    if let Ok(packet) = CommandPacket::ping() {
        let _asked = client.send_command(packet).now_or_never();
    }
    client
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
