//! What the functions are given. The order of the fields is that of the named positions in `tarantool/mts`.

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde_bytes::ByteBuf;

use crate::{
    block::{
        Block, PayloadKey, Placement,
        batch::{NewBlock, Source},
        letter::Reference,
    },
    consumer::{Letter, Posted},
    store::Group,
    types::{Subject, Timestamp},
};

/// The largest number that is exact in Lua: limits beyond it are no limits.
const EXACT_MAX: u64 = 1 << 53;

/// A limit, as Lua can compare it.
pub(super) fn limit(limit: impl TryInto<u64>) -> u64 {
    limit.try_into().unwrap_or(EXACT_MAX).min(EXACT_MAX)
}

/// Arguments as they go over the wire. Numbers, names and lists of them can always be written.
pub(super) fn written(arguments: &impl Serialize) -> ByteBuf {
    ByteBuf::from(rmp_serde::to_vec(arguments).unwrap_or_default())
}

/// The kind of a payload, as in payload.lua.
pub(super) fn kind(key: PayloadKey) -> u8 {
    match key {
        PayloadKey::Segment(_) => 0,
        PayloadKey::Object(_) => 1,
    }
}

/// A block that has no sequence yet: see `NEW` in block.lua.
#[derive(Serialize)]
pub(super) struct BlockOut {
    subject: String,
    count: u32,
    created: u64,
    expires: u64,
    crc: u32,
    bytes: u64,
    read_bytes: u64,
    payload: u64,
    /// See `payload.USE`.
    payload_use: u8,
    len: u64,
    placement: ByteBuf,
    deliver_at: u64,
    stored: Option<u64>,
    epoch: u64,
    guards: Vec<GuardOut>,
}

/// See `GUARD` in guard.lua.
#[derive(Serialize)]
struct GuardOut {
    record: usize,
    message_id: Option<String>,
    expected_last: Option<u64>,
    upload: Option<String>,
    size: u64,
    sha256: ByteBuf,
}

/// See `LETTER` in letter.lua.
#[derive(Serialize)]
pub(super) struct LetterOut {
    subject: String,
    first: u64,
    sequence: u64,
    new: BlockOut,
    fallback: BlockOut,
}

impl BlockOut {
    fn of(subject: &Subject, block: &Block) -> Self {
        let (payload_use, len) = match block.placement {
            Placement::Slice { offset, len, .. } => (1, offset + len),
            Placement::Object { size, .. } => (2, size),
            Placement::Inline(_) | Placement::Shared { .. } => (0, 0),
        };
        Self {
            subject: subject.to_string(),
            count: block.count,
            created: block.created.0,
            expires: block.expires.map_or(0, |at| at.0),
            crc: block.crc,
            bytes: block.bytes(),
            read_bytes: block.read_bytes(),
            payload: block.payload().map_or(0, PayloadKey::number),
            payload_use,
            len,
            placement: encode(&block.placement),
            deliver_at: 0,
            stored: None,
            epoch: 0,
            guards: Vec::new(),
        }
    }

    /// A block of one message that refers to what is stored.
    pub(super) fn reference(to: &Subject, reference: Reference, now: Timestamp, expires: Option<Timestamp>) -> Self {
        let Reference { placement, crc } = reference;
        Self::of(to, &Block { first: 0, stream_first: 0, count: 1, created: now, expires, crc, placement })
    }
}

/// The blocks of a group.
pub(super) fn blocks(group: &Group) -> Vec<BlockOut> {
    let blocks = group.blocks.iter().zip(&group.placements);
    blocks.map(|(new, placement)| block(new, placement.clone())).collect()
}

fn block(new: &NewBlock, placement: Placement) -> BlockOut {
    let block = Block {
        first: 0,
        stream_first: 0,
        count: u32::try_from(new.drafts.len()).unwrap_or(u32::MAX),
        created: new.created,
        expires: new.expires,
        crc: new.crc,
        placement,
    };
    let (stored, epoch) = match new.object.as_ref().map(|object| &object.source) {
        Some(Source::Stored { object, epoch }) => (Some(*object), *epoch),
        Some(Source::Data(_)) | None => (None, 0),
    };
    let guards = new.guards.iter().map(|guard| {
        let (size, sha256) = match &guard.upload {
            Some(_) => new.digest(guard.record),
            None => (0, [0; 32]),
        };
        GuardOut {
            record: guard.record,
            message_id: guard.message_id.as_ref().map(ToString::to_string),
            expected_last: guard.expected_last,
            upload: guard.upload.as_ref().map(ToString::to_string),
            size,
            sha256: ByteBuf::from(if guard.upload.is_some() { sha256.to_vec() } else { Vec::new() }),
        }
    });
    BlockOut {
        deliver_at: new.deliver_at.map_or(0, |at| at.0),
        stored,
        epoch,
        guards: guards.collect(),
        ..BlockOut::of(&new.subject, &block)
    }
}

/// A dead letter, as it is stored.
pub(super) fn letter(letter: &Letter, posted: Posted, now: Timestamp) -> LetterOut {
    let Posted { to, expires, reference, report } = posted;
    LetterOut {
        subject: letter.located.subject.to_string(),
        first: letter.located.block.first,
        sequence: letter.located.sequence_at(letter.at),
        new: BlockOut::reference(&to, reference.unwrap_or_else(|| report.clone()), now, expires),
        fallback: BlockOut::reference(&to, report, now, expires),
    }
}

/// Where a block's bytes are, as its row says.
pub(super) fn encode(placement: &Placement) -> ByteBuf {
    let mut out = BytesMut::new();
    placement.encode(&mut out);
    ByteBuf::from(Vec::from(Bytes::from(out)))
}
