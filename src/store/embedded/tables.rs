//! The tables of the metadata database and the bytes of their keys and values. Integers are big-endian in keys, so that
//! they sort, and little-endian in values.
//!
//! | table | key | value |
//! |---|---|---|
//! | subjects | subject | last, floor, expired, purged, bytes, updated: u64 each |
//! | blocks | subject 0x00 first | [`Block`](crate::block::Block) |
//! | expiry | expires subject 0x00 first | – |
//! | ids | subject 0x00 message id | sequence, deadline: u64 each |
//! | id_deadlines | deadline subject 0x00 message id | – |
//! | positions | durable 0x00 subject | sequence u64 |
//! | payloads | number | kind u8, writer u8 (0 nobody, 1 commits, 2 upload), alive u64, len u64 |
//! | garbage | since number | kind u8 |
//! | facts | name | u64; `round`: number u64, secret 16 |
//! | stream | stream first | count u32, first u64, subject |
//! | consumers | name | settings as JSON ([`Settings`](crate::consumer::Settings)) |
//! | cursors | name | [cursor and counts](crate::consumer::row) |
//! | pending | name 0x00 page | [entries](crate::consumer::row) |
//! | schedule | due stream first | subject |
//! | uploads | upload id | [`Upload`](crate::store::Upload) (uploads.rs) |
//! | upload_deadlines | deadline upload id | – |

use std::path::Path;

use bytes::{Buf, BufMut};

use crate::{
    block::PayloadKey,
    error::{Error, Result},
    store::{Garbage, PayloadRow, SubjectRow, Writer},
    types::{ConsumerName, DurableName, MessageId, Subject, Timestamp},
};

/// A table of byte keys and byte values.
pub(super) type Table = redb::TableDefinition<'static, &'static [u8], &'static [u8]>;

pub(super) const SUBJECTS: Table = Table::new("subjects");
pub(super) const BLOCKS: Table = Table::new("blocks");
pub(super) const EXPIRY: Table = Table::new("expiry");
pub(super) const IDS: Table = Table::new("ids");
pub(super) const ID_DEADLINES: Table = Table::new("id_deadlines");
pub(super) const POSITIONS: Table = Table::new("positions");
pub(super) const PAYLOADS: Table = Table::new("payloads");
pub(super) const GARBAGE: Table = Table::new("garbage");
pub(super) const FACTS: Table = Table::new("facts");
pub(super) const STREAM: Table = Table::new("stream");
pub(super) const CONSUMERS: Table = Table::new("consumers");
pub(super) const CURSORS: Table = Table::new("cursors");
pub(super) const PENDING: Table = Table::new("pending");
pub(super) const SCHEDULE: Table = Table::new("schedule");
pub(super) const UPLOADS: Table = Table::new("uploads");
pub(super) const UPLOAD_DEADLINES: Table = Table::new("upload_deadlines");

/// All tables, in the order of their numbers in the journal: new ones at the end.
pub(super) const TABLES: [Table; 16] = [
    SUBJECTS,
    BLOCKS,
    EXPIRY,
    IDS,
    ID_DEADLINES,
    POSITIONS,
    PAYLOADS,
    GARBAGE,
    FACTS,
    STREAM,
    CONSUMERS,
    CURSORS,
    PENDING,
    SCHEDULE,
    UPLOADS,
    UPLOAD_DEADLINES,
];

/// Fact: the format of this database.
pub(super) const FACT_FORMAT: &[u8] = b"format";
/// Fact: the number of the last journal frame that the database has.
pub(super) const FACT_APPLIED: &[u8] = b"applied";
/// Fact: the number of the next segment or object.
pub(super) const FACT_NEXT_PAYLOAD: &[u8] = b"next_payload";

/// Fact: how many uploads are open.
pub(super) const FACT_OPEN_UPLOADS: &[u8] = b"open_uploads";

/// Fact: the number of the backup that is being restored, if one is.
pub(super) const FACT_RESTORING: &[u8] = b"restoring";

/// Fact: the next stream sequence.
pub(super) const FACT_NEXT_STREAM: &[u8] = b"next_stream";

/// Fact: the round that the journal is in ([`Round`](super::frame::Round)).
pub(super) const FACT_ROUND: &[u8] = b"round";

/// Fact: blocks lack their order over all subjects, which a directory of format 1 did not have.
pub(super) const FACT_UNORDERED: &[u8] = b"unordered";

/// The format written by this version: 1 had no order over all subjects, 2 no uploads, 3 no rounds of the journal.
pub(super) const FORMAT: u64 = 4;
/// The format before blocks had an order over all subjects.
pub(super) const FORMAT_WITHOUT_ORDER: u64 = 1;

