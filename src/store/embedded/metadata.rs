use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    blocking,
    engine::{Engine, Snapshot},
    space::Space,
    tables::{
        self, BLOCKS, EXPIRY, FACT_FORMAT, FACT_NEXT_PAYLOAD, FACTS, FORMAT, GARBAGE, ID_DEADLINES, IDS, PAYLOADS,
        POSITIONS, SUBJECTS,
    },
    transaction::{Transaction, read_subject},
};
use crate::{
    block::{BLOCK_RECORDS_MAX, Block, PayloadKey, Placement, guard},
    error::{Error, Result},
    store::{Ack, BlockScan, Committed, Expired, Garbage, Group, MetadataStore, PayloadRow, Purged, SubjectRow},
    types::{DurableName, Subject, SubjectFilter, Timestamp},
};

/// Metadata in a redb database.
#[derive(Clone)]
pub struct EmbeddedMetadata {
    engine: Arc<Engine>,
    space: Arc<Space>,
    /// Held from the first read of a change to its commit: one writer at a time.
    writer: Arc<Mutex<()>>,
}

impl EmbeddedMetadata {
    pub(super) fn open(path: &Path, space: Arc<Space>) -> Result<Self> {
        let store = Self { engine: Arc::new(Engine::open(path)?), space, writer: Arc::default() };
        store.check_format(path)?;
        Ok(store)
    }

    fn check_format(&self, path: &Path) -> Result<()> {
        let mut transaction = Transaction::begin(&self.engine)?;
        match transaction.snapshot.get(FACTS, FACT_FORMAT)? {
            None => {
                transaction.batch.put(FACTS, FACT_FORMAT, FORMAT.to_le_bytes());
                transaction.commit(&self.engine)
            }
            Some(value) => match tables::read_u64("facts", FACT_FORMAT, &value)? {
                FORMAT => Ok(()),
                other => Err(Error::unavailable(format!(
                    "'{}' has format {other}, and this version reads format {FORMAT}: use the version that wrote it",
                    path.display()
                ))),
            },
        }
    }

    /// Runs a read where it may block.
    async fn read<T: Send + 'static>(&self, work: impl FnOnce(&Snapshot) -> Result<T> + Send + 'static) -> Result<T> {
        let engine = self.engine.clone();
        blocking(move || work(&engine.read()?)).await
    }

    /// Runs a change, one at a time, and makes it durable.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Transaction) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.clone();
        blocking(move || {
            let _writer = store.lock_writer();
            let mut transaction = Transaction::begin(&store.engine)?;
            let result = work(&mut transaction)?;
            transaction.commit(&store.engine)?;
            Ok(result)
        })
        .await
    }

    fn lock_writer(&self) -> MutexGuard<'_, ()> {
        // A panic of an earlier writer left nothing half-done: only `commit` has an effect.
        self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[async_trait]
impl MetadataStore for EmbeddedMetadata {
    async fn commit(&self, group: Group) -> Result<Committed> {
        let space = self.space.clone();
        self.change(move |transaction| {
            if !group.blocks.is_empty() {
                space.check(group.blocks.iter().map(|block| block.body.len() as u64).sum())?;
            }
            commit_group(transaction, group)
        })
        .await
    }

    async fn subject(&self, subject: &Subject) -> Result<Option<SubjectRow>> {
        let subject = subject.clone();
        self.read(move |snapshot| read_subject(snapshot, &subject)).await
    }

    async fn subjects(&self, filter: &SubjectFilter, after: &str, limit: usize) -> Result<Vec<SubjectRow>> {
        let (filter, after) = (filter.clone(), after.to_owned());
        self.read(move |snapshot| {
            let from = filter.prefix().as_bytes().max(after.as_bytes()).to_vec();
            let mut rows = Vec::new();
            snapshot.scan(SUBJECTS, &from, &[0xFF], |key, value| {
                if !key.starts_with(filter.prefix().as_bytes()) {
                    return Ok(false);
                }
                let row = tables::read_subject_row(key, value)?;
                if row.subject.as_str() > after.as_str() && filter.matches(&row.subject) {
                    rows.push(row);
                }
                Ok(rows.len() < limit)
            })?;
            Ok(rows)
        })
        .await
    }

    async fn blocks(&self, subject: &Subject, from: u64, blocks_max: usize, bytes_max: u64) -> Result<BlockScan> {
        let subject = subject.clone();
        self.read(move |snapshot| scan_blocks(snapshot, &subject, from, blocks_max, bytes_max)).await
    }

