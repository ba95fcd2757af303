//! Finding blocks by sequence, and by their place in the stream of all subjects.

use bytes::Bytes;

use std::collections::HashMap;

use super::{
    snapshot::Snapshot,
    tables::{self, BLOCKS, STREAM, StreamRow},
    transaction::{next_stream, read_subject},
};
use crate::{
    block::{BLOCK_RECORDS_MAX, Block, Located, Placement, ScanLimits, StreamScan},
    error::{Error, Result},
    store::{BlockScan, SubjectRow},
    types::{Subject, SubjectFilter, Timestamp},
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
            bytes += block.read_bytes();
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

/// Blocks of all subjects that match, in the order in which they were stored, from a stream sequence on.
pub(super) fn scan_stream(
    snapshot: &Snapshot,
    filter: &SubjectFilter,
    from: u64,
    limits: ScanLimits,
) -> Result<StreamScan> {
    let Some(subject) = filter.subject() else {
        return scan_subjects(snapshot, filter, from, limits);
    };
    match scan_subject(snapshot, &subject, from, limits) {
        // A row that cannot be read does not tell where the next one begins; the stream does.
        Err(Error::DataLoss(_)) => {
            let last = read_subject(snapshot, &subject)?.map_or(0, |row| row.last);
            Ok(StreamScan { last: Some(last), ..scan_subjects(snapshot, filter, from, limits)? })
        }
        scan => scan,
    }
}

/// One subject: found among its own blocks, however much lies between them.
fn scan_subject(snapshot: &Snapshot, subject: &Subject, from: u64, limits: ScanLimits) -> Result<StreamScan> {
    // Looked up first: what is stored meanwhile is not passed over.
    let end = next_stream(snapshot)?;
    let mut scan = StreamScan { blocks: Vec::new(), next: from.max(end), is_end: true, last: Some(0) };
    let Some(row) = read_subject(snapshot, subject)? else {
        return Ok(scan);
    };
    scan.last = Some(row.last);
    let Some(start) = first_after(snapshot, &row, from)? else {
        return Ok(scan);
    };
    let mut bytes = 0;
    let (from_key, to_key) = (tables::block_key(subject, start), tables::block_key(subject, u64::MAX));
    snapshot.scan(BLOCKS, &from_key, &to_key, |key, value| {
        let block = read_block(key, value)?;
        bytes += block.read_bytes();
        if scan.blocks.len() == limits.blocks || (!scan.blocks.is_empty() && bytes > limits.bytes) {
            (scan.next, scan.is_end) = (block.stream_first, false);
            return Ok(false);
        }
        scan.blocks.push(Located { subject: subject.clone(), floor: row.floor, block });
        Ok(true)
    })?;
    Ok(scan)
}

/// The first sequence of the first block that ends behind a stream sequence, by bisection: both orders are the same.
fn first_after(snapshot: &Snapshot, row: &SubjectRow, from: u64) -> Result<Option<u64>> {
    first_where(snapshot, row, |block| block.stream_end() > from)
}

/// The first sequence of the first block for which `is_beyond` holds, given that it holds for all after that one.
fn first_where(snapshot: &Snapshot, row: &SubjectRow, is_beyond: impl Fn(&Block) -> bool) -> Result<Option<u64>> {
    let lowest = tables::block_key(&row.subject, 0);
    let at_or_before = |sequence: u64| -> Result<Option<Block>> {
        let found = snapshot.last(BLOCKS, &lowest, &tables::block_key(&row.subject, sequence.saturating_add(1)))?;
        found.map(|(key, value)| read_block(&key, &value)).transpose()
    };
    // Most readers stand at the end.
    let Some(last) = at_or_before(row.last)? else {
        return Ok(None);
    };
    if !is_beyond(&last) {
        return Ok(None);
    }
    let (mut low, mut high) = (row.floor.saturating_sub(BLOCK_RECORDS_MAX as u64), last.first);
    // `high` begins a block that is beyond; every block that begins before `low` is not.
    while low < high {
        let middle = low + (high - low) / 2;
        match at_or_before(middle)? {
            Some(block) if is_beyond(&block) => high = block.first,
            Some(block) => low = block.end().max(middle + 1),
            None => low = middle + 1,
        }
    }
    Ok(Some(high))
}

/// Several subjects: the whole stream is looked through, up to `limits.rows` blocks of it.
fn scan_subjects(snapshot: &Snapshot, filter: &SubjectFilter, from: u64, limits: ScanLimits) -> Result<StreamScan> {
    let end = next_stream(snapshot)?;
    let mut scan = StreamScan { blocks: Vec::new(), next: from.max(end), is_end: true, last: None };
    let mut floors: HashMap<Subject, u64> = HashMap::new();
    let (mut bytes, mut rows) = (0, 0);
    scan_rows(snapshot, from, |row| {
        if row.stream_first + u64::from(row.count) <= from {
            return Ok(true);
        }
        rows += 1;
        if rows > limits.rows || scan.blocks.len() == limits.blocks {
            (scan.next, scan.is_end) = (row.stream_first.max(from), false);
            return Ok(false);
        }
        if !filter.matches(&row.subject) {
            return Ok(true);
        }
        let floor = match floors.get(&row.subject) {
            Some(floor) => *floor,
            None => {
                let floor = read_subject(snapshot, &row.subject)?.map_or(1, |subject| subject.floor);
                floors.insert(row.subject.clone(), floor);
                floor
            }
        };
        let block = block_of(snapshot, &row)?;
        bytes += block.read_bytes();
        if !scan.blocks.is_empty() && bytes > limits.bytes {
            (scan.next, scan.is_end) = (row.stream_first.max(from), false);
            return Ok(false);
        }
        scan.blocks.push(Located { subject: row.subject, floor, block });
        Ok(true)
    })?;
    Ok(scan)
}

/// Rows of the stream, from the one that holds a sequence on.
fn scan_rows(snapshot: &Snapshot, from: u64, mut visit: impl FnMut(StreamRow) -> Result<bool>) -> Result<()> {
    let start = match snapshot.last(STREAM, &[0; 8], &from.saturating_add(1).to_be_bytes())? {
        Some((key, _)) => key,
        None => from.to_be_bytes().to_vec(),
    };
    snapshot.scan(STREAM, &start, &[0xFF; 9], |key, value| visit(tables::read_stream_row(key, value)?))
}

/// The live block that holds a stream sequence.
pub(super) fn find_block(snapshot: &Snapshot, at: u64) -> Result<Option<Located>> {
    let Some((key, value)) = snapshot.last(STREAM, &[0; 8], &at.saturating_add(1).to_be_bytes())? else {
        return Ok(None);
    };
    let row = tables::read_stream_row(&key, &value)?;
    if row.stream_first + u64::from(row.count) <= at {
        return Ok(None);
    }
    let floor = read_subject(snapshot, &row.subject)?.map_or(1, |subject| subject.floor);
    if row.first + (at - row.stream_first) < floor {
        return Ok(None);
    }
    let block = block_of(snapshot, &row)?;
    Ok(Some(Located { subject: row.subject, floor, block }))
}

/// The stream sequence of the first message stored at or after a time, among the subjects that match; the next one that
/// will be given if there is none.
pub(super) fn stream_at_time(snapshot: &Snapshot, filter: &SubjectFilter, time: Timestamp) -> Result<u64> {
    let end = next_stream(snapshot)?;
    if let Some(subject) = filter.subject() {
        let Some(row) = read_subject(snapshot, &subject)? else {
            return Ok(end);
        };
        let Some(first) = first_where(snapshot, &row, |block| block.created >= time)? else {
            return Ok(end);
        };
        let key = tables::block_key(&subject, first);
        let value = snapshot.get(BLOCKS, &key)?.ok_or_else(|| tables::unreadable("blocks", &key))?;
        return Ok(read_block(&key, &value)?.stream_first);
    }
    let (mut low, mut high) = (1, end);
    while low < high {
        let middle = low + (high - low) / 2;
        let mut found = None;
        scan_rows(snapshot, middle, |row| {
            let block = block_of(snapshot, &row)?;
            if block.stream_end() <= middle {
                return Ok(true);
            }
            found = Some(block);
            Ok(false)
        })?;
        match found {
            Some(block) if block.created < time => low = block.stream_end(),
            _ => high = middle,
        }
    }
    Ok(low)
}

/// The block of a stream row. One whose own row cannot be read is given with a body that does not fit its checksum: so
/// it is refused like any damaged block, and does not stop those behind it.
fn block_of(snapshot: &Snapshot, row: &StreamRow) -> Result<Block> {
    let key = tables::block_key(&row.subject, row.first);
    let block = snapshot.get(BLOCKS, &key)?.map(|value| read_block(&key, &value));
    Ok(match block {
        Some(Ok(block)) if block.count == row.count && block.stream_first == row.stream_first => block,
        _ => Block {
            first: row.first,
            stream_first: row.stream_first,
            count: row.count,
            created: Timestamp::default(),
            expires: None,
            crc: u32::MAX,
            placement: Placement::Inline(Bytes::new()),
        },
    })
}
