//! From earlier formats to the present one: blocks get a place in the stream of all subjects (format 2). Uploads need new
//! tables only (format 3), and the journal is replaced when the database is opened (format 4).

use super::{
    engine::Engine,
    scan::read_block,
    tables::{self, BLOCKS, FACT_UNORDERED, FACTS, SUBJECTS},
    transaction::{Transaction, next_stream},
};
use crate::error::Result;

/// Blocks of one transaction.
const STEP: usize = 1000;

/// Gives every block a place, subject by subject: how messages of different subjects followed each other was not stored.
/// May be cut short and begun again.
pub(super) fn add_order(engine: &Engine) -> Result<()> {
    tracing::info!("the data directory has the format of version 0.1: its blocks are put in order");
    let mut subjects = Vec::new();
    engine.read()?.scan(SUBJECTS, &[], &[0xFF], |key, _| {
        subjects.push(tables::read_subject(key)?);
        Ok(true)
    })?;
    for subject in subjects {
        let mut from = tables::block_key(&subject, 0);
        let to = tables::block_key(&subject, u64::MAX);
        loop {
            let mut transaction = Transaction::begin(engine)?;
            let mut blocks = Vec::new();
            transaction.snapshot.scan(BLOCKS, &from, &to, |key, value| {
                // One that cannot be read keeps no other from being put in order; 'check' tells of it.
                blocks.push((key.to_vec(), read_block(key, value).ok()));
                Ok(blocks.len() < STEP)
            })?;
            let Some((last, _)) = blocks.last() else { break };
            from = [last.as_slice(), &[0]].concat();
            let mut next = next_stream(&transaction.snapshot)?;
            let blocks = blocks.iter_mut().filter_map(|(_, block)| block.as_mut());
            for block in blocks.filter(|block| block.stream_first == 0) {
                block.stream_first = next;
                next = block.stream_end();
                transaction.place(&subject, block);
            }
            transaction.set_next_stream(next);
            transaction.commit(engine)?;
        }
    }
    let mut transaction = Transaction::begin(engine)?;
    transaction.batch.remove(FACTS, FACT_UNORDERED);
    transaction.commit(engine)
}