    async fn position(&self, durable: &DurableName, subject: &Subject) -> Result<u64> {
        let key = tables::position_key(durable, subject);
        self.read(move |snapshot| read_position(snapshot, &key)).await
    }

    async fn positions(&self, after: Option<&(DurableName, Subject)>, limit: usize) -> Result<Vec<Ack>> {
        let after = after.map(|(durable, subject)| tables::position_key(durable, subject)).unwrap_or_default();
        self.read(move |snapshot| {
            let mut positions = Vec::new();
            snapshot.scan(POSITIONS, &after, &[0xFF], |key, value| {
                if key > after.as_slice() {
                    let (durable, subject) = tables::read_position_key(key)?;
                    let sequence = tables::read_u64("positions", key, value)?;
                    positions.push(Ack { durable, subject, sequence });
                }
                Ok(positions.len() < limit)
            })?;
            Ok(positions)
        })
        .await
    }

    async fn purge(&self, subject: &Subject, up_to: u64, blocks_max: usize, now: Timestamp) -> Result<Purged> {
        let subject = subject.clone();
        self.change(move |transaction| purge(transaction, &subject, up_to, blocks_max, now)).await
    }

    async fn expire(&self, now: Timestamp, blocks_max: usize) -> Result<Expired> {
        self.change(move |transaction| expire(transaction, now, blocks_max)).await
    }

    async fn forget_ids(&self, now: Timestamp, limit: usize) -> Result<usize> {
        self.change(move |transaction| {
            let mut due = Vec::new();
            let to = tables::timed_key(now.after(std::time::Duration::from_millis(1)), &[]);
            transaction.snapshot.scan(ID_DEADLINES, &[], &to, |key, _| {
                due.push(key.to_vec());
                Ok(due.len() < limit)
            })?;
            for key in &due {
                // An id that was used again after its window has a later deadline of its own.
                let id = &key[8..];
                if let Some(value) = transaction.snapshot.get(IDS, id)? {
                    let (_, deadline) = tables::read_pair("ids", id, &value)?;
                    if deadline <= now.0 {
                        transaction.batch.remove(IDS, id);
                    }
                }
                transaction.batch.remove(ID_DEADLINES, key.as_slice());
            }
            Ok(due.len())
        })
        .await
    }

    async fn open_payload(&self, kind: fn(u64) -> PayloadKey) -> Result<PayloadKey> {
        self.change(move |transaction| {
            let next = match transaction.snapshot.get(FACTS, FACT_NEXT_PAYLOAD)? {
                Some(value) => tables::read_u64("facts", FACT_NEXT_PAYLOAD, &value)?,
                None => 1,
            };
            let key = kind(next);
            transaction.batch.put(FACTS, FACT_NEXT_PAYLOAD, (next + 1).to_le_bytes());
            transaction.add_payload(PayloadRow { key, alive: 0, len: 0, open: true });
            Ok(key)
        })
        .await
    }

    async fn seal_payload(&self, key: PayloadKey, now: Timestamp) -> Result<()> {
        self.change(move |transaction| transaction.seal(key, now)).await
    }

    async fn payloads(&self, after: u64, limit: usize) -> Result<Vec<PayloadRow>> {
        self.read(move |snapshot| {
            let mut rows = Vec::new();
            snapshot.scan(PAYLOADS, &(after + 1).to_be_bytes(), &[0xFF; 9], |key, value| {
                rows.push(tables::read_payload_row(key, value)?);
                Ok(rows.len() < limit)
            })?;
            Ok(rows)
        })
        .await
    }

    async fn garbage(&self, before: Timestamp, limit: usize) -> Result<Vec<Garbage>> {
        self.read(move |snapshot| {
            let mut garbage = Vec::new();
            snapshot.scan(GARBAGE, &[], &before.0.to_be_bytes(), |key, value| {
                let unreadable = || tables::unreadable("garbage", key);
                let (since, number) = (tables::read_first(&key[..8])?, tables::read_first(key)?);
                let kind = value.first().ok_or_else(unreadable)?;
                let key = tables::read_kind(*kind, number).ok_or_else(unreadable)?;
                garbage.push(Garbage { key, since: Timestamp(since) });
                Ok(garbage.len() < limit)
            })?;
            Ok(garbage)
        })
        .await
    }

