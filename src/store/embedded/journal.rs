//! The write-ahead journal in front of the metadata database.
//!
//! The database makes a transaction durable in about 350 µs; one write to a file that is already laid out on disk takes
//! a third of that. So a transaction is durable once it is a frame of the journal, and the database is made durable
//! (a checkpoint) only when the journal is full.
//!
//! Each checkpoint begins a round: a slot with a new secret is synced, then the database commits with the same secret,
//! then frames with that secret are written from the front. [`frame`](super::frame) draws the bytes. The frame of one
//! number is synced before the next is begun, so only the last one can be torn; a bad frame with a good, newer one behind
//! it is damage, and is refused (P7). So is a journal that is missing, too short, or without the secret that the database
//! has: it would hide acknowledged transactions (P1, P2).

use std::{io, sync::Arc};

use super::{
    aligned::{ALIGN, AlignedBuffer},
    disk::{Create, DiskFile, OpenMode, is_unreadable, read_with_retries},
    frame::{self, Chain, FRAME_HEADER, FRAMES_AT, FoundSlot, Round, Secret, Slot},
    volume::Volume,
    witness::Witness,
};
use crate::error::{Error, Result};

/// Larger transactions bypass the journal.
pub(super) const PAYLOAD_MAX: usize = 4 << 20;

/// Name of the journal's file.
pub(super) const JOURNAL: &str = "journal";

/// Name of one that is being made.
const UNFINISHED: &str = "journal.unfinished";

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    volume: Arc<Volume>,
    file: Arc<dyn DiskFile>,
    witness: Witness,
    round: Round,
    /// Where the next frame goes.
    end: u64,
    /// The number of the next transaction.
    next: u64,
    buffer: AlignedBuffer,
}

/// What a journal of this format, or of the one before, has to be replayed.
pub(super) struct Replay<'a> {
    pub(super) number: u64,
    pub(super) payload: &'a [u8],
}

impl Journal {
    /// Lays out a journal for the first round of a database, without giving it its name: the database must be durable
    /// with that round before.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Exhausted`] if it cannot be written.
    pub(super) fn prepare(volume: &Volume, applied: u64) -> Result<Round> {
        let path = volume.path(UNFINISHED);
        let round = Round { number: 1, secret: new_secret()? };
        let slot = Slot { round, first: applied + 1, journal_bytes: volume.sizes.journal };
        let create = || {
            let file = volume.disk.open(&path, OpenMode::WRITE.create(Create::Empty))?;
            // Written and not only reserved: later writes change no metadata of the file system.
            let zeros = vec![0; 1 << 20];
            let mut at = 0;
            while at < volume.sizes.journal {
                let len = zeros.len().min(usize::try_from(volume.sizes.journal - at).unwrap_or(zeros.len()));
                file.write_all_at(&zeros[..len], at)?;
                at += len as u64;
            }
            write_slot(&*file, &slot, &mut AlignedBuffer::default())?;
            file.sync_all()?;
            volume.disk.sync_dir(&volume.dir)
        };
        create().map_err(|error| volume.failed(UNFINISHED, "made", &error))?;
        Ok(round)
    }

    /// Gives a journal that was [prepared](Self::prepare) its name, which [`open`](Self::open) makes durable.
    ///
    /// # Errors
    /// As for [`prepare`](Self::prepare).
    pub(super) fn adopt(volume: &Volume) -> Result<()> {
        let renamed = volume.disk.rename(&volume.path(UNFINISHED), &volume.path(JOURNAL));
        renamed.and_then(|()| volume.disk.sync_dir(&volume.dir)).map_err(|error| volume.failed(JOURNAL, "made", &error))
    }

