//! What the functions answer, and the rows in it.

use std::{fmt, marker::PhantomData};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, SeqAccess, Visitor},
};
use serde_bytes::ByteBuf;

use crate::{
    block::{Block, Located, PayloadKey, Placement},
    error::{Error, Result},
    store::{Ack, Garbage, PayloadRow, Saved, SubjectRow, Upload, UploadState, Writer},
    types::{DurableName, Subject, Timestamp, UploadId},
};

/// The answer of a function: a word, and what it stands for.
pub(super) enum Answer<T> {
    Given(T),
    Refused { kind: String, message: String },
}

impl<T: DeserializeOwned> Answer<T> {
    /// Reads a reply; `None` if it is something else.
    pub(super) fn read(reply: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(reply).ok()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Answer<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Words(PhantomData))
    }
}

struct Words<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Words<T> {
    type Value = Answer<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a word and an answer")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut words: A) -> Result<Self::Value, A::Error> {
        let missing = || de::Error::invalid_length(0, &"a word and an answer");
        let word: String = words.next_element()?.ok_or_else(missing)?;
        if word == "ok" {
            return Ok(Answer::Given(words.next_element()?.ok_or_else(missing)?));
        }
        let message = words.next_element()?.ok_or_else(missing)?;
        Ok(Answer::Refused { kind: word, message })
    }
}

/// What an instance is.
#[derive(Debug, Deserialize)]
pub(super) struct Status {
    /// The version of its functions: the one that was asked for, if they serve it.
    pub(super) interface: u64,
    pub(super) is_read_only: bool,
    pub(super) term: u64,
    /// From how many others it replicates no more.
    pub(super) stopped: u64,
    /// Whether its memory is too dear for rows with much data in them.
    pub(super) is_scarce: bool,
}

#[derive(Deserialize)]
pub(super) struct Books {
    subject: String,
    last: u64,
    floor: u64,
    expired: u64,
    purged: u64,
    bytes: u64,
    updated: u64,
}

impl Books {
    pub(super) fn read(self) -> Result<SubjectRow> {
        let Self { last, floor, expired, purged, bytes, updated, .. } = self;
        let subject = read_subject(&self.subject)?;
        Ok(SubjectRow { subject, last, floor, expired, purged, bytes, updated: Timestamp(updated) })
    }
}

#[derive(Deserialize)]
pub(super) struct BlockRow {
    subject: String,
    first: u64,
    stream_first: u64,
    count: u32,
    created: u64,
    expires: u64,
    crc: u32,
    _bytes: u64,
    _read_bytes: u64,
    _payload: u64,
    placement: ByteBuf,
}

impl BlockRow {
    /// The block, or what it would be but for its placement.
    fn decode(self) -> (String, Result<Block, Block>) {
        let Self { subject, first, stream_first, count, created, expires, crc, placement, .. } = self;
        let placement = Placement::decode(Bytes::from(placement.into_vec()));
        let is_readable = placement.is_some();
        let block = Block {
            first,
            stream_first,
            count,
            created: Timestamp(created),
            expires: (expires != 0).then_some(Timestamp(expires)),
            // A body that does not fit its checksum is refused, and does not stop those behind it.
            crc: if is_readable { crc } else { u32::MAX },
            placement: placement.unwrap_or(Placement::Inline(Bytes::new())),
        };
        (subject, if is_readable { Ok(block) } else { Err(block) })
    }

    pub(super) fn read(self) -> Result<Block> {
        let (subject, block) = self.decode();
        block.map_err(|block| unreadable("blocks", format_args!("{subject} {}", block.first)))
    }

    pub(super) fn read_with_subject(self) -> Result<(Subject, Block)> {
        let subject = read_subject(&self.subject)?;
        Ok((subject, self.read()?))
    }
}

/// A block with its subject's floor.
#[derive(Deserialize)]
pub(super) struct Found {
    floor: u64,
    row: BlockRow,
}

