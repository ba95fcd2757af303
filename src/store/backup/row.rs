//! The rows of a backup, and their bytes. Integers are little-endian.
//!
//! ```text
//! kind 1 subject:   name str | last | floor | expired | purged | bytes | updated                  u64 each
//! kind 2 block:     subject str | first u64 | block row, see docs/storage-format.md
//! kind 3 id:        subject str | message id str | sequence u64 | deadline u64
//! kind 4 position:  durable str | subject str | sequence u64
//! kind 5 payload:   0 segment, 1 object u8 | number u64 | alive u64 | len u64
//! kind 6 scheduled: due u64 | stream first u64 | subject str
//! kind 7 consumer:  name str | len u32 | settings JSON | cursor row
//! kind 8 pending:   consumer str | page u64 | pending row
//! kind 9 upload:    upload id str | deadline u64 | sequence u64 | size u64 | sha256 32 | subject str
//! str: len u16 | bytes
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{
    block::{Block, PayloadKey},
    store::{Ack, PayloadRow, SubjectRow, Upload, UploadState},
    types::{ConsumerName, DurableName, MessageId, Subject, Timestamp, UploadId},
};

/// How far a store had come: what it gives next. Numbers before it are given, and never again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The next stream sequence.
    pub next_stream: u64,
    /// The number of the next segment or object.
    pub next_payload: u64,
}

/// One row of either kind of store.
#[derive(Clone, Debug)]
pub enum Row {
    /// The books of a subject.
    Subject(SubjectRow),
    /// A block and, if it is inline, its messages.
    Block {
        /// Whose it is.
        subject: Subject,
        /// The block.
        block: Block,
    },
    /// A message id inside its window.
    Id {
        /// Of a message of this subject.
        subject: Subject,
        /// The id.
        id: MessageId,
        /// The sequence that the message got.
        sequence: u64,
        /// When it is forgotten.
        deadline: Timestamp,
    },
    /// A position.
    Position(Ack),
    /// A segment or object that blocks live in.
    Payload {
        /// Its key.
        key: PayloadKey,
        /// So many blocks.
        alive: u64,
        /// Bytes.
        len: u64,
    },
    /// When a block of `$scheduled` goes where.
    Scheduled {
        /// When.
        due: Timestamp,
        /// The block's place in the stream.
        stream_first: u64,
        /// Where.
        subject: Subject,
    },
    /// A durable consumer.
    Consumer {
        /// Its name.
        name: ConsumerName,
        /// Its settings as JSON.
        settings: Bytes,
        /// Its cursor row.
        cursor: Bytes,
    },
    /// A page of what a consumer has out.
    Pending {
        /// Its name.
        consumer: ConsumerName,
        /// Which page.
        page: u64,
        /// The row.
        row: Bytes,
    },
    /// An upload that became a message.
    Upload {
        /// Its name.
        id: UploadId,
        /// When it is forgotten.
        deadline: Timestamp,
        /// Whose message it is.
        subject: Subject,
        /// Its sequence; 0 while it waits for its time.
        sequence: u64,
        /// Bytes of data.
        size: u64,
        /// SHA-256 of the data.
        sha256: [u8; 32],
    },
}

impl Row {
    /// The row of a payload that blocks live in; what is open and empty, or being uploaded, is no part of a backup.
    pub fn of_payload(row: &PayloadRow) -> Option<Self> {
        (row.alive > 0).then_some(Self::Payload { key: row.key, alive: row.alive, len: row.len })
    }

    /// The row of an upload that became a message; one under way is no part of a backup.
    pub fn of_upload(upload: Upload) -> Option<Self> {
        let Upload { id, state, deadline } = upload;
        match state {
            UploadState::Open { .. } => None,
            UploadState::Done { subject, sequence, size, sha256 } => {
                Some(Self::Upload { id, deadline, subject, sequence, size, sha256 })
            }
        }
    }

