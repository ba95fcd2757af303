//! What is known of an object's bytes: its SHA-256, and a CRC-32 of each part, so that each is verified before it is
//! served.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use crc32fast::Hasher;
use sha2::{
    Digest, Sha256,
    digest::common::hazmat::{SerializableState, SerializedState},
};

use super::OBJECT_PART;

/// Most parts of an object: their checksums stay within 64 KiB of its row.
pub const PARTS_MAX: u64 = 16_384;

/// Bytes of each part of an object but the last: [`OBJECT_PART`], doubled until [`PARTS_MAX`] parts hold it. So objects
/// up to 16 GiB have parts of 1 MiB, those up to 64 GiB parts of 4 MiB.
pub fn part_bytes(size: u64) -> u64 {
    let mut part = OBJECT_PART as u64;
    while part.saturating_mul(PARTS_MAX) < size {
        part *= 2;
    }
    part
}

/// Digest and checksums of the bytes so far, and a way to store and take up the count half-way.
#[derive(Clone, Debug)]
pub struct Tally {
    len: u64,
    sha256: Sha256,
    part_bytes: u64,
    /// Checksums of whole parts.
    parts: Vec<u32>,
    /// The part that is not whole yet.
    last: Hasher,
}

impl Default for Tally {
    fn default() -> Self {
        let (sha256, last) = (Sha256::new(), Hasher::new());
        Self { len: 0, sha256, part_bytes: OBJECT_PART as u64, parts: Vec::new(), last }
    }
}

impl Tally {
    /// Tally of all bytes at once.
    pub fn of(bytes: &[u8]) -> Self {
        let mut tally = Self::default();
        tally.update(bytes);
        tally
    }

    /// Counts the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.sha256.update(bytes);
        while !bytes.is_empty() {
            if self.len > 0 && self.len.is_multiple_of(self.part_bytes) {
                self.end_part();
            }
            let room = self.part_bytes - self.len % self.part_bytes;
            let (part, rest) = bytes.split_at(usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len()));
            self.last.update(part);
            self.len += part.len() as u64;
            bytes = rest;
        }
    }

    /// Closes the last part, which is whole. The checksums of two neighbours give that of both: so parts are joined when
    /// there are too many.
    fn end_part(&mut self) {
        self.parts.push(std::mem::take(&mut self.last).finalize());
        if (self.parts.len() as u64) < PARTS_MAX {
            return;
        }
        let joined = self.parts.chunks(2).map(|pair| {
            let mut joined = Hasher::new_with_initial_len(pair[0], self.part_bytes);
            if let Some(second) = pair.get(1) {
                joined.combine(&Hasher::new_with_initial_len(*second, self.part_bytes));
            }
            joined.finalize()
        });
        self.parts = joined.collect();
        self.part_bytes *= 2;
    }

    /// Bytes counted.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True if nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The SHA-256 of all bytes.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256.clone().finalize().into()
    }

    /// The checksums of all parts of [`part_bytes`].
    pub fn part_crcs(&self) -> Vec<u32> {
        let mut parts = self.parts.clone();
        if self.len > 0 {
            parts.push(self.last.clone().finalize());
        }
        parts
    }

    /// The tally as bytes:
    ///
    /// ```text
    /// | version 1 u8 | len u64 | part bytes u64 | state of SHA-256 | crc u32 of the last part | crc u32 per whole part |
    /// ```
    pub fn encode(&self) -> Bytes {
        let sha256 = self.sha256.serialize();
        let mut out = BytesMut::with_capacity(1 + 16 + sha256.len() + 4 + 4 * self.parts.len());
        out.put_u8(VERSION);
        out.put_u64_le(self.len);
        out.put_u64_le(self.part_bytes);
        out.put_slice(&sha256);
        out.put_u32_le(self.last.clone().finalize());
        self.parts.iter().for_each(|crc| out.put_u32_le(*crc));
        out.freeze()
    }

    /// What [`encode`](Self::encode) wrote; `None` if it cannot be read.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let state_len = SerializedState::<Sha256>::default().len();
        if bytes.len() < 1 + 16 + state_len + 4 || bytes.get_u8() != VERSION {
            return None;
        }
        let (len, part_bytes) = (bytes.get_u64_le(), bytes.get_u64_le());
        let (state, mut rest) = bytes.split_at(state_len);
        let sha256 = Sha256::deserialize(&SerializedState::<Sha256>::try_from(state).ok()?).ok()?;
        let last = rest.get_u32_le();
        let whole = len.saturating_sub(1).checked_div(part_bytes)?;
        if rest.len() as u64 != 4 * whole {
            return None;
        }
        let last_len = len - whole * part_bytes;
        let parts = rest.chunks_exact(4).map(|crc| u32::from_le_bytes([crc[0], crc[1], crc[2], crc[3]])).collect();
        Some(Self { len, sha256, part_bytes, parts, last: Hasher::new_with_initial_len(last, last_len) })
    }
}

const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expected(bytes: &[u8]) -> ([u8; 32], Vec<u32>) {
        let part = usize::try_from(part_bytes(bytes.len() as u64)).unwrap();
        (Sha256::digest(bytes).into(), bytes.chunks(part).map(crc32fast::hash).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn pieces_and_pauses_change_nothing(
            len in prop_oneof![0_usize..200, OBJECT_PART - 1..OBJECT_PART + 2, 0_usize..4 * OBJECT_PART],
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let bytes: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(len + 1)).collect();
            cuts.sort_unstable();
            let (mut tally, mut from) = (Tally::default(), 0);
            for cut in cuts.into_iter().chain([len]) {
                tally.update(&bytes[from..cut]);
                tally = Tally::decode(&tally.encode()).unwrap();
                from = cut;
            }
            prop_assert_eq!((tally.sha256(), tally.part_crcs()), expected(&bytes));
            prop_assert_eq!(tally.len(), len as u64);
        }
    }

    #[test]
    fn many_parts_are_joined() {
        // As many parts as there may be, of one byte each, so to speak.
        let mut tally = Tally { part_bytes: 1, ..Tally::default() };
        let bytes: Vec<u8> = (0..PARTS_MAX * 2 + 5).map(|at| u8::try_from(at % 253).unwrap()).collect();
        for piece in bytes.chunks(1000) {
            tally.update(piece);
        }
        assert_eq!(tally.part_bytes, 4, "more than twice as many");
        assert_eq!(tally.part_crcs(), bytes.chunks(4).map(crc32fast::hash).collect::<Vec<_>>());
        let limit = PARTS_MAX * OBJECT_PART as u64;
        assert_eq!([limit, limit + 1, 2 * limit + 1].map(|size| part_bytes(size) / OBJECT_PART as u64), [1, 2, 4]);
    }

    #[test]
    fn exactly_as_many_parts_as_there_may_be_are_not_joined() {
        let mut tally = Tally { part_bytes: 1, ..Tally::default() };
        tally.update(&vec![7; usize::try_from(PARTS_MAX).unwrap()]);
        assert_eq!((tally.part_bytes, tally.part_crcs().len() as u64), (1, PARTS_MAX));
    }

    #[test]
    fn broken_tallies_are_refused() {
        let bytes = Tally::of(&vec![1; OBJECT_PART + 1]).encode();
        for len in 0..bytes.len() {
            assert!(Tally::decode(&bytes[..len]).is_none(), "{len} bytes");
        }
        let mut newer = bytes.to_vec();
        newer[0] = 9;
        assert!(Tally::decode(&newer).is_none());
    }
}
