//! Dead letters: made in the transaction that gives a message up, and moved back on request.

use super::{
    retention::remove_one,
    scan::scan_blocks,
    transaction::{Insert, Transaction},
};
use crate::{
    block::letter::{self, Reference},
    consumer::{Letter, Posted, Settings},
    error::{Error, Result},
    store::Move,
    types::{ConsumerName, Timestamp},
};

pub(super) fn insert_letter(
    transaction: &mut Transaction,
    consumer: &ConsumerName,
    settings: &Settings,
    letter: &Letter,
    now: Timestamp,
) -> Result<()> {
    let Some(Posted { to, expires, reference, report }) = letter.post(consumer, settings, now) else {
        return Ok(());
    };
    let mut insert = |reference: Reference| {
        let Reference { placement, crc } = reference;
        transaction.insert_block(&to, Insert { count: 1, created: now, expires, crc, placement }).map(drop)
    };
    if let Some(reference) = reference {
        match insert(reference) {
            // Nobody knows its payload any more: that does not stop the consumer.
            Err(Error::DataLoss(_)) => {}
            other => return other,
        }
    }
    insert(report)
}

pub(super) fn move_message(transaction: &mut Transaction, message: &Move, now: Timestamp) -> Result<Option<u64>> {
    let scan = scan_blocks(&transaction.snapshot, &message.from, message.sequence, 1, 0)?;
    let block = match scan.blocks.into_iter().next() {
        Some(block) if block.first == message.sequence && block.count == 1 => block,
        _ => return Ok(None),
    };
    let Some(reference) = letter::restore(&block, now, message.expires) else {
        return Ok(None);
    };
    let insert =
        Insert { count: 1, created: now, expires: message.expires, crc: reference.crc, placement: reference.placement };
    let sequence = transaction.insert_block(&message.to, insert)?.first;
    remove_one(transaction, &message.from, &block, now)?;
    Ok(Some(sequence))
}
