use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{ConsumerChange, ConsumerView, NewConsumer, NewUpload, Saved, Upload, Usage};
use crate::{
    block::{
        Block, PayloadKey, Placement, ScanLimits, StreamScan,
        batch::NewBlock,
        guard::{RecordAt, Refusal},
    },
    consumer::{Step, Stepped},
    error::Result,
    types::{ConsumerName, DurableName, Subject, SubjectFilter, Timestamp, UploadId},
};

/// What one transaction writes.
#[derive(Debug, Default)]
pub struct Group {
    /// Blocks, in the order in which their sequences are assigned.
    pub blocks: Vec<NewBlock>,
    /// Where each block's body was stored.
    pub placements: Vec<Placement>,
    /// Positions to move.
    pub acks: Vec<Ack>,
    /// What workers say and ask, in this order.
    pub steps: Vec<Arc<Step>>,
    /// The present moment.
    pub now: Timestamp,
    /// How long message ids, and uploads that became messages, are remembered from now on.
    pub dedup_window: Duration,
}

/// A durable consumer's wish to move its position.
#[derive(Clone, Debug)]
pub struct Ack {
    /// The consumer.
    pub durable: DurableName,
    /// The subject.
    pub subject: Subject,
    /// Everything up to and including this sequence is done.
    pub sequence: u64,
}

/// What became of a [`Group`].
#[derive(Debug)]
pub enum Committed {
    /// All of it is durable.
    Stored {
        /// First sequence of each block.
        firsts: Vec<u64>,
        /// For each ack: the position after it, or why it was refused.
        positions: Vec<Result<u64>>,
        /// For each step: what came of it.
        steps: Vec<Result<Stepped>>,
        /// Subjects that got messages, dead letters among them.
        raised: Raised,
    },
    /// Nothing was written: these records must not be stored. Without them the group would pass.
    Refused(Vec<(RecordAt, Refusal)>),
}

/// Subjects that got messages, and their last sequences.
pub type Raised = Vec<(Subject, u64)>;

/// What became of messages that were due.
#[derive(Debug, Default)]
pub struct Due {
    /// Subjects that got them.
    pub raised: Raised,
    /// True if more are due.
    pub more: bool,
}

/// A message on its way from one subject to another.
#[derive(Clone, Debug)]
pub struct Move {
    /// Where it is.
    pub from: Subject,
    /// Its sequence there: it must be alone in its block, as dead letters are.
    pub sequence: u64,
    /// Where it goes.
    pub to: Subject,
    /// When it expires there.
    pub expires: Option<Timestamp>,
}

/// The books of one subject. Messages are accepted in the order of their sequences, from 1, without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectRow {
    /// The subject.
    pub subject: Subject,
    /// Last sequence assigned, which is also the number of messages accepted; kept for ever.
    pub last: u64,
    /// Nothing lives before this sequence.
    pub floor: u64,
    /// Messages removed because their time had come.
    pub expired: u64,
    /// Messages removed by request.
    pub purged: u64,
    /// Bytes of the live blocks.
    pub bytes: u64,
    /// When its newest message was accepted.
    pub updated: Timestamp,
}

impl SubjectRow {
    /// The row of a subject that never had a message.
    pub fn new(subject: Subject) -> Self {
        Self { subject, last: 0, floor: 1, expired: 0, purged: 0, bytes: 0, updated: Timestamp::default() }
    }

    /// Messages that are neither expired nor purged (P8: accepted = live + expired + purged).
    pub fn live(&self) -> u64 {
        self.last.saturating_sub(self.expired + self.purged)
    }
}

/// A stretch of a subject's blocks.
#[derive(Debug)]
pub struct BlockScan {
    /// Sequences below this one are gone, even where a block still holds them.
    pub floor: u64,
    /// The subject's last sequence.
    pub last: u64,
    /// The blocks, in order; the first may begin before the sequence asked for.
    pub blocks: Vec<Block>,
}

/// What one step of expiry removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Blocks removed.
    pub blocks: usize,
    /// Live messages in them.
    pub messages: u64,
}