impl Found {
    pub(super) fn read(self) -> Result<Located> {
        let (subject, block) = self.row.decode();
        let block = block.unwrap_or_else(|damaged| damaged);
        Ok(Located { subject: read_subject(&subject)?, floor: self.floor, block })
    }
}

#[derive(Deserialize)]
pub(super) struct PositionRow(String, String, u64);

impl PositionRow {
    pub(super) fn read(self) -> Result<Ack> {
        let durable = DurableName::parse("durable_name", &self.0);
        let durable = durable.map_err(|_| unreadable("positions", format_args!("{}", self.0)))?;
        Ok(Ack { durable, subject: read_subject(&self.1)?, sequence: self.2 })
    }
}

#[derive(Deserialize)]
pub(super) struct PayloadTuple {
    number: u64,
    kind: u8,
    writer: u8,
    alive: u64,
    len: u64,
}

impl PayloadTuple {
    pub(super) fn read(self) -> Result<PayloadRow> {
        let writer = match self.writer {
            0 => Writer::Nobody,
            1 => Writer::Commits,
            2 => Writer::Upload,
            _ => return Err(unreadable("payloads", format_args!("{}", self.number))),
        };
        Ok(PayloadRow { key: read_key(self.kind, self.number)?, alive: self.alive, len: self.len, writer })
    }
}

#[derive(Deserialize)]
pub(super) struct GarbageRow {
    since: u64,
    number: u64,
    kind: u8,
}

impl GarbageRow {
    pub(super) fn read(self) -> Result<Garbage> {
        Ok(Garbage { key: read_key(self.kind, self.number)?, since: Timestamp(self.since) })
    }
}

#[derive(Deserialize)]
pub(super) struct UploadRow {
    id: String,
    deadline: u64,
    state: u8,
    object: u64,
    epoch: u64,
    header: ByteBuf,
    offset: u64,
    tally: ByteBuf,
    receipt: ByteBuf,
    subject: String,
    sequence: u64,
    size: u64,
    sha256: ByteBuf,
}

impl UploadRow {
    pub(super) fn read(self) -> Result<Upload> {
        let broken = || unreadable("uploads", format_args!("{}", self.id));
        let id = UploadId::parse("upload_id", &self.id).map_err(|_| broken())?;
        let state = match self.state {
            0 => {
                let bytes = |field: ByteBuf| Bytes::from(field.into_vec());
                let saved = Saved { offset: self.offset, tally: bytes(self.tally), receipt: bytes(self.receipt) };
                UploadState::Open { object: self.object, epoch: self.epoch, header: bytes(self.header), saved }
            }
            1 => {
                let sha256 = self.sha256.as_slice().try_into().map_err(|_| broken())?;
                let subject = read_subject(&self.subject)?;
                UploadState::Done { subject, sequence: self.sequence, size: self.size, sha256 }
            }
            _ => return Err(broken()),
        };
        Ok(Upload { id, state, deadline: Timestamp(self.deadline) })
    }
}

pub(super) fn read_subject(name: &str) -> Result<Subject> {
    Subject::parse("subject", name).map_err(|_| unreadable("subjects", format_args!("{name}")))
}

fn read_key(kind: u8, number: u64) -> Result<PayloadKey> {
    match kind {
        0 => Ok(PayloadKey::Segment(number)),
        1 => Ok(PayloadKey::Object(number)),
        _ => Err(unreadable("payloads", format_args!("{number}"))),
    }
}

/// The writer of a payload, as in payload.lua.
pub(super) fn writer(writer: Writer) -> u8 {
    match writer {
        Writer::Nobody => 0,
        Writer::Commits => 1,
        Writer::Upload => 2,
    }
}

/// A row that this version cannot read.
pub(super) fn unreadable(space: &str, key: fmt::Arguments<'_>) -> Error {
    Error::DataLoss(format!(
        "the row '{key}' of space 'mts_{space}' is damaged: run 'minitoolstream check' and restore from a backup"
    ))
}
