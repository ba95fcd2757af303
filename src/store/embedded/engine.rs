//! The database under the metadata tables: redb, with a journal in front.
//!
//! ```text
//! commit ─▶ journal frame, synced ─▶ redb, in memory: visible ─▶ answer
//!                  │ full: checkpoint: next round of the journal, redb durable
//! open: redb as of its last checkpoint ─▶ replay the frames after it, and write them again
//! failed access ─▶ revoked ─▶ open, as above
//! ```
//! A failed read or write ends a redb database. It is then opened again, which takes at most the replay of one journal;
//! what a commit had written before it failed is found there, so its outcome is known.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use redb::ReadableDatabase;

use super::{
    batch::Batch,
    database::{self, OpenDatabase},
    journal::{Journal, PAYLOAD_MAX},
    snapshot::Snapshot,
    volume::Volume,
};
use crate::error::{Error, Result};

/// Pause between attempts to open a database that cannot be opened.
const REOPEN_AFTER: Duration = Duration::from_millis(100);

/// An open database that heals: after a failed access it is opened again, and the journal has what had been committed.
pub(super) struct Engine {
    volume: Arc<Volume>,
    open: RwLock<Option<Arc<Journaled>>>,
    /// Held while the database is written or opened; has the last failure to open it.
    turn: Mutex<Option<(Instant, Error)>>,
}

/// A database and the journal in front of it.
struct Journaled {
    database: OpenDatabase,
    journal: Mutex<Journal>,
}

impl Engine {
    /// Opens or creates the database and its journal.
    ///
    /// # Errors
    /// [`Error::DataLoss`] if a file is missing, damaged or not the one that belongs there, [`Error::Unavailable`] if one
    /// cannot be read or written.
    pub(super) fn open(volume: Arc<Volume>) -> Result<Self> {
        let open = Journaled::open(&volume)?;
        Ok(Self { volume, open: RwLock::new(Some(Arc::new(open))), turn: Mutex::new(None) })
    }

    /// A consistent view of everything committed so far.
    ///
    /// # Errors
    /// As for [`open`](Self::open), if the database had to be opened again.
    pub(super) fn read(&self) -> Result<Snapshot> {
        match self.healthy() {
            Some(open) => open.read(),
            None => self.reopened(&mut self.turn())?.read(),
        }
    }

    /// Makes a batch durable and visible.
    ///
    /// # Errors
    /// [`Error::outcome_unknown`] if it may have been written. All other errors: it was not.
    pub(super) fn commit(&self, batch: &Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut turn = self.turn();
        let open = self.reopened(&mut turn)?;
        let number = open.lock_journal().last() + 1;
        let Err(error) = open.commit(batch) else { return Ok(()) };
        drop(open);
        self.forget();
        match self.reopened(&mut turn).map(|open| open.lock_journal().last() >= number) {
            Ok(true) => {
                tracing::warn!(%error, transaction = number, "a failed commit was found stored");
                Ok(())
            }
            Ok(false) => {
                tracing::warn!(%error, transaction = number, "a commit failed and was not found stored");
                // What found no room was not written, and never comes to be there.
                Err(if matches!(error, Error::Exhausted { .. }) { error } else { Error::outcome_unknown() })
            }
            Err(reopening) => {
                tracing::error!(%error, %reopening, transaction = number, "a commit failed, its outcome is unknown");
                Err(Error::outcome_unknown())
            }
        }
    }

    fn turn(&self) -> MutexGuard<'_, Option<(Instant, Error)>> {
        // A panic of an earlier holder leaves nothing half-done: the database is replaced as a whole.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn healthy(&self) -> Option<Arc<Journaled>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.as_ref().filter(|open| !open.database.health.has_failed()).cloned()
    }

    /// The database, opened again if it has failed.
    fn reopened(&self, last_failure: &mut Option<(Instant, Error)>) -> Result<Arc<Journaled>> {
        if let Some(open) = self.healthy() {
            return Ok(open);
        }
        if let Some((at, error)) = &*last_failure
            && at.elapsed() < REOPEN_AFTER
        {
            return Err(error.clone());
        }
        self.forget();
        match Journaled::open(&self.volume).map(Arc::new) {
            Ok(open) => {
                *last_failure = None;
                *self.open.write().unwrap_or_else(PoisonError::into_inner) = Some(open.clone());
                Ok(open)
            }
            Err(error) => {
                tracing::error!(%error, "the metadata database cannot be opened again");
                *last_failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Ends the database that is open: whatever still refers to it can neither read nor write any more.
    fn forget(&self) {
        if let Some(open) = self.open.write().unwrap_or_else(PoisonError::into_inner).take() {
            open.database.revoke();
        }
    }
}

impl Journaled {
    fn open(volume: &Arc<Volume>) -> Result<Self> {
        let (database, journal) = database::open(volume)?;
        Ok(Self { database, journal: Mutex::new(journal) })
    }

    fn read(&self) -> Result<Snapshot> {
        let health = &self.database.health;
        let transaction = self.database.redb.begin_read().map_err(|error| health.failed(error))?;
        Ok(Snapshot::new(transaction, health.clone()))
    }

    fn lock_journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit(&self, batch: &Batch) -> Result<()> {
        let mut journal = self.lock_journal();
        let len = batch.encoded_len();
        if len <= PAYLOAD_MAX && journal.append(len, |room| batch.encode(room))? {
            return self.database.apply(batch, journal.last());
        }
        // No room: this transaction makes the database durable, and everything before it.
        let number = journal.last() + 1;
        self.checkpoint(&mut journal, batch, number)
    }

    /// Makes the database durable with a batch and everything up to transaction `last`, and begins a round of the journal.
    fn checkpoint(&self, journal: &mut Journal, batch: &Batch, last: u64) -> Result<()> {
        let round = journal.next_round(last)?;
        self.database.make_durable(batch, last, &round)?;
        journal.enter(round, last);
        Ok(())
    }
}

impl Drop for Journaled {
    /// Leaves nothing to replay behind; if that fails, the journal still has it.
    fn drop(&mut self) {
        if self.database.is_revoked() {
            return;
        }
        let mut journal = self.lock_journal();
        let last = journal.last();
        let result = self.checkpoint(&mut journal, &Batch::default(), last);
        drop(journal);
        match result {
            Ok(()) => self.database.allow_close(),
            Err(error) => tracing::warn!(
                %error,
                "the metadata database could not be made durable: its journal is replayed at start"
            ),
        }
    }
}

#[cfg(test)]
impl Engine {
    /// Writes a batch to the journal alone, as a crash leaves it.
    pub(super) fn commit_to_journal(&self, batch: &Batch) {
        let open = self.healthy().expect("it is open");
        assert!(open.lock_journal().append(batch.encoded_len(), |room| batch.encode(room)).unwrap());
    }
}
