//! Metadata in Tarantool: what many replicas share.
//!
//! ```text
//! MetadataStore ─▶ wire (rows) ─▶ link (calls, repeats) ─▶ server (the leader) ─▶ tarantool/mts/*.lua
//!      │
//!      └─ steps of consumers ─▶ consumers (state of a version) ─▶ src/consumer ─▶ changed rows, if it is the version
//! ```
//! Order, books and retention are functions in `tarantool/`, each one transaction. Consumers are computed here, by the
//! same code as in the embedded store, and written if nobody else was faster (docs/adr/0010-tarantool-consumers.md).
//! Every write carries an id of its own, so that one whose reply was lost can be repeated.

mod answers;
mod changes;
mod connection;
mod consumers;
mod leader;
mod leases;
mod life;
mod link;
mod metadata;
mod news;
mod server;
mod source;
mod state;
mod steps;
mod wire;

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use crate::error::Result;

use consumers::Consumers;
pub use leader::{Instance, Role};
pub use leases::Lease;
use life::Life;
use link::Link;
pub use news::News;

/// Where Tarantool is, and how long to wait for it.
#[derive(Clone)]
pub struct Config {
    /// Its instances, `host:port`; the one that takes calls is found by asking.
    pub addresses: Vec<String>,
    /// The brokers' user.
    pub user: String,
    /// Its password.
    pub password: String,
    /// How long one call may take. A call is repeated until twice this time has passed.
    pub timeout: Duration,
    /// Calls under way at a time; more wait.
    pub calls_max: usize,
    /// After so long a silence this broker counts as dead, and what its workers have is given to others.
    pub liveness: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            addresses: vec!["127.0.0.1:3301".into()],
            user: "minitoolstream".into(),
            password: String::new(),
            timeout: Duration::from_secs(5),
            calls_max: 512,
            liveness: Duration::from_secs(5),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addresses, user, timeout, calls_max, liveness, .. } = self;
        f.debug_struct("Config")
            .field("addresses", addresses)
            .field("user", user)
            .field("timeout", timeout)
            .field("calls_max", calls_max)
            .field("liveness", liveness)
            .finish_non_exhaustive()
    }
}

/// Metadata in Tarantool. Clones share one connection.
#[derive(Clone)]
pub struct TarantoolMetadata {
    link: Arc<Link>,
    life: Arc<Life>,
    consumers: Arc<Consumers>,
    /// What this broker calls itself where one of several is chosen.
    owner: Arc<str>,
}

impl TarantoolMetadata {
    /// Connects, on the runtime that it is called on: that must live as long as the store.
    ///
    /// # Errors
    /// [`Unavailable`](crate::Error::Unavailable) if no instance takes writes, or speaks this version's functions.
    pub async fn connect(config: Config) -> Result<Self> {
        let liveness = config.liveness;
        let link = Arc::new(Link::open(config).await?);
        let life = Life::start(link.clone(), liveness);
        let owner = format!("{:016x}", RandomState::new().hash_one(std::process::id())).into();
        Ok(Self { link, life, consumers: Arc::default(), owner })
    }

    /// Asks all instances how they are. Calls go to the leader that is found, also those that wait for another.
    pub async fn instances(&self) -> Vec<Instance> {
        self.link.instances().await
    }

    /// Tells the others that this broker ends: what its workers have is theirs at once, and not after a silence.
    ///
    /// # Errors
    /// [`Unavailable`](crate::Error::Unavailable) if Tarantool does not answer: then the silence will tell.
    pub async fn leave(&self) -> Result<()> {
        self.life.leave().await
    }
}
