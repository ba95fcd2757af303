//! Dead letters: messages that a consumer gave up, under another subject and by reference.
//!
//! The data of a slice or an object is not copied: the letter's row refers to the same bytes and counts as alive in their
//! payload. What lives in a row is at most [`INLINE_MAX`](super::INLINE_MAX) and goes along.

use bytes::Bytes;

use super::{
    Block, Placement,
    record::{self, Record},
};
use crate::types::{Headers, Timestamp};

/// Prefix of headers that the broker gives.
const BROKER: &str = "Mts-";
/// Header: the subject that the message came from.
pub const ORIGINAL_SUBJECT: &str = "Mts-Original-Subject";
/// Header: its sequence there.
pub const ORIGINAL_SEQUENCE: &str = "Mts-Original-Sequence";
/// Header: when it was accepted there, as RFC 3339.
pub const ORIGINAL_TIME: &str = "Mts-Original-Time";
/// Header: why it was given up.
pub const REASON: &str = "Mts-Reason";
/// The reason of what cannot be read.
pub const DATA_LOSS: &str = "data-loss";
/// Header: more about the reason.
pub const DETAIL: &str = "Mts-Detail";
/// Header: how often it was delivered.
pub const ATTEMPTS: &str = "Mts-Attempts";
/// Header: the consumer that gave it up.
pub const CONSUMER: &str = "Mts-Consumer";

/// A block of one message that refers to another block's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Where it is.
    pub placement: Placement,
    /// CRC-32 of what its row holds.
    pub crc: u32,
}

/// Refers to record `index` of a block, with the broker's `headers` before its own. `None`: the record in the row is
/// damaged.
pub fn refer(
    block: &Block,
    index: u32,
    mut headers: Headers,
    now: Timestamp,
    expires: Option<Timestamp>,
) -> Option<Reference> {
    Some(match &block.placement {
        Placement::Inline(body) => {
            let record = one(body, block.crc, index)?;
            keep_origin(&mut headers, &record);
            let (original, data) = split(record);
            headers.extend(original);
            inline(&Record { created: now, expires, headers, data })
        }
        Placement::Slice { segment, offset, len } => {
            let record = encode(headers, now, expires);
            Reference {
                crc: crc32fast::hash(&record),
                placement: Placement::Shared {
                    segment: *segment,
                    offset: *offset,
                    len: *len,
                    body_crc: block.crc,
                    index,
                    record,
                },
            }
        }
        Placement::Object { record, .. } | Placement::Shared { record, .. } => {
            let record = one(record, block.crc, 0)?;
            keep_origin(&mut headers, &record);
            headers.extend(split(record).0);
            with_record(&block.placement, encode(headers, now, expires))
        }
    })
}

/// A letter about a letter tells where the message came from at first, so that it can be brought back there.
fn keep_origin(headers: &mut Headers, record: &Record) {
    for name in [ORIGINAL_SUBJECT, ORIGINAL_SEQUENCE, ORIGINAL_TIME] {
        if let Some(origin) = record.headers.iter().find(|(known, _)| known == name)
            && let Some(header) = headers.iter_mut().find(|(known, _)| known == name)
        {
            header.1.clone_from(&origin.1);
        }
    }
}

/// A letter without data, for what cannot be read.
pub fn empty(headers: Headers, now: Timestamp, expires: Option<Timestamp>) -> Reference {
    inline(&Record { created: now, expires, headers, data: Bytes::new() })
}

/// The message of a dead letter as it was, to be stored anew. `None` if the block holds no dead letter, a damaged one, or
/// one that only reports what was lost: an empty message never takes the place of one that had data (P7).
pub fn restore(block: &Block, now: Timestamp, expires: Option<Timestamp>) -> Option<Reference> {
    let row = match &block.placement {
        Placement::Inline(body) if block.count == 1 => body,
        Placement::Object { record, .. } | Placement::Shared { record, .. } => record,
        Placement::Inline(_) | Placement::Slice { .. } => return None,
    };
    let record = one(row, block.crc, 0)?;
    let is_lost = |name: &str, value: &str| name == REASON && value == DATA_LOSS;
    if !record.headers.iter().any(|(name, _)| name == ORIGINAL_SUBJECT)
        || record.headers.iter().any(|(name, value)| is_lost(name, value))
    {
        return None;
    }
    let (headers, data) = split(record);
    Some(match &block.placement {
        Placement::Inline(_) => inline(&Record { created: now, expires, headers, data }),
        other => with_record(other, encode(headers, now, expires)),
    })
}

/// Record `index` of the bytes in a row, if their checksum holds.
fn one(bytes: &Bytes, crc: u32, index: u32) -> Option<Record> {
    if crc32fast::hash(bytes) != crc {
        return None;
    }
    let mut records = record::decode(bytes.clone());
    records.skip_records(index.into()).ok()?;
    records.next()?.ok()
}

/// The publisher's headers, and the data.
fn split(record: Record) -> (Headers, Bytes) {
    let headers = record.headers.into_iter().filter(|(name, _)| !name.starts_with(BROKER)).collect();
    (headers, record.data)
}

fn encode(headers: Headers, created: Timestamp, expires: Option<Timestamp>) -> Bytes {
    record::encode_record(&Record { created, expires, headers, data: Bytes::new() })
}

fn inline(record: &Record) -> Reference {
    let body = record::encode_record(record);
    Reference { crc: crc32fast::hash(&body), placement: Placement::Inline(body) }
}

fn with_record(placement: &Placement, new: Bytes) -> Reference {
    let crc = crc32fast::hash(&new);
    let mut placement = placement.clone();
    if let Placement::Object { record, .. } | Placement::Shared { record, .. } = &mut placement {
        *record = new;
    }
    Reference { placement, crc }
}
