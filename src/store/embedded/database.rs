//! The redb database: opened, brought to the present format, and given the frames of its journal that it lacks.
//!
//! ```text
//! first run:  meta.redb ─▶ journal.unfinished ─▶ redb durable with its round, format 4 ─▶ journal
//! format < 4: meta.redb + frames of the old journal ─▶ the same
//! later:      meta.redb ─▶ round ─▶ journal ─▶ frames
//! ```

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::{Database, Durability, ReadableDatabase, TableHandle};

use super::{
    backend::{Backend, DATABASE},
    batch::{Batch, Change},
    disk::{Create, OpenMode},
    frame::Round,
    journal::{JOURNAL, Journal, Replay},
    snapshot::{Health, Snapshot, failure},
    tables::{
        self, FACT_APPLIED, FACT_FORMAT, FACT_ROUND, FACT_UNORDERED, FACTS, FORMAT, FORMAT_WITHOUT_ORDER, TABLES,
    },
    volume::Volume,
};
use crate::error::{Error, Result};

/// Bytes of pages that the engine keeps in memory.
const CACHE_BYTES: usize = 16 << 20;

/// Directories with payload.
const PAYLOAD: [&str; 2] = ["segments", "objects"];

/// An open database.
pub(super) struct OpenDatabase {
    pub(super) redb: Database,
    pub(super) health: Health,
    backend: Backend,
    /// Whether redb may write when it is dropped.
    may_close: AtomicBool,
}

impl Drop for OpenDatabase {
    /// Keeps redb from making durable what it has in memory: the journal may not have it, or not yet again.
    fn drop(&mut self) {
        if !self.may_close.load(Ordering::Acquire) {
            self.revoke();
        }
    }
}

/// Opens the database of a directory and its journal, and makes them if neither is there.
///
/// # Errors
/// [`Error::DataLoss`] if one of them is missing, damaged or not the one that belongs there, [`Error::Unavailable`] if
/// one cannot be read or written.
pub(super) fn open(volume: &Arc<Volume>) -> Result<(OpenDatabase, Journal)> {
    create_if_missing(volume)?;
    let database = OpenDatabase::open(volume)?;
    let round = match database.fact(FACT_ROUND)? {
        Some(value) => Round::decode(&value).ok_or_else(|| tables::unreadable("facts", FACT_ROUND))?,
        None => adopt_journal(volume, &database)?,
    };
    let applied = database.applied()?;
    let journal = Journal::open(volume, round, applied, |frame| database.replay(volume, &frame))?;
    if journal.last() > applied {
        tracing::info!(transactions = journal.last() - applied, "replayed the journal");
    }
    Ok((database, journal))
}

/// Makes the database under another name first: one that was cut short could not be opened, and would look damaged.
fn create_if_missing(volume: &Arc<Volume>) -> Result<()> {
    if volume.exists(DATABASE)? {
        return Ok(());
    }
    let path = volume.path(DATABASE);
    let mut others = Vec::new();
    if volume.exists(JOURNAL)? {
        others.push(JOURNAL);
    }
    others.extend(PAYLOAD.into_iter().filter(|dir| {
        // A directory that is missing is empty.
        volume.disk.list(&volume.path(dir)).is_ok_and(|files| !files.is_empty())
    }));
    if !others.is_empty() {
        return Err(Error::DataLoss(format!(
            "'{}' is missing, and the directory has {}: put it back, or restore a backup into an empty directory",
            path.display(),
            others.join(", ")
        )));
    }
    let unfinished = path.with_extension("unfinished");
    let create = || {
        let file = volume.disk.open(&unfinished, OpenMode::WRITE.create(Create::Empty))?;
        let backend = Backend::new(volume.clone(), file);
        drop(Database::builder().create_with_backend(backend).map_err(std::io::Error::other)?);
        volume.disk.rename(&unfinished, &path)?;
        volume.disk.sync_dir(&volume.dir)
    };
    create().map_err(|error| volume.failed(DATABASE, "made", &error))
}

/// Gives a database without rounds its journal: a new one, or, in a directory of an earlier format, the frames of the old
/// one. May be cut short and repeated.
fn adopt_journal(volume: &Volume, database: &OpenDatabase) -> Result<Round> {
    let mut last = database.applied()?;
    if database.number(FACT_FORMAT)?.is_some() || volume.exists(JOURNAL)? {
        last = Journal::replay_without_rounds(volume, last, |frame| database.replay(volume, &frame))?;
    }
    let mut batch = Batch::default();
    match database.number(FACT_FORMAT)? {
        Some(later) if later > FORMAT => return Err(tables::unknown_format(&volume.dir, later)),
        Some(FORMAT_WITHOUT_ORDER) => batch.put(FACTS, FACT_UNORDERED, 1u64.to_le_bytes()),
        _ => {}
    }
    // An older version must not open what follows.
    batch.put(FACTS, FACT_FORMAT, FORMAT.to_le_bytes());
    let round = Journal::prepare(volume, last)?;
    database.make_durable(&batch, last, &round)?;
    Journal::adopt(volume)?;
    Ok(round)
}