/// What one step of a purge removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purged {
    /// Messages removed.
    pub messages: u64,
    /// True if nothing is left to purge.
    pub done: bool,
}

/// A segment or object, as its row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadRow {
    /// Its name in the payload store.
    pub key: PayloadKey,
    /// Blocks that live in it.
    pub alive: u64,
    /// Bytes committed in it: what lies beyond was never acknowledged.
    pub len: u64,
    /// Who writes to it.
    pub writer: Writer,
}

/// Who writes to a segment or object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// Nobody any more.
    Nobody,
    /// The commits of a broker: when that ends, so does the writing.
    Commits,
    /// An upload, which may go on after its broker ended.
    Upload,
}

/// Bytes that wait for their removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbage {
    /// What to remove.
    pub key: PayloadKey,
    /// Since when nothing refers to it.
    pub since: Timestamp,
}

/// Order, positions and retention. Every method is one transaction, durable before it answers, and answers speak of
/// durable rows only: what a crash could undo is never seen.
///
/// Each method may fail with [`Unavailable`](crate::Error::Unavailable) if the store does not answer, and with
/// [`DataLoss`](crate::Error::DataLoss) if a row cannot be read.
#[async_trait]
pub trait MetadataStore: Send + Sync + 'static {
    /// Assigns sequences, inserts blocks, counts them in their payloads, remembers message ids and uploads, moves positions
    /// and takes steps of consumers, which do not see this group's blocks: all or nothing. An object's payload row is closed
    /// by the commit that refers to it.
    async fn commit(&self, group: Group) -> Result<Committed>;

    /// The books of a subject; `None` if it never had a message.
    async fn subject(&self, subject: &Subject) -> Result<Option<SubjectRow>>;

    /// Books of the subjects that match, by name, from after `after` on, at most `limit`.
    async fn subjects(&self, filter: &SubjectFilter, after: &str, limit: usize) -> Result<Vec<SubjectRow>>;

    /// Blocks from the one that holds `from` on, until `blocks_max` blocks or `bytes_max` bytes are reached, but at
    /// least one if there is one.
    async fn blocks(&self, subject: &Subject, from: u64, blocks_max: usize, bytes_max: u64) -> Result<BlockScan>;

    /// Blocks of the subjects that match, in the order of the stream, from a stream sequence on.
    async fn stream(&self, filter: &SubjectFilter, from: u64, limits: ScanLimits) -> Result<StreamScan>;

    /// The stream sequence of the first block stored at or after a time, among the subjects that match; the next one to
    /// be given if there is none.
    async fn stream_at(&self, filter: &SubjectFilter, time: Timestamp) -> Result<u64>;

    /// Makes a consumer; one that exists as asked for is given as it is. One that is not durable lives in memory, as long
    /// as it has workers.
    async fn create_consumer(&self, new: NewConsumer) -> Result<ConsumerView>;

    /// A consumer; `None` if there is none of this name.
    async fn consumer(&self, name: &ConsumerName) -> Result<Option<ConsumerView>>;

    /// Durable consumers by name, from after `after` on, at most `limit`.
    async fn consumers(&self, after: &str, limit: usize) -> Result<Vec<ConsumerView>>;

    /// Changes a consumer; gives it as it is then, or was before it was removed.
    async fn change_consumer(&self, name: &ConsumerName, change: ConsumerChange) -> Result<ConsumerView>;

    /// Moves a message to another subject, without the headers that the broker gave it; gives its sequence there, or
    /// `None` if there is no such message alone in its block.
    async fn move_message(&self, message: Move, now: Timestamp) -> Result<Option<u64>>;

    /// When the next scheduled message is due.
    async fn next_due(&self) -> Result<Option<Timestamp>>;

    /// Moves scheduled messages that are due to their subjects, at most `limit`.
    async fn deliver_due(&self, now: Timestamp, limit: usize) -> Result<Due>;

    /// The acked position of a durable consumer in a subject; 0 if it never acked.
    async fn position(&self, durable: &DurableName, subject: &Subject) -> Result<u64>;

    /// Positions from after the given one on, by durable name and subject, at most `limit`.
    async fn positions(&self, after: Option<&(DurableName, Subject)>, limit: usize) -> Result<Vec<Ack>>;

    /// Removes messages of a subject up to and including a sequence, at most `blocks_max` blocks at a time.
    async fn purge(&self, subject: &Subject, up_to: u64, blocks_max: usize, now: Timestamp) -> Result<Purged>;

    /// Removes blocks all of whose messages have expired, at most `blocks_max`.
    async fn expire(&self, now: Timestamp, blocks_max: usize) -> Result<Expired>;

    /// Forgets message ids whose window has passed, at most `limit`; gives how many.
    async fn forget_ids(&self, now: Timestamp, limit: usize) -> Result<usize>;

    /// Reserves the name of a new segment or object and records it as open; `kind` makes the key of the number.
    async fn open_payload(&self, kind: fn(u64) -> PayloadKey) -> Result<PayloadKey>;

    /// Closes a segment: when its last block goes, it becomes garbage. One without blocks becomes garbage now.
    async fn seal_payload(&self, key: PayloadKey, now: Timestamp) -> Result<()>;

    /// Begins an upload, or continues one: of those who continue it, the last counts. Gives it as it is then.
    ///
    /// # Errors
    /// [`Precondition`](crate::Error::Precondition) if it was begun with another header,
    /// [`Exhausted`](crate::Error::Exhausted) if there are too many.
    async fn begin_upload(&self, new: NewUpload) -> Result<Upload>;

    /// An upload; `None` if there is none of this name.
    async fn upload(&self, id: &UploadId) -> Result<Option<Upload>>;

    /// Uploads by name, from after `after` on, at most `limit`.
    async fn uploads(&self, after: &str, limit: usize) -> Result<Vec<Upload>>;

    /// Records how far an upload is durable, and until when it lives.
    ///
    /// # Errors
    /// [`Precondition`](crate::Error::Precondition) if it is not open in this epoch any more.
    async fn save_upload(&self, id: &UploadId, epoch: u64, saved: Saved, deadline: Timestamp) -> Result<()>;

    /// Ends an upload that is open, in the given epoch or any: its object turns into garbage. Gives false if there is no
    /// such upload.
    async fn abandon_upload(&self, id: &UploadId, epoch: Option<u64>, now: Timestamp) -> Result<bool>;

    /// Abandons open uploads whose deadline has passed and forgets others, at most `limit`; gives how many.
    async fn expire_uploads(&self, now: Timestamp, limit: usize) -> Result<usize>;

    /// Rows of payloads from after the given number on, at most `limit`.
    async fn payloads(&self, after: u64, limit: usize) -> Result<Vec<PayloadRow>>;

    /// Garbage that is older than `before`, oldest first, at most `limit`.
    async fn garbage(&self, before: Timestamp, limit: usize) -> Result<Vec<Garbage>>;

    /// Removes the rows of garbage whose bytes are gone.
    async fn forget_garbage(&self, removed: &[Garbage]) -> Result<()>;

    /// How often rows that cannot be read were passed over since the store was opened; each is named in the log.
    fn unreadable_rows(&self) -> u64 {
        0
    }

    /// True while somebody reads rows as of an earlier moment, which may tell of payload that is garbage by now: what became
    /// garbage since must not be removed.
    async fn is_held(&self) -> Result<bool> {
        Ok(false)
    }

    /// Tells whether the store would take a commit now.
    async fn writable(&self) -> Result<()>;

    /// How full the store is; `None` if it has no limit of its own.
    async fn usage(&self) -> Result<Option<Usage>> {
        Ok(None)
    }

    /// True if other brokers work on the same rows.
    fn is_shared(&self) -> bool {
        false
    }

    /// True if this broker is the one of all to do a task, for some seconds from now.
    async fn leads(&self, _task: &str) -> Result<bool> {
        Ok(true)
    }
}
