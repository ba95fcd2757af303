use std::time::Duration;

use crate::{
    consumer::{Consumer, Counts, Lag, Patch, Settings, Start},
    error::{Error, Result},
    types::{ConsumerName, Timestamp},
};

/// A consumer to be made.
#[derive(Clone, Debug)]
pub struct NewConsumer {
    /// Its name.
    pub name: ConsumerName,
    /// False if it leaves nothing behind.
    pub is_durable: bool,
    /// How it works.
    pub patch: Patch,
    /// How long its dead letters live, if `patch` does not say so.
    pub dead_letter_ttl: Duration,
    /// Most durable consumers that there may be.
    pub consumers_max: usize,
    /// The present moment.
    pub now: Timestamp,
}

/// A consumer as it is shown.
#[derive(Clone, Debug)]
pub struct ConsumerView {
    /// Its name.
    pub name: ConsumerName,
    /// How it works.
    pub settings: Settings,
    /// When it was made.
    pub created: Timestamp,
    /// True while it delivers nothing.
    pub paused: bool,
    /// Workers that have leases, or asked for some.
    pub workers: usize,
    /// The next stream sequence that it looks at.
    pub cursor: u64,
    /// Everything before this stream sequence is settled.
    pub ack_floor: u64,
    /// For a filter of one subject: the sequence that it began with, and the first that it has not begun with.
    pub sequences: (u64, u64),
    /// What became of its messages.
    pub counts: Counts,
    /// How far behind it is.
    pub lag: Lag,
}

impl ConsumerView {
    /// A consumer as it stands, but for its lag, which takes long to count.
    pub(super) fn without_lag(name: &ConsumerName, consumer: &Consumer, workers: usize) -> Self {
        Self {
            name: name.clone(),
            settings: consumer.settings.clone(),
            created: consumer.created,
            paused: consumer.paused,
            workers,
            cursor: consumer.cursor(),
            ack_floor: consumer.ack_floor(),
            sequences: consumer.sequences(),
            counts: consumer.counts(),
            lag: Lag::default(),
        }
    }
}

/// There is no consumer of this name.
pub(super) fn no_consumer(name: &ConsumerName) -> Error {
    Error::NotFound(format!("there is no consumer '{name}': create it, or open it with settings"))
}

/// A consumer is made again; refuses settings that it does not have.
pub(super) fn check_same(name: &ConsumerName, settings: &Settings, patch: &Patch) -> Result<()> {
    let Some(setting) = settings.differs_from(patch) else { return Ok(()) };
    let way = match setting {
        "filter" | "start" => "choose another name, or delete it first",
        _ => "update it, or delete it first",
    };
    Err(Error::Precondition(format!("consumer '{name}' exists with another {setting}: {way}")))
}

/// What to do with a consumer.
#[derive(Clone, Debug)]
pub enum ConsumerChange {
    /// Replace settings.
    Update(Patch),
    /// Stop or resume deliveries.
    Pause(bool),
    /// Begin anew, at its own start or another.
    Reset(Option<Start>),
    /// Remove it.
    Delete,
}