impl OpenDatabase {
    fn open(volume: &Arc<Volume>) -> Result<Self> {
        let file = volume.disk.open(&volume.path(DATABASE), OpenMode::WRITE);
        let file = file.map_err(|error| volume.failed(DATABASE, "opened", &error))?;
        // What an earlier process could not sync must not be taken for stored: it is read from the device.
        let synced = file.sync_data().and_then(|()| file.drop_cache());
        synced.map_err(|error| volume.failed(DATABASE, "synced", &error))?;
        let backend = Backend::new(volume.clone(), file);
        let builder = |backend| Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend);
        // The engine asserts what it reads of a file that it takes for its own.
        let opened = catch_unwind(AssertUnwindSafe(|| builder(backend.clone())));
        let damaged = |what: &dyn std::fmt::Display| {
            Error::DataLoss(format!(
                "'{}' is damaged ({what}): restore a backup into an empty directory",
                volume.path(DATABASE).display()
            ))
        };
        let redb = match opened {
            Ok(Ok(redb)) => redb,
            Ok(Err(error)) => {
                return Err(match error.into() {
                    redb::Error::Corrupted(what) => damaged(&what),
                    redb::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => damaged(&error),
                    other => match failure(other) {
                        Error::Unavailable { what, .. } => Error::unavailable(format!(
                            "'{}' cannot be opened: {what}",
                            volume.path(DATABASE).display()
                        )),
                        other => other,
                    },
                });
            }
            Err(_) => return Err(damaged(&"its structure contradicts itself")),
        };
        let database = Self { redb, health: Health::default(), backend, may_close: AtomicBool::new(false) };
        database.create_tables()?;
        Ok(database)
    }

    /// Writes nothing if all tables are there: a full disk must not keep a database from being opened.
    fn create_tables(&self) -> Result<()> {
        let failed = |error: redb::Error| self.health.failed(error);
        let transaction = self.redb.begin_read().map_err(|error| failed(error.into()))?;
        let known: Vec<_> = transaction.list_tables().map_err(|error| failed(error.into()))?.collect();
        if TABLES.iter().all(|table| known.iter().any(|known| known.name() == table.name())) {
            return Ok(());
        }
        drop(transaction);
        let mut transaction = self.redb.begin_write().map_err(|error| failed(error.into()))?;
        transaction.set_quick_repair(true);
        for table in TABLES {
            transaction.open_table(table).map_err(|error| failed(error.into()))?;
        }
        transaction.commit().map_err(|error| failed(error.into()))
    }

    /// Ends all access through this value, for good.
    pub(super) fn revoke(&self) {
        self.backend.revoke();
    }

    /// Everything is durable: redb may mark the file as closed.
    pub(super) fn allow_close(&self) {
        self.may_close.store(true, Ordering::Release);
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.backend.is_revoked()
    }

    fn fact(&self, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let transaction = self.redb.begin_read().map_err(|error| self.health.failed(error))?;
        Snapshot::new(transaction, self.health.clone()).get(FACTS, name)
    }

    fn number(&self, name: &[u8]) -> Result<Option<u64>> {
        self.fact(name)?.map(|value| tables::read_u64("facts", name, &value)).transpose()
    }

    /// The number of the last transaction that the database has.
    fn applied(&self) -> Result<u64> {
        Ok(self.number(FACT_APPLIED)?.unwrap_or(0))
    }

    fn replay(&self, volume: &Volume, frame: &Replay<'_>) -> Result<()> {
        let Some(batch) = Batch::decode(frame.payload) else {
            // A later version says which it is before it writes what this one does not know.
            return Err(match self.number(FACT_FORMAT)? {
                Some(format) if format > FORMAT => tables::unknown_format(&volume.dir, format),
                _ => volume.damaged(&format!("has a transaction that cannot be read: {}", frame.number)),
            });
        };
        self.apply(&batch, frame.number)
    }

    /// Makes a batch visible, as transaction `number`. The journal has it already.
    pub(super) fn apply(&self, batch: &Batch, number: u64) -> Result<()> {
        self.write(batch, number, None)
    }

    /// Makes a batch durable, as transaction `number`, with everything before it and with the round of the journal that
    /// begins behind it.
    pub(super) fn make_durable(&self, batch: &Batch, number: u64, round: &Round) -> Result<()> {
        self.write(batch, number, Some(round))
    }

    fn write(&self, batch: &Batch, number: u64, round: Option<&Round>) -> Result<()> {
        let failed = |error: redb::Error| self.health.failed(error);
        let mut transaction = self.redb.begin_write().map_err(|error| failed(error.into()))?;
        let durability = if round.is_some() { Durability::Immediate } else { Durability::None };
        transaction.set_durability(durability).map_err(|error| failed(error.into()))?;
        // Opening after a crash then needs no walk over the whole file.
        transaction.set_quick_repair(round.is_some());
        // By table, so that each is opened once; the sort is stable, so later changes of a key still win.
        let mut changes: Vec<&Change> = batch.changes.iter().collect();
        changes.sort_by_key(|change| change.table);
        for of_table in changes.chunk_by(|a, b| a.table == b.table) {
            let table = TABLES[usize::from(of_table[0].table)];
            let mut table = transaction.open_table(table).map_err(|error| failed(error.into()))?;
            for change in of_table {
                match &change.value {
                    Some(value) => table.insert(change.key.as_slice(), value.as_slice()).map(drop),
                    None => table.remove(change.key.as_slice()).map(drop),
                }
                .map_err(|error| failed(error.into()))?;
            }
        }
        let mut facts = transaction.open_table(FACTS).map_err(|error| failed(error.into()))?;
        facts.insert(FACT_APPLIED, number.to_le_bytes().as_slice()).map_err(|error| failed(error.into()))?;
        if let Some(round) = round {
            facts.insert(FACT_ROUND, round.encode().as_slice()).map_err(|error| failed(error.into()))?;
        }
        drop(facts);
        transaction.commit().map_err(|error| failed(error.into()))
    }
}
