//! Reads of the metadata tables, all as of one time.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::ReadTransaction;

use super::tables::Table;
use crate::error::{Error, Result};

/// Whether a database is still of use: a failed access ends it, and it has to be opened again.
#[derive(Clone, Debug, Default)]
pub(super) struct Health(Arc<AtomicBool>);

impl Health {
    pub(super) fn has_failed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Records a failure of the database, and names it.
    pub(super) fn failed(&self, error: impl Into<redb::Error>) -> Error {
        let error = error.into();
        if matches!(
            error,
            redb::Error::Io(_)
                | redb::Error::Backend(_)
                | redb::Error::PreviousIo
                | redb::Error::DatabaseClosed
                | redb::Error::LockPoisoned(_)
        ) {
            self.0.store(true, Ordering::Release);
        }
        failure(error)
    }
}

/// What a failure of the database means to those who asked.
pub(super) fn failure(error: redb::Error) -> Error {
    match error {
        redb::Error::Corrupted(what) => Error::DataLoss(format!("the metadata database is damaged: {what}")),
        redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            Error::DataLoss(format!("the metadata database is damaged: {error}"))
        }
        redb::Error::Io(error) if super::disk::is_full(&error) => Error::Exhausted {
            what: "the metadata database found the disk full: free some space".into(),
            retry_after: std::time::Duration::from_secs(1),
        },
        other => Error::unavailable(format!("the metadata database failed: {other}")),
    }
}

/// A consistent view of the tables.
pub(super) struct Snapshot {
    transaction: ReadTransaction,
    health: Health,
}

/// A row: key and value.
pub(super) type Row = (Vec<u8>, Vec<u8>);

impl Snapshot {
    pub(super) fn new(transaction: ReadTransaction, health: Health) -> Self {
        Self { transaction, health }
    }

    fn failed(&self, error: impl Into<redb::Error>) -> Error {
        self.health.failed(error)
    }

    pub(super) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let table = self.transaction.open_table(table).map_err(|error| self.failed(error))?;
        Ok(table.get(key).map_err(|error| self.failed(error))?.map(|value| value.value().to_vec()))
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
        let table = self.transaction.open_table(table).map_err(|error| self.failed(error))?;
        for row in table.range(from..to).map_err(|error| self.failed(error))? {
            let (key, value) = row.map_err(|error| self.failed(error))?;
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
        let table = self.transaction.open_table(table).map_err(|error| self.failed(error))?;
        let mut range = table.range(from..to).map_err(|error| self.failed(error))?;
        let row = range.next_back().transpose().map_err(|error| self.failed(error))?;
        Ok(row.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())))
    }
}
