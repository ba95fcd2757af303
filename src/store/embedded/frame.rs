//! The bytes of the journal: slots that name its rounds, and frames. Pure.
//!
//! ```text
//! journal: | slot 0 | slot 1 | frame n | frame n+1 | rests of earlier rounds | zeros ...
//! slot:    | magic u64 | version u32 | crc u32 | round u64 | first u64 | journal bytes u64 | secret 16 | zeros to 4 KiB |
//! frame:   | magic u32 | len u32 | crc u32 | 0 u32 | number u64 | secret 16 | payload (len bytes) | zeros to a multiple of 4 KiB |
//! ```
//! The checksum of a frame covers everything behind it. The secret is random and new in each round, and the database
//! has the one that holds: no bytes of a message can be taken for a frame, and neither can frames of an earlier round.

use super::aligned::ALIGN;

/// The format of the journal that this version writes.
pub(super) const VERSION: u32 = 2;

const SLOT_MAGIC: u64 = u64::from_le_bytes(*b"MTSround");
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"MTSJ");
const SLOT_BYTES: usize = 56;

/// Bytes before the payload of a frame.
pub(super) const FRAME_HEADER: usize = 40;

/// Where frames begin: behind two slots.
pub(super) const FRAMES_AT: usize = 2 * ALIGN;

/// What a frame must have to be one of the journal's.
pub(super) type Secret = [u8; 16];

/// A stretch of the journal between two checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Round {
    /// Rounds are counted from 1.
    pub(super) number: u64,
    pub(super) secret: Secret,
}

impl Round {
    /// The value of the fact in the database.
    pub(super) fn encode(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..].copy_from_slice(&self.secret);
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 24] = bytes.try_into().ok()?;
        let (number, secret) = bytes.split_at(8);
        Some(Self { number: u64::from_le_bytes(number.try_into().ok()?), secret: secret.try_into().ok()? })
    }
}

/// What a slot says of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) round: Round,
    /// The number of the round's first frame.
    pub(super) first: u64,
    /// Bytes of the whole file.
    pub(super) journal_bytes: u64,
}

/// What is found where a slot should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FoundSlot {
    /// A slot of this version.
    Whole(Slot),
    /// A slot of a later version.
    Later(u32),
    /// Nothing that can be read.
    Nothing,
}

impl Slot {
    /// Where the slot of a round is: rounds take turns, so that the one before stays until the next is durable.
    pub(super) fn at(round: u64) -> u64 {
        (round % 2) * ALIGN as u64
    }

    /// Fills `room`, a whole slot.
    pub(super) fn encode(&self, room: &mut [u8]) {
        room.fill(0);
        room[..8].copy_from_slice(&SLOT_MAGIC.to_le_bytes());
        room[8..12].copy_from_slice(&VERSION.to_le_bytes());
        for (at, field) in [(16, self.round.number), (24, self.first), (32, self.journal_bytes)] {
            room[at..at + 8].copy_from_slice(&field.to_le_bytes());
        }
        room[40..SLOT_BYTES].copy_from_slice(&self.round.secret);
        let crc = slot_crc(room);
        room[12..16].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads the slot at the front of `bytes`.
    pub(super) fn decode(bytes: &[u8]) -> FoundSlot {
        if bytes.len() < SLOT_BYTES
            || u64_at(bytes, 0) != Some(SLOT_MAGIC)
            || u32_at(bytes, 12) != Some(slot_crc(bytes))
        {
            return FoundSlot::Nothing;
        }
        match (u32_at(bytes, 8), u64_at(bytes, 16), u64_at(bytes, 24), u64_at(bytes, 32)) {
            (Some(VERSION), Some(number), Some(first), Some(journal_bytes)) => {
                let mut secret = Secret::default();
                secret.copy_from_slice(&bytes[40..SLOT_BYTES]);
                FoundSlot::Whole(Self { round: Round { number, secret }, first, journal_bytes })
            }
            (Some(later), ..) if later > VERSION => FoundSlot::Later(later),
            _ => FoundSlot::Nothing,
        }
    }
}

/// Covers the version and everything behind the checksum.
fn slot_crc(bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[8..12]);
    crc.update(&bytes[16..SLOT_BYTES]);
    crc.finalize()
}

/// Bytes of a frame with a payload of `len` bytes.
pub(super) fn padded(len: usize) -> usize {
    (FRAME_HEADER + len).next_multiple_of(ALIGN)
}

/// Fills the header of a frame, in front of a payload that is there.
///
/// # Panics
/// If the payload has 4 GiB or more: larger ones are refused long before.
pub(super) fn seal(frame: &mut [u8], number: u64, secret: &Secret) {
    let len = u32::try_from(frame.len() - FRAME_HEADER).expect("a frame has less than 4 GiB");
    frame[16..24].copy_from_slice(&number.to_le_bytes());
    frame[24..FRAME_HEADER].copy_from_slice(secret);
    let crc = crc32fast::hash(&frame[16..]);
    for (at, field) in [FRAME_MAGIC, len, crc, 0].into_iter().enumerate() {
        frame[4 * at..4 * at + 4].copy_from_slice(&field.to_le_bytes());
    }
}

