use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

use super::{MessageId, Subject, Timestamp, UploadId};

/// Application headers of a message, in the order given.
pub type Headers = Vec<(String, String)>;

/// Names one request in the logs of everything that works on it; unique while the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(u64);

impl RequestId {
    /// The next id.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

/// A message that passed validation and is on its way to be stored.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Where it goes.
    pub subject: Subject,
    /// The payload; may be empty.
    pub data: Bytes,
    /// Application headers.
    pub headers: Headers,
    /// When the broker accepted it.
    pub created: Timestamp,
    /// From this moment on it is never delivered; `None`: it lives until purged.
    pub expires: Option<Timestamp>,
    /// The publisher's id, for deduplication.
    pub message_id: Option<MessageId>,
    /// Store only if this is the subject's last sequence at that moment.
    pub expected_last: Option<u64>,
    /// Becomes a message at this time, not before.
    pub deliver_at: Option<Timestamp>,
    /// The upload that brought it: it becomes a message once.
    pub upload: Option<UploadId>,
    /// Where its data is, if it is stored already: `data` is then empty.
    pub uploaded: Option<Uploaded>,
}

impl Draft {
    /// Bytes of its data, wherever they are.
    pub fn size(&self) -> u64 {
        self.uploaded.as_ref().map_or(self.data.len() as u64, |uploaded| uploaded.size)
    }
}

/// Data that was stored as an object before its message exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// The object's number.
    pub object: u64,
    /// The epoch of the upload in which it was filled: whoever continues the upload begins another.
    pub epoch: u64,
    /// Bytes of data.
    pub size: u64,
    /// SHA-256 of the data.
    pub sha256: [u8; 32],
    /// CRC-32 of each part of [`part_bytes`](crate::block::object::part_bytes).
    pub part_crcs: Vec<u32>,
}

/// Where a stored message ended up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its sequence in the subject, or the sequence of the first message with the same id; 0 while it waits for its
    /// time.
    pub sequence: u64,
    /// True if the message id was seen before within the dedup window: nothing was stored.
    pub duplicate: bool,
    /// The object that holds it, for large messages.
    pub object: Option<String>,
}

impl Published {
    /// True if the message waits for its time, and has no sequence.
    pub fn is_scheduled(&self) -> bool {
        self.sequence == 0
    }
}
