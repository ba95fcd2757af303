//! Dead letters: made in the transaction that gives a message up, and moved back on request.

use super::{
    retention::remove_one,
    scan::scan_blocks,
    transaction::{Insert, Transaction},
};
use crate::{
    block::letter::{
        self, ATTEMPTS, CONSUMER, DETAIL, ORIGINAL_SEQUENCE, ORIGINAL_SUBJECT, ORIGINAL_TIME, REASON, Reference,
    },
    consumer::{Letter, Reason, Settings},
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
    let Some(to) = &settings.dead_letters else {
        return Ok(());
    };
    let block = &letter.located.block;
    let mut headers = vec![
        (ORIGINAL_SUBJECT.into(), letter.located.subject.to_string()),
        (ORIGINAL_SEQUENCE.into(), letter.located.sequence_at(letter.at).to_string()),
        (ORIGINAL_TIME.into(), block.created.to_rfc3339()),
        (REASON.into(), letter.reason.as_str().into()),
        (ATTEMPTS.into(), letter.attempts.to_string()),
        (CONSUMER.into(), consumer.to_string()),
    ];
    if !letter.detail.is_empty() {
        headers.push((DETAIL.into(), letter.detail.clone()));
    }
    let expires = Some(now.after(settings.dead_letter_ttl));
    let index = u32::try_from(letter.at - block.stream_first).unwrap_or(u32::MAX);
    // What cannot be read is reported, not referred to: the letter must be readable.
    let reference = match letter.reason {
        Reason::DataLoss => None,
        Reason::MaxDeliver | Reason::Terminated => letter::refer(block, index, headers.clone(), now, expires),
    };
    let mut insert = |reference: Reference| {
        let Reference { placement, crc } = reference;
        transaction.insert_block(to, Insert { count: 1, created: now, expires, crc, placement }).map(drop)
    };
    if let Some(reference) = reference {
        match insert(reference) {
            // Nobody knows its payload any more: that does not stop the consumer.
            Err(Error::DataLoss(_)) => {}
            other => return other,
        }
    }
    headers.retain(|(name, _)| name != REASON);
    headers.push((REASON.into(), Reason::DataLoss.as_str().into()));
    insert(letter::empty(headers, now, expires))
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
