//! Finding blocks by sequence.

use bytes::Bytes;

use super::{
    engine::Snapshot,
    tables::{self, BLOCKS},
    transaction::read_subject,
};
use crate::{
    block::{BLOCK_RECORDS_MAX, Block},
    error::Result,
    store::BlockScan,
    types::Subject,
};

pub(super) fn scan_blocks(
    snapshot: &Snapshot,
    subject: &Subject,
    from: u64,
    blocks_max: usize,
    bytes_max: u64,
) -> Result<BlockScan> {
    let Some(row) = read_subject(snapshot, subject)? else {
        return Ok(BlockScan { floor: 1, last: 0, blocks: Vec::new() });
    };
    let from = from.max(row.floor);
    let mut blocks = Vec::new();
    if from > row.last {
        return Ok(BlockScan { floor: row.floor, last: row.last, blocks });
    }
    // A block holds at most BLOCK_RECORDS_MAX records, so the one that holds `from` begins no further back.
    let earliest = tables::block_key(subject, from.saturating_sub(BLOCK_RECORDS_MAX as u64));
    let after = tables::block_key(subject, from + 1);
    let start = match snapshot.last(BLOCKS, &earliest, &after)? {
        Some((key, _)) => key,
        None => after,
    };
    let mut bytes = 0;
    snapshot.scan(BLOCKS, &start, &tables::block_key(subject, u64::MAX), |key, value| {
        let block = read_block(key, value)?;
        if block.end() > from {
            bytes += block.bytes();
            if !blocks.is_empty() && bytes > bytes_max {
                return Ok(false);
            }
            blocks.push(block);
        }
        Ok(blocks.len() < blocks_max)
    })?;
    Ok(BlockScan { floor: row.floor, last: row.last, blocks })
}

pub(super) fn read_block(key: &[u8], value: &[u8]) -> Result<Block> {
    let first = tables::read_first(key)?;
    Block::decode(first, Bytes::copy_from_slice(value)).ok_or_else(|| tables::unreadable("blocks", key))
}
