//! The database under the metadata tables.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
};

use redb::{Database, Durability, ReadTransaction, ReadableDatabase};

use super::tables::{TABLES, Table};
use crate::error::{Error, Result};

/// Bytes of pages that the engine keeps in memory.
const CACHE_BYTES: usize = 16 << 20;

/// One row to write (`Some`) or to remove (`None`).
type Change = (Table, Vec<u8>, Option<Vec<u8>>);

/// Rows that are written together or not at all.
#[derive(Default)]
pub(super) struct Batch {
    changes: Vec<Change>,
}

impl Batch {
    pub(super) fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.push((table, key.into(), Some(value.into())));
    }

    pub(super) fn remove(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.changes.push((table, key.into(), None));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// An open database that heals: after a failed write the engine refuses all further ones, so it is opened anew.
pub(super) struct Engine {
    path: PathBuf,
    database: RwLock<Option<Arc<Database>>>,
}

impl Engine {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let database = open(path)?;
        Ok(Self { path: path.into(), database: RwLock::new(Some(Arc::new(database))) })
    }

    /// A consistent view of everything committed so far.
    pub(super) fn read(&self) -> Result<Snapshot> {
        let transaction = self.database()?.begin_read().map_err(failed)?;
        Ok(Snapshot { transaction })
    }

    /// Makes a batch durable. After an error the outcome is unknown until the database has been opened anew, which the
    /// next call does.
    pub(super) fn commit(&self, batch: Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let database = self.database()?;
        let result = write(&database, batch);
        drop(database);
        if result.is_err() {
            self.forget();
        }
        result
    }

    fn database(&self) -> Result<Arc<Database>> {
        if let Some(database) = self.database.read().unwrap_or_else(std::sync::PoisonError::into_inner).as_ref() {
            return Ok(database.clone());
        }
        let mut slot = self.database.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        match slot.as_ref() {
            Some(database) => Ok(database.clone()),
            None => Ok(slot.insert(Arc::new(open(&self.path)?)).clone()),
        }
    }

    fn forget(&self) {
        self.database.write().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    }
}

fn open(path: &Path) -> Result<Database> {
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
    let transaction = database.begin_write().map_err(|error| named(error.into()))?;
    for table in TABLES {
        transaction.open_table(table).map_err(|error| named(error.into()))?;
    }
    transaction.commit().map_err(|error| named(error.into()))?;
    Ok(database)
}

fn write(database: &Database, mut batch: Batch) -> Result<()> {
    let mut transaction = database.begin_write().map_err(failed)?;
    transaction.set_durability(Durability::Immediate).map_err(failed)?;
    // Sorted by table, each table is opened once; the sort is stable, so later changes of a key still win.
    batch.changes.sort_by(|a, b| redb::TableHandle::name(&a.0).cmp(redb::TableHandle::name(&b.0)));
    let mut rest = batch.changes.as_slice();
    while let Some((definition, ..)) = rest.first() {
        let mut table = transaction.open_table(*definition).map_err(failed)?;
        let name = redb::TableHandle::name(definition);
        let len = rest.iter().take_while(|change| redb::TableHandle::name(&change.0) == name).count();
        for (_, key, value) in &rest[..len] {
            match value {
                Some(value) => drop(table.insert(key.as_slice(), value.as_slice()).map_err(failed)?),
                None => drop(table.remove(key.as_slice()).map_err(failed)?),
            }
        }
        rest = &rest[len..];
    }
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
