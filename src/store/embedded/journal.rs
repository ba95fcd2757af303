//! The write-ahead journal in front of the metadata database.
//!
//! The database makes a transaction durable in about 350 µs; one write to a file that is already laid out on disk takes
//! a third of that. So a transaction is durable once it is a frame of the journal, and the database is made durable
//! (a checkpoint) only when the journal is full.
//!
//! ```text
//! journal: | frame n | frame n+1 | frame n+2 | rests of earlier rounds, with lower numbers | zeros ...
//! frame:   | magic u32 | len u32 | crc u32 | 0 u32 | number u64 | payload (len bytes) | zeros to a multiple of 4 KiB |
//! ```
//! The checksum covers number and payload. Numbers grow by one from frame to frame and never restart, so after a crash
//! the frames beyond the last checkpoint are told from older ones. Only the last frame can be torn: each is synced
//! before the next is begun. A bad frame with a good, newer one behind it is therefore damage, and is refused (P7).

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use super::aligned::{ALIGN, AlignedBuffer};
use crate::error::{Error, Result};

const MAGIC: u32 = u32::from_le_bytes(*b"MTSJ");
const HEADER: usize = 24;

/// Bytes of the journal: how much is replayed after a crash at most.
const JOURNAL_BYTES: u64 = 16 << 20;

/// Larger transactions bypass the journal.
pub(super) const PAYLOAD_MAX: usize = 4 << 20;

/// An open journal.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Where the next frame goes.
    end: u64,
    /// The number of the next frame.
    next: u64,
    buffer: AlignedBuffer,
}

impl Journal {
    /// Opens or creates the journal and hands number and payload of every frame after number `applied` to `replay`, in
    /// order. `replay` may fail half-way: what it applied is then passed over the next time.
    ///
    /// # Errors
    /// [`Error::DataLoss`] if a frame is damaged that newer ones follow: nothing is replayed then.
    pub(super) fn open(path: &Path, applied: u64, mut replay: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<Self> {
        let failed = |error: io::Error| failed(path, "opened", &error);
        if !path.exists() {
            create(path).map_err(failed)?;
        }
        let bytes = std::fs::read(path).map_err(failed)?;
        let mut chain = Vec::new();
        let mut at = 0;
        while let Some((number, payload)) = frame_at(&bytes, at)
            && chain.last().is_none_or(|(last, _)| number == last + 1)
        {
            chain.push((number, payload));
            at += padded(payload.len());
        }
        let first = chain.first().map_or(applied + 1, |(first, _)| *first);
        let last = chain.last().map_or(applied, |(last, _)| *last).max(applied);
        let mut behind = (at..bytes.len()).step_by(ALIGN).filter_map(|at| frame_at(&bytes, at));
        if first > applied + 1 || behind.any(|(number, _)| number > last) {
            let (missing, at) = if first > applied + 1 { (applied + 1, 0) } else { (last + 1, at) };
            return Err(Error::DataLoss(format!(
                "'{}' is damaged at byte {at}: transaction {missing} cannot be read, and later ones follow; restore the \
                 data directory from a backup",
                path.display()
            )));
        }
        // A chain that the database has all of is of no more use: the next frame takes its place.
        let end = if last > applied { at as u64 } else { 0 };
        for (number, payload) in chain.into_iter().filter(|(number, _)| *number > applied) {
            replay(number, payload)?;
        }
        let file = open_direct(path).map_err(failed)?;
        Ok(Self { path: path.into(), file, end, next: last + 1, buffer: AlignedBuffer::default() })
    }

    /// Makes a payload of `len` bytes, which `fill` writes, durable as the next frame. Gives `false` if the journal has no
    /// room left: make the database durable and [`restart`](Self::restart).
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the write failed: whether the frame is there is unknown, and the next one takes its
    /// place.
    pub(super) fn append(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> Result<bool> {
        let padded = padded(len) as u64;
        if self.end + padded > JOURNAL_BYTES {
            return Ok(false);
        }
        let room = self.buffer.room(HEADER + len);
        fill(&mut room[HEADER..HEADER + len]);
        room[16..24].copy_from_slice(&self.next.to_le_bytes());
        let crc = crc32fast::hash(&room[16..HEADER + len]);
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        for (at, field) in [MAGIC, len, crc, 0].into_iter().enumerate() {
            room[4 * at..4 * at + 4].copy_from_slice(&field.to_le_bytes());
        }
        let written = self.file.write_all_at(room, self.end).and_then(|()| self.file.sync_data());
        written.map_err(|error| failed(&self.path, "written", &error))?;
        self.end += padded;
        self.next += 1;
        Ok(true)
    }

    /// The number of the last frame: what the database has once it has applied everything.
    pub(super) fn last(&self) -> u64 {
        self.next - 1
    }

    /// Begins again at the front. The database must be durable up to [`last`](Self::last).
    pub(super) fn restart(&mut self) {
        self.end = 0;
    }
}

/// Bytes of a frame with a payload of `len` bytes.
fn padded(len: usize) -> usize {
    (HEADER + len).next_multiple_of(ALIGN)
}

/// Number and payload of the frame at an offset, if a whole one is there.
fn frame_at(bytes: &[u8], at: usize) -> Option<(u64, &[u8])> {
    let field = |offset: usize| Some(u32::from_le_bytes(bytes.get(at + offset..at + offset + 4)?.try_into().ok()?));
    if field(0)? != MAGIC {
        return None;
    }
    let len = usize::try_from(field(4)?).ok()?;
    let covered = bytes.get(at + 16..at.checked_add(HEADER + len)?)?;
    if crc32fast::hash(covered) != field(8)? {
        return None;
    }
    let (number, payload) = covered.split_at(8);
    Some((u64::from_le_bytes(number.try_into().ok()?), payload))
}

/// Lays the file out with zeros: later writes change no metadata of the file system.
fn create(path: &Path) -> io::Result<()> {
    let beside = path.with_extension("unfinished");
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().create_new(true).write(true).open(&beside)?;
    let zeros = vec![0; 1 << 20];
    for offset in (0..JOURNAL_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, offset)?;
    }
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    path.parent().map_or(Ok(()), super::sync_dir)
}

/// Past the page cache where the file system can.
fn open_direct(path: &Path) -> io::Result<File> {
    let open = |flags: OFlags| {
        let flags = i32::try_from(flags.bits()).unwrap_or(0);
        OpenOptions::new().write(true).custom_flags(flags).open(path)
    };
    match open(OFlags::DIRECT) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => open(OFlags::empty()),
        other => other,
    }
}