/// Number and payload of the frame at an offset, if a whole one of the round is there.
pub(super) fn frame_at<'a>(bytes: &'a [u8], at: usize, secret: &Secret) -> Option<(u64, &'a [u8])> {
    let header = bytes.get(at..at.checked_add(FRAME_HEADER)?)?;
    if u32_at(header, 0) != Some(FRAME_MAGIC) || header[24..] != *secret {
        return None;
    }
    let len = usize::try_from(u32_at(header, 4)?).ok()?;
    let covered = bytes.get(at + 16..at.checked_add(FRAME_HEADER)?.checked_add(len)?)?;
    if Some(crc32fast::hash(covered)) != u32_at(header, 8) {
        return None;
    }
    Some((u64_at(header, 16)?, &covered[24..]))
}

/// Whether a frame of the round is anywhere.
pub(super) fn has_frames(bytes: &[u8], secret: &Secret) -> bool {
    (FRAMES_AT..bytes.len()).step_by(ALIGN).any(|at| frame_at(bytes, at, secret).is_some())
}

/// The frames of a round.
pub(super) struct Chain<'a> {
    /// Number and payload of each, in order.
    pub(super) frames: Vec<(u64, &'a [u8])>,
    /// Where the next one goes.
    pub(super) end: usize,
    /// A frame behind the first that cannot be read, which later ones follow: `(missing number, its offset)`.
    pub(super) damaged: Option<(u64, usize)>,
}

/// Reads the frames of a round, of which the first has the number `first`.
pub(super) fn chain<'a>(bytes: &'a [u8], first: u64, secret: &Secret) -> Chain<'a> {
    let (mut frames, mut next, mut end) = (Vec::new(), first, FRAMES_AT);
    while let Some((number, payload)) = frame_at(bytes, end, secret)
        && number == next
    {
        frames.push((number, payload));
        next += 1;
        end += padded(payload.len());
    }
    // Each frame is synced before the next is begun: only the last one can be torn by a crash.
    let mut behind = (end..bytes.len()).step_by(ALIGN).filter_map(|at| frame_at(bytes, at, secret));
    let damaged = behind.any(|(number, _)| number >= next).then_some((next, end));
    Chain { frames, end, damaged }
}

/// The journal before it had rounds (format 1): frames from the front, without secrets, told apart by their numbers.
pub(super) mod without_rounds {
    use super::{ALIGN, Chain, FRAME_MAGIC, u32_at, u64_at};

    const HEADER: usize = 24;

    fn frame_at(bytes: &[u8], at: usize) -> Option<(u64, &[u8])> {
        let header = bytes.get(at..at.checked_add(HEADER)?)?;
        if u32_at(header, 0) != Some(FRAME_MAGIC) {
            return None;
        }
        let len = usize::try_from(u32_at(header, 4)?).ok()?;
        let covered = bytes.get(at + 16..at.checked_add(HEADER)?.checked_add(len)?)?;
        (Some(crc32fast::hash(covered)) == u32_at(header, 8)).then_some((u64_at(header, 16)?, &covered[8..]))
    }

