//! Messages that wait for their time: blocks of the subject `$scheduled`, and a row for each that says when they go
//! where. They get the sequence of their own subject when they go.

use super::{
    due::{Skipped, each_due},
    retention::remove_one,
    scan::{find_block, read_block},
    snapshot::Snapshot,
    tables::{self, BLOCKS, SCHEDULE},
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
        // A key that cannot be read is passed over, as it is when messages are moved.
        next = tables::read_schedule_key(key).ok().map(|(due, _)| due);
        Ok(next.is_none())
    })?;
    Ok(next)
}

/// Moves what is due to its subjects, at most `limit` messages.
pub(super) fn deliver_due(
    transaction: &mut Transaction,
    now: Timestamp,
    limit: usize,
    skipped: &Skipped,
) -> Result<Due> {
    let handled = each_due(transaction, (SCHEDULE, "schedule"), (now, limit), skipped, |transaction, key, value| {
        transaction.attempt(|transaction| deliver_one(transaction, key, &tables::read_subject(value)?, now))
    })?;
    Ok(Due { raised: transaction.raised(), more: handled == limit })
}

fn deliver_one(transaction: &mut Transaction, key: &[u8], subject: &Subject, now: Timestamp) -> Result<()> {
    let at = tables::read_first(key)?;
    transaction.batch.remove(SCHEDULE, key);
    // One that is not there any more has expired, or was purged.
    let Some(placed) = find_block(&transaction.snapshot, at)? else { return Ok(()) };
    // Its own row, which must be readable: a stand-in for a damaged one must not take its place.
    let key = tables::block_key(&placed.subject, placed.block.first);
    let value = transaction.snapshot.get(BLOCKS, &key)?.ok_or_else(|| tables::unreadable("blocks", &key))?;
    let block = read_block(&key, &value)?;
    if block.stream_first != placed.block.stream_first || block.count != placed.block.count {
        return Err(tables::unreadable("blocks", &key));
    }
    let insert = Insert {
        count: block.count,
        created: now,
        expires: block.expires,
        crc: block.crc,
        placement: block.placement.clone(),
    };
    transaction.insert_block(subject, insert)?;
    remove_one(transaction, &placed.subject, &block, now)
}