fn failed(path: &Path, what: &str, error: &io::Error) -> Error {
    Error::unavailable(format!("the journal '{}' could not be {what}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        _dir: tempfile::TempDir,
        path: PathBuf,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("journal");
            Self { _dir: dir, path }
        }

        fn open(&self, applied: u64) -> Result<(Journal, Vec<Vec<u8>>)> {
            let mut frames = Vec::new();
            let journal = Journal::open(&self.path, applied, |_, payload| {
                frames.push(payload.to_vec());
                Ok(())
            })?;
            Ok((journal, frames))
        }
    }

    fn append(journal: &mut Journal, payload: &[u8]) -> bool {
        journal.append(payload.len(), |room| room.copy_from_slice(payload)).unwrap()
    }

    #[test]
    fn frames_after_the_checkpoint_are_replayed_in_order() {
        let fixture = Fixture::new();
        let (mut journal, frames) = fixture.open(0).unwrap();
        assert!(frames.is_empty());
        for payload in [&b"one"[..], &[2; 10_000], b"three"] {
            assert!(append(&mut journal, payload));
        }
        assert_eq!(journal.last(), 3);
        drop(journal);
        let (mut journal, frames) = fixture.open(0).unwrap();
        assert_eq!(frames, [b"one".to_vec(), vec![2; 10_000], b"three".to_vec()]);
        journal.restart();
        assert!(append(&mut journal, b"four"));
        drop(journal);
        assert_eq!(fixture.open(3).unwrap().1, [b"four".to_vec()], "older frames behind it are passed over");
    }

    #[test]
    fn a_full_journal_says_so() {
        let fixture = Fixture::new();
        let (mut journal, _) = fixture.open(0).unwrap();
        let payload = vec![1; PAYLOAD_MAX];
        while append(&mut journal, &payload) {}
        assert_eq!(journal.last(), 3);
        journal.restart();
        assert!(append(&mut journal, &payload));
    }

    #[test]
    fn a_torn_last_frame_never_was() {
        let fixture = Fixture::new();
        let (mut journal, _) = fixture.open(0).unwrap();
        append(&mut journal, b"one");
        append(&mut journal, &[2; 10_000]);
        let file = OpenOptions::new().write(true).open(&fixture.path).unwrap();
        file.write_all_at(&[0; 100], (ALIGN + 5000) as u64).unwrap();
        let (mut journal, frames) = fixture.open(0).unwrap();
        assert_eq!(frames, [b"one".to_vec()]);
        append(&mut journal, b"two");
        assert_eq!(fixture.open(0).unwrap().1, [b"one".to_vec(), b"two".to_vec()]);
    }

    #[test]
    fn p1_a_replay_that_failed_half_way_goes_on_where_it_stood() {
        let fixture = Fixture::new();
        let (mut journal, _) = fixture.open(0).unwrap();
        for payload in [b"one", b"two", b"six"] {
            append(&mut journal, payload);
        }
        drop(journal);
        let failing = Journal::open(&fixture.path, 0, |number, _| match number {
            1 | 2 => Ok(()),
            _ => Err(Error::unavailable("the disk is full")),
        });
        assert!(failing.is_err());
        let (mut journal, frames) = fixture.open(2).unwrap();
        assert_eq!(frames, [b"six"], "the database had two of three");
        append(&mut journal, b"ten");
        drop(journal);
        assert_eq!(fixture.open(2).unwrap().1, [b"six", b"ten"]);
        let (mut journal, frames) = fixture.open(4).unwrap();
        assert!(frames.is_empty());
        append(&mut journal, b"new");
        drop(journal);
        assert_eq!(fixture.open(4).unwrap().1, [b"new"]);
    }

    #[test]
    fn p7_damage_of_the_first_frame_is_refused() {
        let fixture = Fixture::new();
        let (mut journal, _) = fixture.open(0).unwrap();
        for payload in [b"one", b"two"] {
            append(&mut journal, payload);
        }
        let file = OpenOptions::new().write(true).open(&fixture.path).unwrap();
        file.write_all_at(b"X", HEADER as u64).unwrap();
        assert!(matches!(fixture.open(0), Err(Error::DataLoss(_))));
    }

    #[test]
    fn p7_damage_before_the_last_frame_is_refused() {
        let fixture = Fixture::new();
        let (mut journal, _) = fixture.open(0).unwrap();
        for payload in [b"one", b"two", b"six"] {
            append(&mut journal, payload);
        }
        let file = OpenOptions::new().write(true).open(&fixture.path).unwrap();
        file.write_all_at(b"X", (ALIGN + HEADER) as u64).unwrap();
        let Err(Error::DataLoss(text)) = fixture.open(0) else { panic!("the damage was not seen") };
        assert!(text.contains("transaction 2"), "{text}");
    }
}
