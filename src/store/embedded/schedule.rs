//! Messages that wait for their time: blocks of the subject `$scheduled`, and a row for each that says when they go
//! where. They get the sequence of their own subject when they go.

use super::{
    retention::remove_one,
    scan::find_block,
    snapshot::Snapshot,
    tables::{self, SCHEDULE},
    transaction::{Insert, Transaction},
};
use crate::{
    error::Result,
    store::Due,
    types::{Subject, Timestamp},
};

pub(super) fn schedule(transaction: &mut Transaction, to: &Subject, due: Timestamp, insert: Insert) -> Result<()> {
    let block = transaction.insert_block(&Subject::scheduled(), insert)?;
    let key = tables::timed_key(due, &block.stream_first.to_be_bytes());
    transaction.batch.put(SCHEDULE, key, to.as_str());
    Ok(())
}

/// When the next message is due.
pub(super) fn next_due(snapshot: &Snapshot) -> Result<Option<Timestamp>> {
    let mut next = None;
    snapshot.scan(SCHEDULE, &[], &[0xFF; 17], |key, _| {
        next = Some(Timestamp(tables::read_first(&key[..8.min(key.len())])?));
        Ok(false)
    })?;
    Ok(next)
}

/// Moves what is due to its subjects, at most `limit` messages.
pub(super) fn deliver_due(transaction: &mut Transaction, now: Timestamp, limit: usize) -> Result<Due> {
    let mut due = Vec::new();
    let to = tables::timed_key(now.after(std::time::Duration::from_millis(1)), &[]);
    transaction.snapshot.scan(SCHEDULE, &[], &to, |key, value| {
        due.push((key.to_vec(), tables::read_subject(value)?));
        Ok(due.len() < limit)
    })?;
    let more = due.len() == limit;
    for (key, subject) in due {
        let at = tables::read_first(&key)?;
        transaction.batch.remove(SCHEDULE, key);
        // One that is not there any more has expired, or was purged.
        let Some(placed) = find_block(&transaction.snapshot, at)? else { continue };
        let block = placed.block;
        let insert = Insert {
            count: block.count,
            created: now,
            expires: block.expires,
            crc: block.crc,
            placement: block.placement.clone(),
        };
        transaction.insert_block(&subject, insert)?;
        remove_one(transaction, &placed.subject, &block, now)?;
    }
    Ok(Due { raised: transaction.raised(), more })
}
