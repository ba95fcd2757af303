//! Rows that are due, by tables that sort by time: deadlines, expiry, schedules.
//!
//! A row that cannot be read is passed over, named and counted, and stays as it is for `check`: it must keep neither those
//! behind it from being handled, nor be deleted because something is missing (P5).

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{
    tables::{self, Table},
    transaction::Transaction,
};
use crate::{
    error::{Error, Result},
    types::Timestamp,
};

/// So many rows that cannot be read are passed over in one pass.
const SKIPPED_MAX: usize = 10_000;

/// Counts rows that cannot be read, each time they are met.
#[derive(Debug, Default)]
pub(super) struct Skipped(AtomicU64);

impl Skipped {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// What was read of a row; `None` if it cannot be read.
    ///
    /// # Errors
    /// All but [`Error::DataLoss`].
    pub(super) fn pass<T>(&self, table: &str, read: Result<T>) -> Result<Option<T>> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error @ Error::DataLoss(_)) => {
                self.0.fetch_add(1, Ordering::Relaxed);
                tracing::error!(table, %error, "a row cannot be read and is passed over: run 'minitoolstream check'");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// The key of a row behind its time.
pub(super) fn behind_time<'a>(table: &str, key: &'a [u8]) -> Result<&'a [u8]> {
    key.get(8..).ok_or_else(|| tables::unreadable(table, key))
}

/// Hands the rows of a table whose time has come to `handle`, the oldest first, at most `limit`; gives how many were
/// handled. `handle` either does all of its work or fails and leaves the transaction as it was.
///
/// # Errors
/// Those of the store, and of `handle` but for [`Error::DataLoss`].
pub(super) fn each_due(
    transaction: &mut Transaction,
    (table, name): (Table, &str),
    (now, limit): (Timestamp, usize),
    skipped: &Skipped,
    mut handle: impl FnMut(&mut Transaction, &[u8], &[u8]) -> Result<()>,
) -> Result<usize> {
    let to = tables::timed_key(now.after(Duration::from_millis(1)), &[]);
    let (mut from, mut handled, mut passed) = (Vec::new(), 0, 0);
    while handled < limit && passed < SKIPPED_MAX {
        let mut rows = Vec::new();
        transaction.snapshot.scan(table, &from, &to, |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            Ok(rows.len() < limit - handled)
        })?;
        let is_last = rows.len() < limit - handled;
        for (key, value) in &rows {
            let done = handle(transaction, key, value);
            match skipped.pass(name, done)? {
                Some(()) => handled += 1,
                None => passed += 1,
            }
        }
        match rows.pop() {
            Some((last, _)) if !is_last => from = [last.as_slice(), &[0]].concat(),
            _ => break,
        }
    }
    Ok(handled)
}
