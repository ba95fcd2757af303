//! The database under the metadata tables: redb, with a journal in front.
//!
//! ```text
//! commit ─▶ journal frame, synced ─▶ redb, in memory: visible ─▶ answer
//!                  │ full: redb makes itself durable instead, and the journal begins again
//! open: redb as of its last durable commit ─▶ replay the frames after it
//! ```

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use bytes::{Buf, BufMut};
use redb::{Database, Durability, ReadTransaction, ReadableDatabase, TableHandle};

use super::{
    journal::{Journal, PAYLOAD_MAX},
    tables::{self, FACT_APPLIED, FACT_FORMAT, FACTS, FORMAT, TABLES, Table},
};
use crate::error::{Error, Result};

/// Bytes of pages that the engine keeps in memory.
const CACHE_BYTES: usize = 16 << 20;

/// One row to write (`Some`) or to remove (`None`), and the index of its table in [`TABLES`].
struct Change {
    table: u8,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

/// Rows that are written together or not at all.
#[derive(Default)]
pub(super) struct Batch {
    changes: Vec<Change>,
}

impl Batch {
    pub(super) fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.push(Change { table: number(table), key: key.into(), value: Some(value.into()) });
    }

    pub(super) fn remove(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.changes.push(Change { table: number(table), key: key.into(), value: None });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes that [`encode`](Self::encode) fills.
    fn encoded_len(&self) -> usize {
        let len = |change: &Change| CHANGE_PREFIX + change.key.len() + change.value.as_ref().map_or(0, Vec::len);
        self.changes.iter().map(len).sum()
    }

    /// The batch as the payload of a journal frame.
    ///
    /// ```text
    /// | table u8 | key len u32 | value len u32, all ones to remove | key | value |  repeated
    /// ```
    fn encode(&self, mut room: &mut [u8]) {
        for change in &self.changes {
            room.put_u8(change.table);
            room.put_u32_le(u32::try_from(change.key.len()).unwrap_or(u32::MAX));
            let value_len = change.value.as_ref().map_or(u32::MAX, |value| u32::try_from(value.len()).unwrap_or(0));
            room.put_u32_le(value_len);
            room.put_slice(&change.key);
            room.put_slice(change.value.as_deref().unwrap_or_default());
        }
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` if the bytes are something else.
    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut changes = Vec::new();
        while !bytes.is_empty() {
            if bytes.len() < CHANGE_PREFIX {
                return None;
            }
            let (table, key_len, value_len) = (bytes.get_u8(), bytes.get_u32_le(), bytes.get_u32_le());
            if usize::from(table) >= TABLES.len() {
                return None;
            }
            let (key, rest) = bytes.split_at_checked(usize::try_from(key_len).ok()?)?;
            let removed = value_len == u32::MAX;
            let value_len = if removed { 0 } else { usize::try_from(value_len).ok()? };
            let (value, rest) = rest.split_at_checked(value_len)?;
            changes.push(Change { table, key: key.into(), value: (!removed).then(|| value.into()) });
            bytes = rest;
        }
        Some(Self { changes })
    }
}

const CHANGE_PREFIX: usize = 9;

/// An open database that heals: after a failed write it is opened anew, and the journal tells what had been committed.
pub(super) struct Engine {
    dir: PathBuf,
    open: RwLock<Option<Arc<Journaled>>>,
}

/// A database and the journal in front of it.
struct Journaled {
    database: Database,
    journal: Mutex<Journal>,
}

impl Engine {
    /// Opens or creates the database `meta.redb` and its journal in a directory.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let open = Journaled::open(dir)?;
        Ok(Self { dir: dir.into(), open: RwLock::new(Some(Arc::new(open))) })
    }

    /// A consistent view of everything committed so far.
    pub(super) fn read(&self) -> Result<Snapshot> {
        let transaction = self.current()?.database.begin_read().map_err(failed)?;
        Ok(Snapshot { transaction })
    }

    /// Makes a batch durable and visible. After an error the outcome is unknown until the database has been opened anew,
    /// which the next call does.
    pub(super) fn commit(&self, batch: &Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let open = self.current()?;
        let result = open.commit(batch);
        drop(open);
        if result.is_err() {
            self.forget();
        }
        result
    }

    fn current(&self) -> Result<Arc<Journaled>> {
        if let Some(open) = self.open.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            return Ok(open.clone());
        }
        let mut slot = self.open.write().unwrap_or_else(PoisonError::into_inner);
        match slot.as_ref() {
            Some(open) => Ok(open.clone()),
            None => Ok(slot.insert(Arc::new(Journaled::open(&self.dir)?)).clone()),
        }
    }

    fn forget(&self) {
        self.open.write().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Journaled {
    fn open(dir: &Path) -> Result<Self> {
        let database = open_database(&dir.join("meta.redb"))?;
        let applied = fact(&database, FACT_APPLIED)?.unwrap_or(0);
        let path = dir.join("journal");
        let journal = Journal::open(&path, applied, |number, payload| {
            let Some(batch) = Batch::decode(payload) else {
                // A later version says which it is before it writes what this one does not know.
                return Err(match fact(&database, FACT_FORMAT)? {
                    Some(format) if format > FORMAT => tables::unknown_format(dir, format),
                    _ => Error::DataLoss(format!("'{}': transaction {number} cannot be read", path.display())),
                });
            };
            apply(&database, &batch, number, Durability::None)
        })?;
        if journal.last() > applied {
            tracing::info!(transactions = journal.last() - applied, "replayed the journal");
        }
        Ok(Self { database, journal: Mutex::new(journal) })
    }

    fn commit(&self, batch: &Batch) -> Result<()> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let len = batch.encoded_len();
        if len <= PAYLOAD_MAX && journal.append(len, |room| batch.encode(room))? {
            return apply(&self.database, batch, journal.last(), Durability::None);
        }
        // No room: this transaction makes the database durable, and everything before it.
        apply(&self.database, batch, journal.last(), Durability::Immediate)?;
        journal.restart();
        Ok(())
    }
}

impl Drop for Journaled {
    /// Leaves nothing to replay behind; if that fails, the journal still has it.
    fn drop(&mut self) {
        let journal = self.journal.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = apply(&self.database, &Batch::default(), journal.last(), Durability::Immediate) {
            tracing::warn!(%error, "the metadata database could not be made durable: its journal is replayed at start");
        }
    }
}

fn fact(database: &Database, name: &[u8]) -> Result<Option<u64>> {
    let transaction = database.begin_read().map_err(failed)?;
    let value = Snapshot { transaction }.get(FACTS, name)?;
    value.map(|value| tables::read_u64("facts", name, &value)).transpose()
}

fn number(table: Table) -> u8 {
    let position = TABLES.iter().position(|known| known.name() == table.name());
    position.and_then(|position| position.try_into().ok()).expect("every table is listed in TABLES")
}

/// Makes the database under another name first: one whose making was cut short could not be opened, and nobody could
/// tell it from a damaged one.
fn create_if_missing(path: &Path) -> std::io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let unfinished = path.with_extension("unfinished");
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    drop(Database::create(&unfinished).map_err(std::io::Error::other)?);
    std::fs::rename(&unfinished, path)?;
    path.parent().map_or(Ok(()), super::sync_dir)
}

fn open_database(path: &Path) -> Result<Database> {
    create_if_missing(path)
        .map_err(|error| Error::unavailable(format!("'{}' cannot be made: {error}", path.display())))?;
    let named = |error: redb::Error| match error {
        redb::Error::DatabaseAlreadyOpen => {
            Error::unavailable(format!("'{}' is still in use: try again", path.display()))
        }
        redb::Error::Corrupted(what) => Error::DataLoss(format!(
            "'{}' is damaged ({what}): restore the data directory from a backup",
            path.display()
        )),
        other => Error::unavailable(format!("'{}' cannot be opened: {other}", path.display())),
    };
    let database = Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(|error| named(error.into()))?;
    let mut transaction = database.begin_write().map_err(|error| named(error.into()))?;
    transaction.set_quick_repair(true);
    for table in TABLES {
        transaction.open_table(table).map_err(|error| named(error.into()))?;
    }
    transaction.commit().map_err(|error| named(error.into()))?;
    Ok(database)
}

/// Writes a batch to the database, together with the number of the last journal frame that it then has.
fn apply(database: &Database, batch: &Batch, applied: u64, durability: Durability) -> Result<()> {
    let mut transaction = database.begin_write().map_err(failed)?;
    transaction.set_durability(durability).map_err(failed)?;
    // Opening after a crash then needs no walk over the whole file.
    transaction.set_quick_repair(matches!(durability, Durability::Immediate));
    // By table, so that each is opened once; the sort is stable, so later changes of a key still win.
    let mut changes: Vec<&Change> = batch.changes.iter().collect();
    changes.sort_by_key(|change| change.table);
    for of_table in changes.chunk_by(|a, b| a.table == b.table) {
        let mut table = transaction.open_table(TABLES[usize::from(of_table[0].table)]).map_err(failed)?;
        for change in of_table {
            match &change.value {
                Some(value) => drop(table.insert(change.key.as_slice(), value.as_slice()).map_err(failed)?),
                None => drop(table.remove(change.key.as_slice()).map_err(failed)?),
            }
        }
    }
    let mut facts = transaction.open_table(FACTS).map_err(failed)?;
    facts.insert(FACT_APPLIED, applied.to_le_bytes().as_slice()).map_err(failed)?;
    drop(facts);
    transaction.commit().map_err(failed)
}

/// A consistent view of the tables.
pub(super) struct Snapshot {
    transaction: ReadTransaction,
}

/// A row: key and value.
pub(super) type Row = (Vec<u8>, Vec<u8>);

impl Snapshot {
    pub(super) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let table = self.transaction.open_table(table).map_err(failed)?;
        Ok(table.get(key).map_err(failed)?.map(|value| value.value().to_vec()))
    }

    /// Hands rows with `from <= key < to` to `visit`, in order, until it says `false`.
    pub(super) fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool>,
    ) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        let table = self.transaction.open_table(table).map_err(failed)?;
        for row in table.range(from..to).map_err(failed)? {
            let (key, value) = row.map_err(failed)?;
            if !visit(key.value(), value.value())? {
                break;
            }
        }
        Ok(())
    }

    /// The last row with `from <= key < to`.
    pub(super) fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>> {
        if from >= to {
            return Ok(None);
        }
        let table = self.transaction.open_table(table).map_err(failed)?;
        let row = table.range(from..to).map_err(failed)?.next_back().transpose().map_err(failed)?;
        Ok(row.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())))
    }
}

fn failed(error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Corrupted(what) => Error::DataLoss(format!("the metadata database is damaged: {what}")),
        other => Error::unavailable(format!("the metadata database failed: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a version with one more table leaves behind when it is killed; it had said which format it writes, or not.
    fn left_behind(format: Option<u64>) -> tempfile::TempDir {
        let [dir, copy] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let engine = Engine::open(dir.path()).unwrap();
        if let Some(format) = format {
            let mut batch = Batch::default();
            batch.put(FACTS, FACT_FORMAT, format.to_le_bytes());
            engine.commit(&batch).unwrap();
        }
        let table = u8::try_from(TABLES.len()).unwrap();
        let batch = Batch { changes: vec![Change { table, key: b"k".into(), value: Some(b"v".into()) }] };
        let open = engine.current().unwrap();
        let mut journal = open.journal.lock().unwrap();
        assert!(journal.append(batch.encoded_len(), |room| batch.encode(room)).unwrap());
        for name in ["meta.redb", "journal"] {
            std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
        }
        copy
    }

    fn refusal(dir: &tempfile::TempDir) -> Error {
        Engine::open(dir.path()).map(drop).unwrap_err()
    }

    #[test]
    fn a_journal_of_a_later_format_is_no_damage() {
        let later = refusal(&left_behind(Some(FORMAT + 1)));
        let told = "has format 4, and this version reads formats up to 3: use the version that wrote it";
        assert!(matches!(later, Error::Unavailable { .. }) && later.to_string().contains(told), "{later}");
        for format in [None, Some(FORMAT)] {
            let damaged = refusal(&left_behind(format));
            assert!(
                matches!(damaged, Error::DataLoss(_)) && damaged.to_string().contains("cannot be read"),
                "{damaged}"
            );
        }
    }
}