    async fn forget_garbage(&self, removed: &[Garbage]) -> Result<()> {
        let removed = removed.to_vec();
        self.change(move |transaction| {
            for garbage in &removed {
                let key = tables::timed_key(garbage.since, &garbage.key.number().to_be_bytes());
                transaction.batch.remove(GARBAGE, key);
            }
            Ok(())
        })
        .await
    }

    async fn writable(&self) -> Result<()> {
        let store = self.clone();
        blocking(move || {
            store.space.check(0)?;
            store.engine.read().map(drop)
        })
        .await
    }
}

fn commit_group(transaction: &mut Transaction, group: Group) -> Result<Committed> {
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
    )?;
    if !refused.is_empty() {
        return Ok(Committed::Refused(refused));
    }
    let forget_at = group.now.after(group.dedup_window);
    let mut firsts = Vec::with_capacity(group.blocks.len());
    for (new, placement) in group.blocks.iter().zip(group.placements) {
        let row = transaction.subject(&new.subject)?;
        let block = Block {
            first: row.last + 1,
            count: u32::try_from(new.drafts.len()).unwrap_or(u32::MAX),
            created: new.created,
            expires: new.expires,
            crc: new.crc,
            placement,
        };
        row.last = block.end() - 1;
        row.bytes += block.bytes();
        row.updated = row.updated.max(new.created);
        firsts.push(block.first);
        if let Some(key) = block.payload() {
            let payload = transaction.payload(key)?;
            payload.alive += 1;
            match block.placement {
                Placement::Slice { offset, len, .. } => payload.len = payload.len.max(offset + len),
                Placement::Object { size, .. } => (payload.len, payload.open) = (size, false),
                Placement::Inline(_) => {}
            }
        }
        let key = tables::block_key(&new.subject, block.first);
        if let Some(expires) = block.expires {
            transaction.batch.put(EXPIRY, tables::timed_key(expires, &key), []);
        }
        transaction.batch.put(BLOCKS, key, block.encode());
        for guard in &new.guards {
            let Some(id) = &guard.message_id else {
                continue;
            };
            let id = tables::id_key(&new.subject, id);
            let sequence = block.first + guard.record as u64;
            transaction.batch.put(ID_DEADLINES, tables::timed_key(forget_at, &id), []);
            transaction.batch.put(IDS, id, tables::pair_value(sequence, forget_at.0));
        }
    }
    let positions = move_positions(transaction, &group.acks)?;
    Ok(Committed::Stored { firsts, positions })
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

fn read_position(snapshot: &Snapshot, key: &[u8]) -> Result<u64> {
    match snapshot.get(POSITIONS, key)? {
        Some(value) => tables::read_u64("positions", key, &value),
        None => Ok(0),
    }
}

fn scan_blocks(
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

fn read_block(key: &[u8], value: &[u8]) -> Result<Block> {
    let first = tables::read_first(key)?;
    Block::decode(first, Bytes::copy_from_slice(value)).ok_or_else(|| tables::unreadable("blocks", key))
}

fn purge(
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

fn expire(transaction: &mut Transaction, now: Timestamp, blocks_max: usize) -> Result<Expired> {
    let mut due = Vec::new();
    let to = tables::timed_key(now.after(std::time::Duration::from_millis(1)), &[]);
    transaction.snapshot.scan(EXPIRY, &[], &to, |key, _| {
        due.push(tables::read_block_key(&key[8..])?);
        Ok(due.len() < blocks_max)
    })?;
    let mut expired = Expired { blocks: due.len(), messages: 0 };
    let mut touched: BTreeMap<Subject, Vec<u64>> = BTreeMap::new();
    for (subject, first) in due {
        let key = tables::block_key(&subject, first);
        let value = transaction.snapshot.get(BLOCKS, &key)?.ok_or_else(|| tables::unreadable("blocks", &key))?;
        let block = read_block(&key, &value)?;
        let live = transaction.remove_block(&subject, &block, now)?;
        transaction.subject(&subject)?.expired += live;
        expired.messages += live;
        touched.entry(subject).or_default().push(first);
    }
    for (subject, mut removed) in touched {
        removed.sort_unstable();
        let floor = first_live(transaction, &subject, &removed)?;
        let books = transaction.subject(&subject)?;
        books.floor = books.floor.max(floor.unwrap_or(books.last + 1));
    }
    Ok(expired)
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
