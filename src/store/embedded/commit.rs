//! What a commit changes: sequences are born here.

use std::collections::BTreeMap;

use super::{
    consumers::Consumers,
    schedule::schedule,
    snapshot::Snapshot,
    tables::{self, ID_DEADLINES, IDS, POSITIONS},
    transaction::{Insert, Transaction, read_subject},
    uploads,
};
use crate::{
    block::guard,
    error::{Error, Result},
    store::{Ack, Committed, Group},
};

pub(super) fn commit_group(
    transaction: &mut Transaction,
    consumers: &mut Consumers,
    group: Group,
) -> Result<Committed> {
    let refused = guard::judge(
        &group.blocks,
        |subject| Ok(read_subject(&transaction.snapshot, subject)?.map_or(0, |row| row.last)),
        |subject, id| {
            let key = tables::id_key(subject, id);
            let known = transaction.snapshot.get(IDS, &key)?;
            let Some((sequence, deadline)) = known.map(|value| tables::read_pair("ids", &key, &value)).transpose()?
            else {
                return Ok(None);
            };
            Ok((deadline > group.now.0).then_some(sequence))
        },
        |id| uploads::standing(&transaction.snapshot, id, group.now),
    )?;
    if !refused.is_empty() {
        return Ok(Committed::Refused(refused));
    }
    let forget_at = group.now.after(group.dedup_window);
    let mut firsts = Vec::with_capacity(group.blocks.len());
    for (new, placement) in group.blocks.iter().zip(group.placements) {
        let insert = Insert {
            count: u32::try_from(new.drafts.len()).unwrap_or(u32::MAX),
            created: new.created,
            expires: new.expires,
            crc: new.crc,
            placement,
        };
        let first = match new.deliver_at {
            None => transaction.insert_block(&new.subject, insert)?.first,
            Some(due) => {
                schedule(transaction, &new.subject, due, insert)?;
                0
            }
        };
        firsts.push(first);
        for guard in &new.guards {
            let sequence = if first == 0 { 0 } else { first + guard.record as u64 };
            if let Some(id) = &guard.upload {
                uploads::complete(transaction, id, (new, guard.record), sequence, forget_at)?;
            }
            let Some(id) = &guard.message_id else {
                continue;
            };
            let id = tables::id_key(&new.subject, id);
            transaction.batch.put(ID_DEADLINES, tables::timed_key(forget_at, &id), []);
            transaction.batch.put(IDS, id, tables::pair_value(sequence, forget_at.0));
        }
    }
    let positions = move_positions(transaction, &group.acks)?;
    let steps = group.steps.iter().map(|step| consumers.step(transaction, step)).collect();
    Ok(Committed::Stored { firsts, positions, steps, raised: transaction.raised() })
}

/// Moves positions forwards; an ack beyond the end is refused by itself (P4).
fn move_positions(transaction: &mut Transaction, acks: &[Ack]) -> Result<Vec<Result<u64>>> {
    let mut moved: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    let mut answers = Vec::with_capacity(acks.len());
    for ack in acks {
        let last = match read_subject(&transaction.snapshot, &ack.subject)? {
            Some(row) => row.last,
            None => 0,
        };
        if ack.sequence > last {
            let problem = format!(
                "{} is beyond the last sequence of '{}': acknowledge sequences from 1 to {last}",
                ack.sequence, ack.subject
            );
            answers.push(Err(Error::invalid("sequence", problem)));
            continue;
        }
        let key = tables::position_key(&ack.durable, &ack.subject);
        let position = match moved.get(&key) {
            Some(&position) => position,
            None => read_position(&transaction.snapshot, &key)?,
        };
        if ack.sequence > position {
            moved.insert(key, ack.sequence);
        }
        answers.push(Ok(position.max(ack.sequence)));
    }
    for (key, position) in moved {
        transaction.batch.put(POSITIONS, key, position.to_le_bytes());
    }
    Ok(answers)
}

pub(super) fn read_position(snapshot: &Snapshot, key: &[u8]) -> Result<u64> {
    match snapshot.get(POSITIONS, key)? {
        Some(value) => tables::read_u64("positions", key, &value),
        None => Ok(0),
    }
}