/// A directory in a format that this version does not know.
pub(super) fn unknown_format(dir: &Path, format: u64) -> Error {
    Error::unavailable(format!(
        "'{}' has format {format}, and this version reads formats up to {FORMAT}: use the version that wrote it, or restore \
         a backup into an empty directory",
        dir.display()
    ))
}

const SEPARATOR: u8 = 0;

/// Parts joined by a byte that no name holds.
fn joined(first: &[u8], second: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(first.len() + 1 + second.len());
    key.extend_from_slice(first);
    key.push(SEPARATOR);
    key.extend_from_slice(second);
    key
}

pub(super) fn block_key(subject: &Subject, first: u64) -> Vec<u8> {
    joined(subject.as_str().as_bytes(), &first.to_be_bytes())
}

pub(super) fn id_key(subject: &Subject, id: &MessageId) -> Vec<u8> {
    joined(subject.as_str().as_bytes(), id.as_str().as_bytes())
}

pub(super) fn position_key(durable: &DurableName, subject: &Subject) -> Vec<u8> {
    joined(durable.as_str().as_bytes(), subject.as_str().as_bytes())
}

/// A key that sorts by time first.
pub(super) fn timed_key(at: Timestamp, key: &[u8]) -> Vec<u8> {
    let mut timed = Vec::with_capacity(8 + key.len());
    timed.extend_from_slice(&at.0.to_be_bytes());
    timed.extend_from_slice(key);
    timed
}

pub(super) fn read_first(block_key: &[u8]) -> Result<u64> {
    let at = block_key.len().checked_sub(8).ok_or_else(|| unreadable("blocks", block_key))?;
    Ok((&block_key[at..]).get_u64())
}

/// Subject and first sequence of a block key.
pub(super) fn read_block_key(key: &[u8]) -> Result<(Subject, u64)> {
    let first = read_first(key)?;
    let name = key.len().checked_sub(9).and_then(|end| std::str::from_utf8(&key[..end]).ok());
    let name = name.ok_or_else(|| unreadable("blocks", key))?;
    Ok((read_subject(name.as_bytes())?, first))
}

pub(super) fn read_subject(key: &[u8]) -> Result<Subject> {
    std::str::from_utf8(key)
        .ok()
        .and_then(|name| Subject::parse("subject", name).ok())
        .ok_or_else(|| unreadable("subjects", key))
}

pub(super) fn read_position_key(key: &[u8]) -> Result<(DurableName, Subject)> {
    let (durable, subject) = read_joined("positions", key)?;
    let durable = std::str::from_utf8(durable).ok().and_then(|name| DurableName::parse("durable_name", name).ok());
    Ok((durable.ok_or_else(|| unreadable("positions", key))?, read_subject(subject)?))
}

/// Subject and message id of a key.
pub(super) fn read_id_key(key: &[u8]) -> Result<(Subject, MessageId)> {
    let (subject, id) = read_joined("ids", key)?;
    let id = std::str::from_utf8(id).ok().and_then(|id| MessageId::parse("message_id", id).ok());
    Ok((read_subject(subject)?, id.ok_or_else(|| unreadable("ids", key))?))
}

/// Consumer and page of a key.
pub(super) fn read_pending_key(key: &[u8]) -> Result<(ConsumerName, u64)> {
    let (consumer, page) = read_joined("pending", key)?;
    let page = page.try_into().map_err(|_| unreadable("pending", key))?;
    Ok((read_consumer_name(consumer)?, u64::from_be_bytes(page)))
}

/// Time and stream sequence of a key.
pub(super) fn read_schedule_key(key: &[u8]) -> Result<(Timestamp, u64)> {
    let (due, at) = key.split_at_checked(8).ok_or_else(|| unreadable("schedule", key))?;
    Ok((Timestamp(read_first(due)?), read_first(at)?))
}

/// The parts of a key that were [`joined`].
fn read_joined<'a>(table: &str, key: &'a [u8]) -> Result<(&'a [u8], &'a [u8])> {
    let at = key.iter().position(|byte| *byte == SEPARATOR).ok_or_else(|| unreadable(table, key))?;
    Ok((&key[..at], &key[at + 1..]))
}

/// What the stream table says of a block.
pub(super) struct StreamRow {
    pub(super) stream_first: u64,
    pub(super) count: u32,
    pub(super) subject: Subject,
    pub(super) first: u64,
}

pub(super) fn stream_value(subject: &Subject, first: u64, count: u32) -> Vec<u8> {
    let mut value = Vec::with_capacity(12 + subject.as_str().len());
    value.put_u32_le(count);
    value.put_u64_le(first);
    value.put_slice(subject.as_str().as_bytes());
    value
}

