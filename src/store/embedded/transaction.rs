use std::collections::BTreeMap;

use super::{
    batch::Batch,
    engine::Engine,
    snapshot::Snapshot,
    tables::{
        self, BLOCKS, EXPIRY, FACT_NEXT_PAYLOAD, FACT_NEXT_STREAM, FACT_OPEN_UPLOADS, FACTS, GARBAGE, PAYLOADS, STREAM,
        SUBJECTS,
    },
};
use crate::{
    block::{Block, PayloadKey, Placement},
    error::{Error, Result},
    store::{PayloadRow, Raised, SubjectRow, Writer},
    types::{Subject, Timestamp},
};

/// A change of the metadata in the making: reads a snapshot, gathers rows, sees its own changes of the books.
///
/// Only one exists at a time (the caller holds the writer's lock), so the snapshot is the present.
pub(super) struct Transaction {
    pub(super) snapshot: Snapshot,
    pub(super) batch: Batch,
    subjects: BTreeMap<Subject, SubjectRow>,
    payloads: BTreeMap<u64, PayloadRow>,
    next_stream: Option<u64>,
    open_uploads: Option<u64>,
    /// Subjects that got messages, and their last sequences.
    raised: BTreeMap<Subject, u64>,
}

/// A block that has no sequence yet.
pub(super) struct Insert {
    pub(super) count: u32,
    pub(super) created: Timestamp,
    pub(super) expires: Option<Timestamp>,
    pub(super) crc: u32,
    pub(super) placement: Placement,
}

impl Transaction {
    pub(super) fn begin(engine: &Engine) -> Result<Self> {
        Ok(Self {
            snapshot: engine.read()?,
            batch: Batch::default(),
            subjects: BTreeMap::new(),
            payloads: BTreeMap::new(),
            next_stream: None,
            open_uploads: None,
            raised: BTreeMap::new(),
        })
    }

    /// Carries out a part of the change, or nothing of it if it fails.
    pub(super) fn attempt<T>(&mut self, part: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let changes = self.batch.changes.len();
        let before = (self.subjects.clone(), self.payloads.clone(), self.raised.clone());
        let (next_stream, open_uploads) = (self.next_stream, self.open_uploads);
        let result = part(self);
        if result.is_err() {
            self.batch.changes.truncate(changes);
            (self.subjects, self.payloads, self.raised) = before;
            (self.next_stream, self.open_uploads) = (next_stream, open_uploads);
        }
        result
    }

    /// Writes the books and everything gathered, durably.
    pub(super) fn commit(mut self, engine: &Engine) -> Result<()> {
        for (subject, row) in &self.subjects {
            self.batch.put(SUBJECTS, subject.as_str(), tables::subject_value(row));
        }
        for (number, row) in &self.payloads {
            self.batch.put(PAYLOADS, number.to_be_bytes(), tables::payload_value(row));
        }
        if let Some(next) = self.next_stream {
            self.batch.put(FACTS, FACT_NEXT_STREAM, next.to_le_bytes());
        }
        if let Some(count) = self.open_uploads {
            self.batch.put(FACTS, FACT_OPEN_UPLOADS, count.to_le_bytes());
        }
        engine.commit(&self.batch)
    }

    /// Subjects that got messages in this change, and their last sequences.
    pub(super) fn raised(&self) -> Raised {
        self.raised.iter().map(|(subject, last)| (subject.clone(), *last)).collect()
    }

    /// Gives a block its sequences and writes its rows.
    pub(super) fn insert_block(&mut self, subject: &Subject, new: Insert) -> Result<Block> {
        let stream_first = match self.next_stream {
            Some(next) => next,
            None => next_stream(&self.snapshot)?,
        };
        let Insert { count, created, expires, crc, placement } = new;
        let first = self.subject(subject)?.last + 1;
        let block = Block { first, stream_first, count, created, expires, crc, placement };
        // Before the books: whoever goes on without this block finds them as they were.
        if let Some(key) = block.payload() {
            let payload = self.payload(key)?;
            payload.alive += 1;
            match block.placement {
                Placement::Slice { offset, len, .. } => payload.len = payload.len.max(offset + len),
                Placement::Object { size, .. } => (payload.len, payload.writer) = (size, Writer::Nobody),
                Placement::Inline(_) | Placement::Shared { .. } => {}
            }
        }
        let row = self.subject(subject)?;
        row.last = block.end() - 1;
        row.bytes += block.bytes();
        row.updated = row.updated.max(created);
        self.next_stream = Some(block.stream_end());
        self.raised.insert(subject.clone(), block.end() - 1);
        if let Some(expires) = expires {
            let key = tables::block_key(subject, block.first);
            self.batch.put(EXPIRY, tables::timed_key(expires, &key), []);
        }
        self.place(subject, &block);
        Ok(block)
    }

    /// Writes the rows that say what a block is and where it stands.
    pub(super) fn place(&mut self, subject: &Subject, block: &Block) {
        self.batch.put(BLOCKS, tables::block_key(subject, block.first), block.encode());
        let value = tables::stream_value(subject, block.first, block.count);
        self.batch.put(STREAM, block.stream_first.to_be_bytes(), value);
    }