    /// Reads the frames behind number `applied`.
    pub(in super::super) fn chain(bytes: &[u8], applied: u64) -> Chain<'_> {
        let (mut frames, mut end) = (Vec::<(u64, &[u8])>::new(), 0);
        while let Some((number, payload)) = frame_at(bytes, end)
            && frames.last().is_none_or(|(last, _)| last.checked_add(1) == Some(number))
        {
            frames.push((number, payload));
            end += (HEADER + payload.len()).next_multiple_of(ALIGN);
        }
        let first = frames.first().map_or(applied + 1, |(first, _)| *first);
        let last = frames.last().map_or(applied, |(last, _)| *last).max(applied);
        let mut behind = (end..bytes.len()).step_by(ALIGN).filter_map(|at| frame_at(bytes, at));
        let damaged = match first > applied + 1 {
            true => Some((applied + 1, 0)),
            // No journal holds more frames than pages: a higher number is made up by what a message says.
            false => behind
                .any(|(number, _)| number > last && number - last <= (bytes.len() / ALIGN) as u64)
                .then_some((last + 1, end)),
        };
        frames.retain(|(number, _)| *number > applied);
        Chain { frames, end, damaged }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(number: u64, secret: &Secret, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; FRAME_HEADER + payload.len()];
        frame[FRAME_HEADER..].copy_from_slice(payload);
        seal(&mut frame, number, secret);
        frame.resize(padded(payload.len()), 0);
        frame
    }

    fn journal(frames: &[Vec<u8>]) -> Vec<u8> {
        [vec![0; FRAMES_AT], frames.concat(), vec![0; ALIGN]].concat()
    }

    #[test]
    fn slots_and_rounds_are_read_as_written() {
        let round = Round { number: 7, secret: [9; 16] };
        assert_eq!(Round::decode(&round.encode()), Some(round));
        assert_eq!(Round::decode(&[0; 23]), None);
        let slot = Slot { round, first: 12, journal_bytes: 1 << 20 };
        let mut room = vec![1; ALIGN];
        slot.encode(&mut room);
        assert_eq!(Slot::decode(&room), FoundSlot::Whole(slot));
        room[45] ^= 1;
        assert_eq!(Slot::decode(&room), FoundSlot::Nothing, "its checksum covers the secret");
        assert_eq!([Slot::at(1), Slot::at(2), Slot::at(3)], [ALIGN as u64, 0, ALIGN as u64]);
    }

    #[test]
    fn a_slot_of_a_later_version_names_it() {
        let mut room = vec![0; ALIGN];
        Slot { round: Round { number: 1, secret: [1; 16] }, first: 1, journal_bytes: 1 }.encode(&mut room);
        room[8..12].copy_from_slice(&(VERSION + 1).to_le_bytes());
        let crc = slot_crc(&room);
        room[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Slot::decode(&room), FoundSlot::Later(VERSION + 1));
    }

    #[test]
    fn p7_a_payload_that_looks_like_a_frame_is_none() {
        let secret = [3; 16];
        let guess = [0; 16];
        for number in [1, 2, 3, u64::MAX] {
            // At every page of the payload of a frame that was torn, and behind the last one.
            let forged = frame(number, &guess, b"forged");
            let payload = [vec![7; ALIGN - FRAME_HEADER], forged.repeat(3)].concat();
            let real = frame(1, &secret, &payload);
            let bytes = journal(std::slice::from_ref(&real));
            let found = chain(&bytes, 1, &secret);
            assert_eq!((found.frames.len(), found.damaged), (1, None));
            let mut torn = bytes;
            torn[FRAMES_AT] = 0;
            let found = chain(&torn, 1, &secret);
            assert_eq!((found.frames.len(), found.damaged), (0, None), "number {number}");
        }
    }

    #[test]
    fn frames_of_another_round_are_none() {
        let bytes = journal(&[frame(5, &[1; 16], b"new"), frame(6, &[2; 16], b"old")]);
        let found = chain(&bytes, 5, &[1; 16]);
        assert_eq!((found.frames, found.end, found.damaged), (vec![(5, &b"new"[..])], FRAMES_AT + ALIGN, None));
        assert!(has_frames(&bytes, &[2; 16]) && !has_frames(&bytes, &[3; 16]));
    }

    #[test]
    fn lengths_that_lie_are_no_frames() {
        let secret = [1; 16];
        for len in [0, 7, u32::MAX - 1, u32::MAX] {
            let mut bytes = journal(&[frame(1, &secret, b"payload")]);
            if len != 7 {
                bytes[FRAMES_AT + 4..FRAMES_AT + 8].copy_from_slice(&len.to_le_bytes());
            }
            assert_eq!(chain(&bytes, 1, &secret).frames.len(), usize::from(len == 7), "{len}");
        }
    }

    /// A frame as format 3 wrote it.
    fn old_frame(number: u64, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 24];
        frame[16..24].copy_from_slice(&number.to_le_bytes());
        frame.extend_from_slice(payload);
        let crc = crc32fast::hash(&frame[16..]);
        let len = u32::try_from(payload.len()).unwrap();
        for (at, field) in [FRAME_MAGIC, len, crc].into_iter().enumerate() {
            frame[4 * at..4 * at + 4].copy_from_slice(&field.to_le_bytes());
        }
        frame.resize(frame.len().next_multiple_of(ALIGN), 0);
        frame
    }

    #[test]
    fn the_journal_before_rounds_is_read() {
        let frames = [old_frame(4, b"four"), old_frame(5, b"five"), old_frame(2, b"two")];
        let bytes = [frames.concat(), vec![0; ALIGN]].concat();
        let found = without_rounds::chain(&bytes, 4);
        assert_eq!((found.frames, found.damaged), (vec![(5, &b"five"[..])], None));
        let damaged = [vec![0; ALIGN], old_frame(6, b"six")].concat();
        assert_eq!(without_rounds::chain(&damaged, 4).damaged, Some((5, 0)));
        let missing = old_frame(9, b"nine");
        assert_eq!(without_rounds::chain(&missing, 4).damaged, Some((5, 0)));
        let forged = [old_frame(5, b"five"), old_frame(u64::MAX, b"forged")].concat();
        assert_eq!(without_rounds::chain(&forged, 4).damaged, None, "no journal holds so many frames");
    }
}
