use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::types::Timestamp;

/// Names a thing in the payload store. Segments and objects share one row of numbers, and none is ever reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PayloadKey {
    /// A run of bytes that holds the bodies of many blocks.
    Segment(u64),
    /// The data of one large message.
    Object(u64),
}

impl PayloadKey {
    /// Its number, which no other segment or object has.
    pub fn number(self) -> u64 {
        match self {
            Self::Segment(number) | Self::Object(number) => number,
        }
    }
}

impl fmt::Display for PayloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(number) => write!(f, "segment-{number:016}"),
            Self::Object(number) => write!(f, "object-{number:016}"),
        }
    }
}

/// Where the body of a block lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// In the metadata row itself.
    Inline(Bytes),
    /// `len` bytes at `offset` of a segment.
    Slice {
        /// The segment.
        segment: u64,
        /// Offset of the body's first byte.
        offset: u64,
        /// Bytes of the body.
        len: u64,
    },
    /// One message whose data is an object of its own; the row keeps its record without data.
    Object {
        /// The object: raw data, nothing else.
        object: u64,
        /// Bytes of data.
        size: u64,
        /// SHA-256 of the data.
        sha256: [u8; 32],
        /// CRC-32 of each part of [`OBJECT_PART`](super::OBJECT_PART) bytes.
        part_crcs: Vec<u32>,
        /// The record: prefix and headers.
        record: Bytes,
    },
    /// One record of a slice that was stored for another block: a dead letter, or one on its way back.
    Shared {
        /// The segment.
        segment: u64,
        /// Offset of the other block's body.
        offset: u64,
        /// Bytes of that body.
        len: u64,
        /// CRC-32 of that body.
        body_crc: u32,
        /// Which of its records.
        index: u32,
        /// A record without data: its times are this message's, its headers come before those of the shared one.
        record: Bytes,
    },
}

impl Placement {
    /// Tag and fields, as in the row of a [`Block`].
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Inline(body) => {
                out.put_u8(0);
                out.put_slice(body);
            }
            Self::Slice { segment, offset, len } => {
                out.put_u8(1);
                out.put_u64_le(*segment);
                out.put_u64_le(*offset);
                out.put_u64_le(*len);
            }
            Self::Object { object, size, sha256, part_crcs, record } => {
                out.put_u8(2);
                out.put_u64_le(*object);
                out.put_u64_le(*size);
                out.put_slice(sha256);
                out.put_u32_le(u32::try_from(part_crcs.len()).unwrap_or(u32::MAX));
                for crc in part_crcs {
                    out.put_u32_le(*crc);
                }
                out.put_slice(record);
            }
            Self::Shared { segment, offset, len, body_crc, index, record } => {
                out.put_u8(3);
                out.put_u64_le(*segment);
                out.put_u64_le(*offset);
                out.put_u64_le(*len);
                out.put_u32_le(*body_crc);
                out.put_u32_le(*index);
                out.put_slice(record);
            }
        }
    }

    /// Reads tag and fields; `None` if they are not a placement known here.
    pub fn decode(mut row: Bytes) -> Option<Self> {
        Some(match row.try_get_u8().ok()? {
            0 => Self::Inline(row),
            1 if row.len() == 24 => {
                Self::Slice { segment: row.get_u64_le(), offset: row.get_u64_le(), len: row.get_u64_le() }
            }
            2 if row.len() >= 52 => {
                let (object, size) = (row.get_u64_le(), row.get_u64_le());
                let mut sha256 = [0; 32];
                row.copy_to_slice(&mut sha256);
                let parts = usize::try_from(row.get_u32_le()).ok()?;
                if row.len() / 4 < parts {
                    return None;
                }
                let part_crcs = (0..parts).map(|_| row.get_u32_le()).collect();
                Self::Object { object, size, sha256, part_crcs, record: row }
            }
            3 if row.len() >= 32 => Self::Shared {
                segment: row.get_u64_le(),
                offset: row.get_u64_le(),
                len: row.get_u64_le(),
                body_crc: row.get_u32_le(),
                index: row.get_u32_le(),
                record: row,
            },
            _ => return None,
        })
    }
}

/// A stored block: the value of a metadata row whose key is (subject, first sequence).
///
/// ```text
/// | version 2 u8 | count u32 | created u64 | expires u64, 0 = never | crc u32 | stream first u64 | tag u8 | placement |
/// tag 0 inline: body
/// tag 1 slice:  segment u64 | offset u64 | len u64
/// tag 2 object: object u64 | size u64 | sha256 32 | parts u32 | crc u32 per part | record
/// tag 3 shared: segment u64 | offset u64 | len u64 | body crc u32 | index u32 | record
/// ```
/// Version 1 had no stream sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Sequence of its first record.
    pub first: u64,
    /// Stream sequence of its first record: its place among the messages of all subjects. 0 in rows of version 1.
    pub stream_first: u64,
    /// Records in it.
    pub count: u32,
    /// When its newest record was accepted.
    pub created: Timestamp,
    /// When its last record expires; `None` if one never does.
    pub expires: Option<Timestamp>,
    /// CRC-32 (IEEE) of the body: of the record alone for objects and shared records.
    pub crc: u32,
    /// Where the body is.
    pub placement: Placement,
}

