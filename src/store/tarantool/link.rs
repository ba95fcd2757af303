//! Calls of Tarantool's functions over connections that come and go.
//!
//! ```text
//! call ─▶ permit ─▶ the leader ─▶ answer
//!                     ▲     │ reply lost, timeout, read-only, another leader was found
//!                     └─────┘ ask all instances who leads; repeat, under the same id, until time is up
//! ```

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use serde::{Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;
use tokio::{
    runtime::Handle,
    sync::{Mutex, Semaphore, watch},
    time::{Instant, timeout_at},
};

use super::{
    Config,
    answers::Answer,
    leader::{self, Instance, Leader},
    server::Server,
};
use crate::error::{Error, Result};

/// Pauses between repeats grow up to this.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// Repeats of one call.
const ATTEMPTS_MAX: u32 = 50;

/// See the [module](self).
pub(super) struct Link {
    config: Config,
    servers: Vec<Server>,
    leader: watch::Sender<Leader>,
    looked: Mutex<Option<Look>>,
    permits: Semaphore,
    /// The long-lived runtime: connections live on it, whoever opens them.
    pub(super) runtime: Handle,
    seed: u64,
    calls: AtomicU64,
}

/// What all instances were asked, and what came of it.
struct Look {
    began: Instant,
    found: Result<()>,
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
        let link = Self {
            servers: config.addresses.iter().map(|address| Server::new(address, &config, &runtime)).collect(),
            leader: watch::Sender::default(),
            looked: Mutex::default(),
            permits: Semaphore::new(config.calls_max.clamp(1, Semaphore::MAX_PERMITS)),
            runtime,
            seed: RandomState::new().hash_one(0),
            calls: AtomicU64::new(0),
            config,
        };
        let deadline = Instant::now() + 2 * link.config.timeout;
        let mut pause = Duration::from_millis(20);
        loop {
            match link.discover(Instant::now()).await {
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
            match self.attempt(limit, function, arguments.clone()).await {
                Ok(answer) => return answer,
                Err(Failure::Lost(what) | Failure::ReadOnly(what)) => why = what,
            }
            let failed = Instant::now();
            if Instant::now() + pause >= deadline {
                break;
            }
            tokio::time::sleep(self.jittered(pause)).await;
            pause = (2 * pause).min(PAUSE_MAX);
            if let Err(Error::Unavailable { what, .. }) = self.discover(failed).await {
                why = what;
            }
        }
        Err(Error::unavailable(format!(
            "Tarantool gave no answer to {function} ({why}): the outcome is unknown; repeat with the same message id"
        )))
    }

    async fn attempt<T: DeserializeOwned>(
        &self,
        limit: Duration,
        function: &str,
        arguments: Vec<u8>,
    ) -> Result<Result<T>, Failure> {
        let mut leader = self.leader.subscribe();
        let at = leader.borrow_and_update().at;
        let Some(server) = self.servers.get(at) else {
            return Err(Failure::Lost("no address is configured".into()));
        };
        let response = tokio::select! {
            response = server.call(function, arguments, limit) => response.map_err(Failure::Lost)?,
            // Whoever was deposed and does not know answers nobody, and least of all those who wait for news.
            _ = leader.wait_for(|leader| leader.at != at) => {
                return Err(Failure::Lost(format!("{}: it leads no more", server.address)));
            }
        };
        match Answer::read(&response.data) {
            Some(Answer::Given(answer)) => Ok(Ok(answer)),
            Some(Answer::Refused { kind, message }) if kind == "read_only" => {
                Err(Failure::ReadOnly(format!("{}: {message}", server.address)))
            }
            Some(Answer::Refused { kind, message }) => Ok(Err(refusal(&kind, message))),
            None => Ok(Err(Error::DataLoss(format!(
                "{}: the answer of {function} cannot be read: check that broker and tarantool/ are of one version",
                server.address
            )))),
        }
    }

    /// Finds the leader, unless all were asked since a moment: many calls fail at once, and one look is enough for them.
    async fn discover(&self, since: Instant) -> Result<()> {
        let mut looked = self.looked.lock().await;
        if let Some(look) = &*looked
            && look.began > since
        {
            return look.found.clone();
        }
        let began = Instant::now();
        let found = self.ask().await.1;
        *looked = Some(Look { began, found: found.clone() });
        found
    }

    /// How all instances are. Calls go to the leader that is found.
    pub(super) async fn instances(&self) -> Vec<Instance> {
        self.ask().await.0
    }

    async fn ask(&self) -> (Vec<Instance>, Result<()>) {
        let said = join_all(self.servers.iter().map(Server::status)).await;
        let known_term = self.leader.borrow().term;
        let addresses = || self.servers.iter().map(|server| server.address.as_str());
        let found = leader::choose(addresses().zip(&said), known_term);
        let instances = leader::describe(addresses().zip(&said), found.as_ref().ok());
        let found = found.map(|found| self.follow(found));
        (instances, found.map_err(|why| Error::unavailable(format!("no Tarantool instance takes writes: {why}"))))
    }

    /// Turns to a leader. Of two looks at the same time, the one that saw the later term counts.
    fn follow(&self, found: Leader) {
        let is_another = self.leader.send_if_modified(|leader| {
            if found.term < leader.term {
                return false;
            }
            std::mem::replace(leader, found).at != found.at
        });
        if is_another {
            let address = &self.servers[found.at].address;
            tracing::info!(address, term = found.term, "this Tarantool instance takes writes");
        }
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