    /// A number for the kind of row.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Subject(_) => 1,
            Self::Block { .. } => 2,
            Self::Id { .. } => 3,
            Self::Position(_) => 4,
            Self::Payload { .. } => 5,
            Self::Scheduled { .. } => 6,
            Self::Consumer { .. } => 7,
            Self::Pending { .. } => 8,
            Self::Upload { .. } => 9,
        }
    }

    /// Writes kind and fields.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.kind());
        match self {
            Self::Subject(row) => {
                let SubjectRow { subject, last, floor, expired, purged, bytes, updated } = row;
                put_str(out, subject.as_str());
                for field in [*last, *floor, *expired, *purged, *bytes, updated.0] {
                    out.put_u64_le(field);
                }
            }
            Self::Block { subject, block } => {
                put_str(out, subject.as_str());
                out.put_u64_le(block.first);
                out.put_slice(&block.encode());
            }
            Self::Id { subject, id, sequence, deadline } => {
                put_str(out, subject.as_str());
                put_str(out, id.as_str());
                out.put_u64_le(*sequence);
                out.put_u64_le(deadline.0);
            }
            Self::Position(Ack { durable, subject, sequence }) => {
                put_str(out, durable.as_str());
                put_str(out, subject.as_str());
                out.put_u64_le(*sequence);
            }
            Self::Payload { key, alive, len } => {
                out.put_u8(matches!(key, PayloadKey::Object(_)).into());
                for field in [key.number(), *alive, *len] {
                    out.put_u64_le(field);
                }
            }
            Self::Scheduled { due, stream_first, subject } => {
                out.put_u64_le(due.0);
                out.put_u64_le(*stream_first);
                put_str(out, subject.as_str());
            }
            Self::Consumer { name, settings, cursor } => {
                put_str(out, name.as_str());
                out.put_u32_le(u32::try_from(settings.len()).unwrap_or(u32::MAX));
                out.put_slice(settings);
                out.put_slice(cursor);
            }
            Self::Pending { consumer, page, row } => {
                put_str(out, consumer.as_str());
                out.put_u64_le(*page);
                out.put_slice(row);
            }
            Self::Upload { id, deadline, subject, sequence, size, sha256 } => {
                put_str(out, id.as_str());
                for field in [deadline.0, *sequence, *size] {
                    out.put_u64_le(field);
                }
                out.put_slice(sha256);
                put_str(out, subject.as_str());
            }
        }
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` if the bytes are something else.
    pub fn decode(mut bytes: Bytes) -> Option<Self> {
        let from = &mut bytes;
        let kind = from.try_get_u8().ok()?;
        let row = match kind {
            1 => {
                let subject = get_subject(from)?;
                let mut field = || from.try_get_u64_le().ok();
                let (last, floor, expired) = (field()?, field()?, field()?);
                let (purged, bytes, updated) = (field()?, field()?, Timestamp(field()?));
                Self::Subject(SubjectRow { subject, last, floor, expired, purged, bytes, updated })
            }
            2 => {
                let (subject, first) = (get_subject(from)?, from.try_get_u64_le().ok()?);
                let block = Block::decode(first, std::mem::take(from))?;
                Self::Block { subject, block }
            }
            3 => {
                let (subject, id) = (get_subject(from)?, MessageId::parse("message_id", &get_str(from)?).ok()?);
                let (sequence, deadline) = (from.try_get_u64_le().ok()?, Timestamp(from.try_get_u64_le().ok()?));
                Self::Id { subject, id, sequence, deadline }
            }
            4 => {
                let durable = DurableName::parse("durable_name", &get_str(from)?).ok()?;
                let (subject, sequence) = (get_subject(from)?, from.try_get_u64_le().ok()?);
                Self::Position(Ack { durable, subject, sequence })
            }
            5 => {
                let kind: fn(u64) -> PayloadKey = match from.try_get_u8().ok()? {
                    0 => PayloadKey::Segment,
                    1 => PayloadKey::Object,
                    _ => return None,
                };
                let mut field = || from.try_get_u64_le().ok();
                Self::Payload { key: kind(field()?), alive: field()?, len: field()? }
            }
            6 => {
                let (due, stream_first) = (Timestamp(from.try_get_u64_le().ok()?), from.try_get_u64_le().ok()?);
                Self::Scheduled { due, stream_first, subject: get_subject(from)? }
            }
            7 => {
                let name = get_consumer(from)?;
                let len = usize::try_from(from.try_get_u32_le().ok()?).ok()?;
                let settings = (len <= from.len()).then(|| from.split_to(len))?;
                Self::Consumer { name, settings, cursor: std::mem::take(from) }
            }
            8 => {
                let (consumer, page) = (get_consumer(from)?, from.try_get_u64_le().ok()?);
                Self::Pending { consumer, page, row: std::mem::take(from) }
            }
            9 => {
                let id = UploadId::parse("upload_id", &get_str(from)?).ok()?;
                let mut field = || from.try_get_u64_le().ok();
                let (deadline, sequence, size) = (Timestamp(field()?), field()?, field()?);
                let mut sha256 = [0; 32];
                from.try_copy_to_slice(&mut sha256).ok()?;
                Self::Upload { id, deadline, subject: get_subject(from)?, sequence, size, sha256 }
            }
            _ => return None,
        };
        bytes.is_empty().then_some(row)
    }
}

fn put_str(out: &mut BytesMut, text: &str) {
    // Names have at most 255 bytes.
    out.put_u16_le(u16::try_from(text.len()).unwrap_or(u16::MAX));
    out.put_slice(text.as_bytes());
}

fn get_str(from: &mut Bytes) -> Option<String> {
    let len = usize::from(from.try_get_u16_le().ok()?);
    let text = (len <= from.len()).then(|| from.split_to(len))?;
    String::from_utf8(text.into()).ok()
}

fn get_subject(from: &mut Bytes) -> Option<Subject> {
    Subject::parse("subject", &get_str(from)?).ok()
}

fn get_consumer(from: &mut Bytes) -> Option<ConsumerName> {
    ConsumerName::parse("name", &get_str(from)?).ok()
}