pub(super) fn read_stream_row(key: &[u8], mut value: &[u8]) -> Result<StreamRow> {
    if key.len() != 8 || value.len() < 13 {
        return Err(unreadable("stream", key));
    }
    let (count, first) = (value.get_u32_le(), value.get_u64_le());
    Ok(StreamRow { stream_first: { key }.get_u64(), count, subject: read_subject(value)?, first })
}

pub(super) fn pending_key(consumer: &ConsumerName, page: u64) -> Vec<u8> {
    joined(consumer.as_str().as_bytes(), &page.to_be_bytes())
}

pub(super) fn read_consumer_name(key: &[u8]) -> Result<ConsumerName> {
    std::str::from_utf8(key)
        .ok()
        .and_then(|name| ConsumerName::parse("name", name).ok())
        .ok_or_else(|| unreadable("consumers", key))
}

pub(super) fn subject_value(row: &SubjectRow) -> Vec<u8> {
    let mut value = Vec::with_capacity(48);
    for field in [row.last, row.floor, row.expired, row.purged, row.bytes, row.updated.0] {
        value.put_u64_le(field);
    }
    value
}

pub(super) fn read_subject_row(key: &[u8], mut value: &[u8]) -> Result<SubjectRow> {
    if value.len() != 48 {
        return Err(unreadable("subjects", key));
    }
    let mut field = || value.get_u64_le();
    let (last, floor, expired, purged, bytes, updated) = (field(), field(), field(), field(), field(), field());
    Ok(SubjectRow { subject: read_subject(key)?, last, floor, expired, purged, bytes, updated: Timestamp(updated) })
}

pub(super) fn pair_value(first: u64, second: u64) -> Vec<u8> {
    let mut value = Vec::with_capacity(16);
    value.put_u64_le(first);
    value.put_u64_le(second);
    value
}

pub(super) fn read_pair(table: &str, key: &[u8], mut value: &[u8]) -> Result<(u64, u64)> {
    if value.len() != 16 {
        return Err(unreadable(table, key));
    }
    Ok((value.get_u64_le(), value.get_u64_le()))
}

pub(super) fn read_u64(table: &str, key: &[u8], value: &[u8]) -> Result<u64> {
    value.try_into().map(u64::from_le_bytes).map_err(|_| unreadable(table, key))
}

pub(super) fn payload_value(row: &PayloadRow) -> Vec<u8> {
    let mut value = Vec::with_capacity(18);
    value.put_u8(kind(row.key));
    value.put_u8(match row.writer {
        Writer::Nobody => 0,
        Writer::Commits => 1,
        Writer::Upload => 2,
    });
    value.put_u64_le(row.alive);
    value.put_u64_le(row.len);
    value
}

pub(super) fn read_payload_row(key: &[u8], mut value: &[u8]) -> Result<PayloadRow> {
    if key.len() != 8 || value.len() != 18 {
        return Err(unreadable("payloads", key));
    }
    let unreadable = || unreadable("payloads", key);
    let number = { key }.get_u64();
    let payload = read_kind(value.get_u8(), number).ok_or_else(unreadable)?;
    let writer = match value.get_u8() {
        0 => Writer::Nobody,
        1 => Writer::Commits,
        2 => Writer::Upload,
        _ => return Err(unreadable()),
    };
    Ok(PayloadRow { key: payload, writer, alive: value.get_u64_le(), len: value.get_u64_le() })
}

pub(super) fn read_garbage(key: &[u8], value: &[u8]) -> Result<Garbage> {
    let unreadable = || unreadable("garbage", key);
    let (since, number) = key.split_at_checked(8).filter(|_| key.len() == 16).ok_or_else(unreadable)?;
    let payload = value.first().and_then(|kind| read_kind(*kind, { number }.get_u64())).ok_or_else(unreadable)?;
    Ok(Garbage { key: payload, since: Timestamp({ since }.get_u64()) })
}

pub(super) fn kind(key: PayloadKey) -> u8 {
    match key {
        PayloadKey::Segment(_) => 0,
        PayloadKey::Object(_) => 1,
    }
}

pub(super) fn read_kind(kind: u8, number: u64) -> Option<PayloadKey> {
    match kind {
        0 => Some(PayloadKey::Segment(number)),
        1 => Some(PayloadKey::Object(number)),
        _ => None,
    }
}

/// A row that this version cannot read.
pub(super) fn unreadable(table: &str, key: &[u8]) -> Error {
    Error::DataLoss(format!(
        "the row '{}' of table '{table}' is damaged: run 'minitoolstream check' and restore from a backup",
        key.escape_ascii()
    ))
}