    /// The next stream sequence to be given.
    pub(super) fn set_next_stream(&mut self, next: u64) {
        self.next_stream = Some(next);
    }

    /// How many uploads are open, to be changed.
    pub(super) fn open_uploads(&mut self) -> Result<&mut u64> {
        let count = match self.open_uploads {
            Some(count) => count,
            None => match self.snapshot.get(FACTS, FACT_OPEN_UPLOADS)? {
                Some(value) => tables::read_u64("facts", FACT_OPEN_UPLOADS, &value)?,
                None => 0,
            },
        };
        Ok(self.open_uploads.insert(count))
    }

    /// The books of a subject, to be changed.
    pub(super) fn subject(&mut self, subject: &Subject) -> Result<&mut SubjectRow> {
        if !self.subjects.contains_key(subject) {
            let row = read_subject(&self.snapshot, subject)?.unwrap_or_else(|| SubjectRow::new(subject.clone()));
            self.subjects.insert(subject.clone(), row);
        }
        self.subjects.get_mut(subject).ok_or_else(|| tables::unreadable("subjects", subject.as_str().as_bytes()))
    }

    /// The row of a payload, to be changed.
    pub(super) fn payload(&mut self, key: PayloadKey) -> Result<&mut PayloadRow> {
        let number = key.number();
        let name = number.to_be_bytes();
        if !self.payloads.contains_key(&number) {
            let value = self.snapshot.get(PAYLOADS, &name)?;
            let value = value.ok_or_else(|| Error::DataLoss(format!("the row of {key} is missing")))?;
            self.payloads.insert(number, tables::read_payload_row(&name, &value)?);
        }
        self.payloads.get_mut(&number).ok_or_else(|| tables::unreadable("payloads", &name))
    }

    /// Records a new payload under the next number.
    pub(super) fn add_payload(&mut self, kind: fn(u64) -> PayloadKey, writer: Writer) -> Result<PayloadKey> {
        let next = match self.snapshot.get(FACTS, FACT_NEXT_PAYLOAD)? {
            Some(value) => tables::read_u64("facts", FACT_NEXT_PAYLOAD, &value)?,
            None => 1,
        };
        let key = kind(next);
        self.batch.put(FACTS, FACT_NEXT_PAYLOAD, (next + 1).to_le_bytes());
        self.payloads.insert(next, PayloadRow { key, alive: 0, len: 0, writer });
        Ok(key)
    }

    /// Removes a block and gives how many of its messages were live. `floor` is the subject's, from before the step.
    pub(super) fn remove_block(&mut self, subject: &Subject, block: &Block, now: Timestamp) -> Result<u64> {
        // Whatever can fail comes first: one that cannot be removed is left as it is.
        if let Some(payload) = block.payload() {
            self.payload(payload)?;
        }
        self.subject(subject)?;
        let key = tables::block_key(subject, block.first);
        if let Some(expires) = block.expires {
            self.batch.remove(EXPIRY, tables::timed_key(expires, &key));
        }
        self.batch.remove(BLOCKS, key);
        self.batch.remove(STREAM, block.stream_first.to_be_bytes());
        let row = self.subject(subject)?;
        row.bytes = row.bytes.saturating_sub(block.bytes());
        let live = block.end() - block.first.max(row.floor).min(block.end());
        if let Some(payload) = block.payload() {
            self.release(payload, now)?;
        }
        Ok(live)
    }

    /// Closes a payload; one without blocks turns into garbage.
    pub(super) fn seal(&mut self, key: PayloadKey, now: Timestamp) -> Result<()> {
        self.payload(key)?.writer = Writer::Nobody;
        self.discard_if_unused(key, now)
    }

    fn release(&mut self, key: PayloadKey, now: Timestamp) -> Result<()> {
        let row = self.payload(key)?;
        row.alive = row.alive.saturating_sub(1);
        self.discard_if_unused(key, now)
    }

    fn discard_if_unused(&mut self, key: PayloadKey, now: Timestamp) -> Result<()> {
        let row = self.payload(key)?;
        if row.alive == 0 && row.writer == Writer::Nobody {
            self.payloads.remove(&key.number());
            let number = key.number().to_be_bytes();
            self.batch.remove(PAYLOADS, number);
            self.batch.put(GARBAGE, tables::timed_key(now, &number), [tables::kind(key)]);
        }
        Ok(())
    }
}

/// The next stream sequence: all before it are taken.
pub(super) fn next_stream(snapshot: &Snapshot) -> Result<u64> {
    match snapshot.get(FACTS, FACT_NEXT_STREAM)? {
        Some(value) => tables::read_u64("facts", FACT_NEXT_STREAM, &value),
        None => Ok(1),
    }
}

pub(super) fn read_subject(snapshot: &Snapshot, subject: &Subject) -> Result<Option<SubjectRow>> {
    let key = subject.as_str().as_bytes();
    snapshot.get(SUBJECTS, key)?.map(|value| tables::read_subject_row(key, &value)).transpose()
}