const VERSION: u8 = 2;
const VERSION_WITHOUT_ORDER: u8 = 1;
const FIXED: usize = 1 + 4 + 8 + 8 + 4 + 8 + 1;

impl Block {
    /// Sequence after its last record.
    pub fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// Stream sequence after that of its last record.
    pub fn stream_end(&self) -> u64 {
        self.stream_first + u64::from(self.count)
    }

    /// Bytes that it occupies, wherever they are. What a shared record shares is another block's.
    pub fn bytes(&self) -> u64 {
        match &self.placement {
            Placement::Inline(body) => body.len() as u64,
            Placement::Slice { len, .. } => *len,
            Placement::Object { size, record, .. } => size + record.len() as u64,
            Placement::Shared { record, .. } => record.len() as u64,
        }
    }

    /// Bytes that are read to have it: for a shared record, all of the body that it is in.
    pub fn read_bytes(&self) -> u64 {
        match &self.placement {
            Placement::Shared { len, record, .. } => len + record.len() as u64,
            Placement::Inline(_) | Placement::Slice { .. } | Placement::Object { .. } => self.bytes(),
        }
    }

    /// The segment or object that it lives in, if any.
    pub fn payload(&self) -> Option<PayloadKey> {
        match self.placement {
            Placement::Inline(_) => None,
            Placement::Slice { segment, .. } | Placement::Shared { segment, .. } => Some(PayloadKey::Segment(segment)),
            Placement::Object { object, .. } => Some(PayloadKey::Object(object)),
        }
    }

    /// The row's value.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(FIXED + 64 + usize::try_from(self.inline_len()).unwrap_or(0));
        out.put_u8(VERSION);
        out.put_u32_le(self.count);
        out.put_u64_le(self.created.0);
        out.put_u64_le(self.expires.map_or(0, |at| at.0));
        out.put_u32_le(self.crc);
        out.put_u64_le(self.stream_first);
        self.placement.encode(&mut out);
        out.freeze()
    }

    /// Reads a row's value; `None` if it is not a block of a version known here.
    pub fn decode(first: u64, mut row: Bytes) -> Option<Self> {
        let version = row.first().copied()?;
        let fixed = match version {
            VERSION => FIXED,
            VERSION_WITHOUT_ORDER => FIXED - 8,
            _ => return None,
        };
        if row.len() < fixed {
            return None;
        }
        row.advance(1);
        let count = row.get_u32_le();
        let created = Timestamp(row.get_u64_le());
        let expires = row.get_u64_le();
        let crc = row.get_u32_le();
        let stream_first = if version == VERSION { row.get_u64_le() } else { 0 };
        let placement = Placement::decode(row)?;
        let expires = (expires != 0).then_some(Timestamp(expires));
        Some(Self { first, stream_first, count, created, expires, crc, placement })
    }

    fn inline_len(&self) -> u64 {
        match &self.placement {
            Placement::Inline(body) => body.len() as u64,
            Placement::Slice { .. } => 0,
            Placement::Object { part_crcs, record, .. } => (4 * part_crcs.len() + record.len()) as u64,
            Placement::Shared { record, .. } => record.len() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(placement: Placement) -> Block {
        let (created, expires) = (Timestamp(5), Some(Timestamp(9)));
        Block { first: 3, stream_first: 11, count: 2, created, expires, crc: 0xABCD, placement }
    }

    #[test]
    fn every_placement_survives_the_row() {
        for placement in [
            Placement::Inline(Bytes::from_static(b"body")),
            Placement::Slice { segment: 1, offset: 2, len: 3 },
            Placement::Object {
                object: 9,
                size: 1 << 40,
                sha256: [7; 32],
                part_crcs: vec![1, 2, 3],
                record: Bytes::from_static(b"record"),
            },
            Placement::Shared {
                segment: 1,
                offset: 2,
                len: 3,
                body_crc: 4,
                index: 5,
                record: Bytes::from_static(b"record"),
            },
        ] {
            let block = block(placement);
            assert_eq!(Block::decode(3, block.encode()), Some(block));
        }
    }

    #[test]
    fn yesterdays_row_is_read() {
        let row = b"\x01\x02\0\0\0\x05\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\xCD\xAB\0\0\0body";
        let expected = Block { stream_first: 0, ..block(Placement::Inline(Bytes::from_static(b"body"))) };
        assert_eq!(Block::decode(3, Bytes::from_static(row)), Some(expected.clone()));
        let row = b"\x02\x02\0\0\0\x05\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\xCD\xAB\0\0\x0b\0\0\0\0\0\0\0\0body";
        assert_eq!(Block::decode(3, Bytes::from_static(row)), Some(Block { stream_first: 11, ..expected }));
    }

    #[test]
    fn truncated_or_unknown_rows_are_refused() {
        let row = block(Placement::Slice { segment: 1, offset: 2, len: 3 }).encode();
        for len in 0..row.len() {
            assert_eq!(Block::decode(3, row.slice(..len)), None, "{len} bytes");
        }
        let mut newer = row.to_vec();
        newer[0] = 3;
        assert_eq!(Block::decode(3, newer.into()), None);
    }
}
