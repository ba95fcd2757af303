use std::time::Duration;

use crate::{
    block::{Block, Located, ScanLimits, StreamScan, letter},
    error::Result,
    types::{ConsumerName, Subject, SubjectFilter, Timestamp},
};

/// One worker's stream, unique over all brokers and restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session(pub u64);

/// What one worker says and asks, carried out in one transaction: first the answers, then new deliveries.
#[derive(Clone, Debug)]
pub struct Step {
    /// The consumer.
    pub consumer: ConsumerName,
    /// The worker.
    pub session: Session,
    /// Answers to deliveries.
    pub settles: Vec<Settle>,
    /// What the worker takes now.
    pub want: Want,
    /// True if the worker is gone: what it has is given to others at once.
    pub close: bool,
    /// The present moment.
    pub now: Timestamp,
}

/// An answer to a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// Stream sequence of the message.
    pub at: u64,
    /// The delivery that is answered.
    pub attempt: u32,
    /// When the answer came.
    pub received: Timestamp,
    /// The answer.
    pub how: How,
}

/// Answers to a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// Done.
    Ack,
    /// Not done: deliver again after this delay, or after the consumer's back-off.
    Nak(Option<Duration>),
    /// Still at work: the ack wait begins anew.
    Extend,
    /// Never deliver again; with the worker's reason.
    Terminate(String),
    /// Not begun with: deliver again at once, and do not count this attempt.
    Release,
    /// The message expired or was purged before it could be handed over.
    Gone,
    /// The message cannot be read: what is wrong with it.
    Damaged(String),
}

/// What a worker takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// Messages.
    pub messages: usize,
    /// Bytes of data, by the average of each block.
    pub bytes: u64,
    /// Data above this size is not sent along, and does not count.
    pub message_bytes: u64,
    /// The first message passes up to this size, also if it is larger than `bytes`: a step is smaller than some messages.
    pub first_bytes: u64,
}

/// What came of a [`Step`].
#[derive(Debug, Default)]
pub struct Stepped {
    /// For each answer: done, or why not.
    pub settled: Vec<Result<()>>,
    /// What the worker gets.
    pub runs: Vec<Run>,
    /// What became a dead letter, in the same transaction.
    pub letters: Vec<Letter>,
    /// Messages that wait behind the last one given.
    pub backlog: u64,
    /// True if more could be given to this worker, had it room.
    pub more: bool,
    /// True if there is something for others now.
    pub others: bool,
    /// How long a lease lasts that was extended in this step.
    pub ack_wait: Duration,
    /// When the next lease is over or the next delay has passed.
    pub next_due: Option<Timestamp>,
}

/// Messages of one block that a worker gets.
#[derive(Clone, Debug)]
pub struct Run {
    /// Whose they are.
    pub subject: Subject,
    /// Where they are.
    pub block: Block,
    /// Which of its messages, in order.
    pub given: Vec<Given>,
}

/// One delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// Stream sequence of the message.
    pub at: u64,
    /// 1 for the first delivery.
    pub attempt: u32,
    /// From this moment on the lease is over.
    pub deadline: Timestamp,
}

/// A message that is given up.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Stream sequence of the message.
    pub at: u64,
    /// Where it is.
    pub located: Located,
    /// Deliveries it had.
    pub attempts: u32,
    /// Why.
    pub reason: Reason,
    /// The worker's reason, or what is damaged; may be empty.
    pub detail: String,
}

/// Why a message is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its last attempt was used up.
    MaxDeliver,
    /// A worker said so.
    Terminated,
    /// Its bytes are damaged.
    DataLoss,
}

impl Reason {
    /// The word in the header `Mts-Reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxDeliver => "max-deliver",
            Self::Terminated => "terminated",
            Self::DataLoss => letter::DATA_LOSS,
        }
    }
}

/// What is stored, as a step sees it.
pub trait Source {
    /// Blocks of all subjects that match, in order, from a stream sequence on.
    ///
    /// # Errors
    /// Those of the store.
    fn scan(&mut self, filter: &SubjectFilter, from: u64, limits: ScanLimits) -> Result<StreamScan>;

    /// The live block that holds a stream sequence; `None` if the message is gone.
    ///
    /// # Errors
    /// Those of the store.
    fn find(&mut self, at: u64) -> Result<Option<Located>>;
}

impl Want {
    /// True if nothing more is taken.
    pub fn is_nothing(&self) -> bool {
        self.messages == 0 || self.bytes == 0
    }
}
