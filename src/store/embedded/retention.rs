//! What removes messages: purges and deadlines. Both keep the books: accepted = live + expired + purged (P8).

use std::collections::BTreeMap;

use super::{
    due::{self, Skipped, each_due},
    scan::{read_block, scan_blocks},
    tables::{self, BLOCKS, EXPIRY},
    transaction::{Transaction, read_subject},
};
use crate::{
    block::Block,
    error::Result,
    store::{Expired, Purged},
    types::{Subject, Timestamp},
};

pub(super) fn purge(
    transaction: &mut Transaction,
    subject: &Subject,
    up_to: u64,
    blocks_max: usize,
    now: Timestamp,
) -> Result<Purged> {
    let Some(row) = read_subject(&transaction.snapshot, subject)? else {
        return Ok(Purged { messages: 0, done: true });
    };
    let up_to = up_to.min(row.last);
    // The block at the floor may begin before it: without this, an earlier purge of more would be taken back.
    if up_to < row.floor {
        return Ok(Purged { messages: 0, done: true });
    }
    let scan = scan_blocks(&transaction.snapshot, subject, row.floor, blocks_max, u64::MAX)?;
    let mut messages = 0;
    let mut floor = row.floor;
    let mut done = scan.blocks.len() < blocks_max;
    for block in &scan.blocks {
        if block.first > up_to {
            done = true;
            break;
        }
        if block.end() - 1 > up_to {
            // Part of the block goes: the floor moves into it, the bytes follow with the rest.
            messages += (up_to + 1) - block.first.max(row.floor);
            floor = up_to + 1;
            done = true;
            break;
        }
        messages += transaction.remove_block(subject, block, now)?;
        floor = block.end();
    }
    if floor == row.floor {
        return Ok(Purged { messages, done: true });
    }
    let books = transaction.subject(subject)?;
    books.purged += messages;
    books.floor = floor;
    Ok(Purged { messages, done })
}

pub(super) fn expire(
    transaction: &mut Transaction,
    now: Timestamp,
    blocks_max: usize,
    skipped: &Skipped,
) -> Result<Expired> {
    let mut messages = 0;
    let mut touched: BTreeMap<Subject, Vec<u64>> = BTreeMap::new();
    let blocks = each_due(transaction, (EXPIRY, "expiry"), (now, blocks_max), skipped, |transaction, key, _| {
        let key = due::behind_time("expiry", key)?;
        let (subject, first) = tables::read_block_key(key)?;
        let value = transaction.snapshot.get(BLOCKS, key)?.ok_or_else(|| tables::unreadable("blocks", key))?;
        let block = read_block(key, &value)?;
        let live = transaction.remove_block(&subject, &block, now)?;
        transaction.subject(&subject)?.expired += live;
        messages += live;
        touched.entry(subject).or_default().push(first);
        Ok(())
    })?;
    for (subject, mut removed) in touched {
        removed.sort_unstable();
        let floor = first_live(transaction, &subject, &removed)?;
        let books = transaction.subject(&subject)?;
        books.floor = books.floor.max(floor.unwrap_or(books.last + 1));
    }
    Ok(Expired { blocks, messages })
}

/// Removes one block from wherever it is in its subject, on request.
pub(super) fn remove_one(
    transaction: &mut Transaction,
    subject: &Subject,
    block: &Block,
    now: Timestamp,
) -> Result<()> {
    let messages = transaction.remove_block(subject, block, now)?;
    let is_first = transaction.subject(subject)?.floor >= block.first;
    let floor = if is_first { first_live(transaction, subject, &[block.first])? } else { None };
    // What this transaction stores is not found by that look, and lies behind what was there before.
    let last = read_subject(&transaction.snapshot, subject)?.map_or(0, |row| row.last);
    let books = transaction.subject(subject)?;
    books.purged += messages;
    if is_first {
        books.floor = books.floor.max(floor.unwrap_or(last + 1));
    }
    Ok(())
}

/// The first sequence of the first block that stays when `removed` go; `None` if none does.
fn first_live(transaction: &mut Transaction, subject: &Subject, removed: &[u64]) -> Result<Option<u64>> {
    let mut floor = None;
    let (from, to) = (tables::block_key(subject, 0), tables::block_key(subject, u64::MAX));
    transaction.snapshot.scan(BLOCKS, &from, &to, |key, _| {
        let first = tables::read_first(key)?;
        let stays = removed.binary_search(&first).is_err();
        if stays {
            floor = Some(first);
        }
        Ok(!stays)
    })?;
    Ok(floor)
}