    /// Frames of a journal of the format before this one that the database lacks, and the number of the last.
    ///
    /// # Errors
    /// [`Error::DataLoss`] if it is missing, or damaged.
    pub(super) fn replay_without_rounds(
        volume: &Volume,
        applied: u64,
        mut replay: impl FnMut(Replay<'_>) -> Result<()>,
    ) -> Result<u64> {
        let (_, bytes) = read(volume)?;
        let chain = frame::without_rounds::chain(&bytes, applied);
        refuse_damage(volume, &chain)?;
        let mut last = applied;
        for (number, payload) in chain.frames {
            replay(Replay { number, payload })?;
            last = number;
        }
        Ok(last)
    }

    /// Opens the journal of a database that is in `round` and has transactions up to `applied`, hands every later one to
    /// `replay`, in order, and makes them durable again: after a failed sync nobody knows whether they are.
    ///
    /// # Errors
    /// [`Error::DataLoss`] if the journal is missing, too short, damaged, or not the one that belongs to the database:
    /// nothing is replayed then.
    pub(super) fn open(
        volume: &Arc<Volume>,
        round: Round,
        applied: u64,
        mut replay: impl FnMut(Replay<'_>) -> Result<()>,
    ) -> Result<Self> {
        finish_adoption(volume, &round)?;
        // A round that follows must not find the journal without its name.
        let synced = volume.disk.sync_dir(&volume.dir);
        synced.map_err(|error| volume.failed(JOURNAL, "opened", &error))?;
        let (file, bytes) = read(volume)?;
        let first = find_round(volume, &bytes, &round)?.first;
        let chain = frame::chain(&bytes, first, &round.secret);
        refuse_damage(volume, &chain)?;
        let last = first - 1 + chain.frames.len() as u64;
        let witness = Witness::open(volume)?;
        witness.check(volume, last)?;
        if applied < first - 1 || applied > last {
            return Err(volume.damaged(&format!(
                "has transactions {first} to {last}, and 'meta.redb' those up to {applied}: the two are not of the same \
                 time"
            )));
        }
        for (number, payload) in chain.frames.iter().filter(|(number, _)| *number > applied) {
            replay(Replay { number: *number, payload })?;
        }
        let end = chain.end;
        let mut journal = Self {
            volume: volume.clone(),
            file,
            witness,
            round,
            end: end as u64,
            next: last + 1,
            buffer: AlignedBuffer::default(),
        };
        journal.write_again(&bytes[FRAMES_AT..end])?;
        Ok(journal)
    }

    /// Makes a payload of `len` bytes, which `fill` writes, durable as the next frame. Gives `false` if the journal has no
    /// room left: a checkpoint makes it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the write or the sync failed: whether the frame is there is unknown until the journal has
    /// been opened again.
    pub(super) fn append(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> Result<bool> {
        let padded = frame::padded(len) as u64;
        if self.end + padded > self.volume.sizes.journal {
            return Ok(false);
        }
        let room = self.buffer.room(FRAME_HEADER + len);
        fill(&mut room[FRAME_HEADER..FRAME_HEADER + len]);
        frame::seal(&mut room[..FRAME_HEADER + len], self.next, &self.round.secret);
        let written = self.file.write_all_at(room, self.end).and_then(|()| self.file.sync_data());
        written.map_err(|error| self.volume.failed(JOURNAL, "written", &error))?;
        self.end += padded;
        self.next += 1;
        self.witness.set(self.next - 1);
        Ok(true)
    }

    /// The number of the last transaction.
    pub(super) fn last(&self) -> u64 {
        self.next - 1
    }

    /// Writes the slot of the next round, whose first frame follows transaction `last`. The database must become durable
    /// with that round before it is [entered](Self::enter).
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it cannot be written: the round at hand goes on.
    pub(super) fn next_round(&mut self, last: u64) -> Result<Round> {
        let round = Round { number: self.round.number + 1, secret: new_secret()? };
        let slot = Slot { round, first: last + 1, journal_bytes: self.volume.sizes.journal };
        let written = write_slot(&*self.file, &slot, &mut self.buffer).and_then(|()| self.file.sync_data());
        written.map_err(|error| self.volume.failed(JOURNAL, "written", &error))?;
        Ok(round)
    }

    /// Begins a round, of which the first frame follows transaction `last`.
    pub(super) fn enter(&mut self, round: Round, last: u64) {
        self.round = round;
        self.end = FRAMES_AT as u64;
        self.next = last + 1;
        self.witness.set(last);
    }

    /// Writes frames that were read at [`FRAMES_AT`] again, and syncs them.
    fn write_again(&mut self, frames: &[u8]) -> Result<()> {
        let mut write = || {
            for (at, piece) in frames.chunks(1 << 20).enumerate() {
                let room = self.buffer.room(piece.len());
                room[..piece.len()].copy_from_slice(piece);
                self.file.write_all_at(room, (FRAMES_AT + (at << 20)) as u64)?;
            }
            self.file.sync_data()
        };
        write().map_err(|error| self.volume.failed(JOURNAL, "written", &error))
    }
}

/// Finishes what a crash may have cut short: the database is durable with the first round of a journal that has no name
/// yet.
fn finish_adoption(volume: &Volume, round: &Round) -> Result<()> {
    let path = volume.path(UNFINISHED);
    if round.number != 1 || !volume.exists(UNFINISHED)? {
        return Ok(());
    }
    let slot = || {
        let mut slot = vec![0; ALIGN];
        volume.disk.open(&path, OpenMode::READ)?.read_exact_at(&mut slot, Slot::at(round.number))?;
        io::Result::Ok(slot)
    };
    let slot = slot().map_err(|error| volume.failed(UNFINISHED, "read", &error))?;
    match Slot::decode(&slot) {
        FoundSlot::Whole(found) if found.round == *round => Journal::adopt(volume),
        _ => Ok(()),
    }
}

/// The journal's file, and its bytes as the device has them.
fn read(volume: &Volume) -> Result<(Arc<dyn DiskFile>, Vec<u8>)> {
    if !volume.exists(JOURNAL)? {
        return Err(
            volume.damaged("is missing: it holds transactions that were acknowledged and that 'meta.redb' may lack")
        );
    }
    let path = volume.path(JOURNAL);
    let read = || {
        let file = volume.disk.open(&path, OpenMode::WRITE.direct())?;
        file.drop_cache()?;
        let len = file.len()?;
        let want = usize::try_from(volume.sizes.journal.min(len)).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(want);
        while bytes.len() < want {
            let part = (want - bytes.len()).min(1 << 20);
            let read =
                read_with_retries(|| AlignedBuffer::take().read(part, |room| file.read_at(room, bytes.len() as u64)))?;
            if read.is_empty() {
                break;
            }
            bytes.extend_from_slice(&read);
        }
        io::Result::Ok((file, bytes, len))
    };
    let (file, bytes, len) = read().map_err(|error| match is_unreadable(&error) {
        true => volume.damaged(&format!("cannot be read: {error}")),
        false => volume.failed(JOURNAL, "opened", &error),
    })?;
    if len < volume.sizes.journal {
        return Err(volume.damaged(&format!("has {len} bytes of {}: it was cut short", volume.sizes.journal)));
    }
    Ok((file, bytes))
}

/// The slot of the round that the database is in.
fn find_round(volume: &Volume, bytes: &[u8], round: &Round) -> Result<Slot> {
    let slots = [0, ALIGN].map(|at| bytes.get(at..at + ALIGN).map_or(FoundSlot::Nothing, Slot::decode));
    let whole = || slots.iter().filter_map(|slot| if let FoundSlot::Whole(slot) = slot { Some(slot) } else { None });
    let newer = whole().find(|slot| slot.round.number > round.number);
    if let Some(slot) = whole().find(|slot| slot.round == *round) {
        // The next round was prepared, and the database did not get there: then it has no frames.
        return match newer.is_some_and(|newer| frame::has_frames(bytes, &newer.round.secret)) {
            true => Err(newer_than_database(volume)),
            false => Ok(*slot),
        };
    }
    if let Some(FoundSlot::Later(version)) = slots.iter().find(|slot| matches!(slot, FoundSlot::Later(_))) {
        return Err(Error::unavailable(format!(
            "'{}' has format {version}, and this version reads formats up to {}: use the version that wrote it, or \
             restore a backup into an empty directory",
            volume.path(JOURNAL).display(),
            frame::VERSION
        )));
    }
    match (newer, whole().next()) {
        (Some(_), _) => Err(newer_than_database(volume)),
        (None, Some(_)) => Err(volume
            .damaged("does not belong to this 'meta.redb': it is an older copy, or that of another data directory")),
        (None, None) => Err(volume.damaged("has no readable header")),
    }
}

fn newer_than_database(volume: &Volume) -> Error {
    volume.damaged(
        "is newer than 'meta.redb', or that of another data directory: 'meta.redb' is an older copy, and lacks \
         transactions that were acknowledged",
    )
}

fn refuse_damage(volume: &Volume, chain: &Chain<'_>) -> Result<()> {
    match chain.damaged {
        None => Ok(()),
        Some((missing, at)) => Err(volume
            .damaged(&format!("is damaged at byte {at}: transaction {missing} cannot be read, and later ones follow"))),
    }
}

fn write_slot(file: &dyn DiskFile, slot: &Slot, buffer: &mut AlignedBuffer) -> io::Result<()> {
    let room = buffer.room(ALIGN);
    slot.encode(room);
    file.write_all_at(room, Slot::at(slot.round.number))
}

fn new_secret() -> Result<Secret> {
    let mut secret = Secret::default();
    getrandom::fill(&mut secret)
        .map_err(|error| Error::unavailable(format!("the operating system gives no random bytes: {error}")))?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::{disk::RealDisk, volume::Sizes},
        *,
    };

    const SIZES: Sizes = Sizes { journal: 16 << 20, segment: 1 << 20, reserve: 0, witness_every: Duration::ZERO };

    struct Fixture {
        _dir: tempfile::TempDir,
        volume: Arc<Volume>,
        round: Round,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let volume = Arc::new(Volume::on(Arc::new(RealDisk), dir.path(), SIZES));
            let round = Journal::prepare(&volume, 0).unwrap();
            Journal::adopt(&volume).unwrap();
            Self { _dir: dir, volume, round }
        }

        fn open(&self, applied: u64) -> Result<(Journal, Vec<Vec<u8>>)> {
            let mut frames = Vec::new();
            let journal = Journal::open(&self.volume, self.round, applied, |frame| {
                frames.push(frame.payload.to_vec());
                Ok(())
            })?;
            Ok((journal, frames))
        }

        fn overwrite(&self, at: usize, bytes: &[u8]) {
            let file = self.volume.disk.open(&self.volume.path(JOURNAL), OpenMode::WRITE).unwrap();
            file.write_all_at(bytes, at as u64).unwrap();
        }

        /// As after a power loss: the witness was not synced.
        fn forget_witness(&self) {
            self.volume.disk.remove(&self.volume.path(super::super::witness::LOCK)).unwrap();
        }
    }

    fn append(journal: &mut Journal, payload: &[u8]) -> bool {
        journal.append(payload.len(), |room| room.copy_from_slice(payload)).unwrap()
    }

    #[test]
    fn frames_after_the_checkpoint_are_replayed_in_order() {
        let mut fixture = Fixture::new();
        let (mut journal, frames) = fixture.open(0).unwrap();
        assert!(frames.is_empty());
        for payload in [&b"one"[..], &[2; 10_000], b"three"] {
            assert!(append(&mut journal, payload));
        }
        assert_eq!(journal.last(), 3);
        drop(journal);
        let (mut journal, frames) = fixture.open(0).unwrap();
        assert_eq!(frames, [b"one".to_vec(), vec![2; 10_000], b"three".to_vec()]);
        fixture.round = journal.next_round(3).unwrap();
        journal.enter(fixture.round, 3);
        assert!(append(&mut journal, b"four"));
        drop(journal);
        assert_eq!(fixture.open(3).unwrap().1, [b"four".to_vec()], "frames of the round before are passed over");
    }

    #[test]
    fn a_prepared_round_that_the_database_did_not_reach_is_passed_over() {
        let fixture = Fixture::new();
        let (mut journal, _) = fixture.open(0).unwrap();
        append(&mut journal, b"one");
        journal.next_round(1).unwrap();
        append(&mut journal, b"two");
        drop(journal);
        assert_eq!(fixture.open(0).unwrap().1, [b"one".to_vec(), b"two".to_vec()]);
    }

    #[test]
    fn a_full_journal_refuses_the_next_frame() {
        let fixture = Fixture::new();
        let (mut journal, _) = fixture.open(0).unwrap();
        let payload = vec![1; PAYLOAD_MAX];
        while append(&mut journal, &payload) {}
        assert_eq!(journal.last(), 3);
        let round = journal.next_round(3).unwrap();
        journal.enter(round, 3);
        assert!(append(&mut journal, &payload));
    }

    #[test]
    fn a_torn_last_frame_never_was() {
        let fixture = Fixture::new();
        let (mut journal, _) = fixture.open(0).unwrap();
        append(&mut journal, b"one");
        append(&mut journal, &[2; 10_000]);
        drop(journal);
        fixture.overwrite(FRAMES_AT + ALIGN + 5000, &[0; 100]);
        fixture.forget_witness();
        let (mut journal, frames) = fixture.open(0).unwrap();
        assert_eq!(frames, [b"one".to_vec()]);
        append(&mut journal, b"two");
        drop(journal);
        assert_eq!(fixture.open(0).unwrap().1, [b"one".to_vec(), b"two".to_vec()]);
    }

    #[test]
    fn p1_a_last_frame_that_was_acknowledged_and_is_damaged_is_refused() {
        let fixture = Fixture::new();
        let (mut journal, _) = fixture.open(0).unwrap();
        append(&mut journal, b"one");
        append(&mut journal, b"two");
        drop(journal);
        fixture.overwrite(FRAMES_AT + ALIGN + FRAME_HEADER, b"X");
        let Err(Error::DataLoss(text)) = fixture.open(0) else { panic!("the damage was not seen") };
        assert!(text.contains("ends with transaction 1, and 2 were acknowledged"), "{text}");
    }

    #[test]
    fn p1_a_replay_that_failed_half_way_is_continued() {
        let fixture = Fixture::new();
        let (mut journal, _) = fixture.open(0).unwrap();
        append(&mut journal, b"one");
        append(&mut journal, b"two");
        drop(journal);
        let mut seen = 0;
        let failed = Journal::open(&fixture.volume, fixture.round, 0, |frame| {
            seen = frame.number;
            if frame.number == 2 { Err(Error::unavailable("busy")) } else { Ok(()) }
        });
        assert!(failed.is_err() && seen == 2);
        // The database has the first frame by now.
        assert_eq!(fixture.open(1).unwrap().1, [b"two".to_vec()]);
    }

    #[test]
    fn p7_damage_before_the_last_frame_is_refused() {
        let fixture = Fixture::new();
        let (mut journal, _) = fixture.open(0).unwrap();
        for payload in [b"one", b"two", b"3rd"] {
            append(&mut journal, payload);
        }
        drop(journal);
        fixture.overwrite(FRAMES_AT + ALIGN + FRAME_HEADER, b"X");
        let Err(Error::DataLoss(text)) = fixture.open(0) else { panic!("the damage was not seen") };
        assert!(text.contains("transaction 2"), "{text}");
    }
}
