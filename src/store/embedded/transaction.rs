use std::collections::BTreeMap;

use super::{
    engine::{Batch, Engine, Snapshot},
    tables::{self, BLOCKS, EXPIRY, GARBAGE, PAYLOADS, SUBJECTS},
};
use crate::{
    block::{Block, PayloadKey},
    error::{Error, Result},
    store::{PayloadRow, SubjectRow},
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
}

impl Transaction {
    pub(super) fn begin(engine: &Engine) -> Result<Self> {
        Ok(Self {
            snapshot: engine.read()?,
            batch: Batch::default(),
            subjects: BTreeMap::new(),
            payloads: BTreeMap::new(),
        })
    }

    /// Writes the books and everything gathered, durably.
    pub(super) fn commit(mut self, engine: &Engine) -> Result<()> {
        for (subject, row) in &self.subjects {
            self.batch.put(SUBJECTS, subject.as_str(), tables::subject_value(row));
        }
        for (number, row) in &self.payloads {
            self.batch.put(PAYLOADS, number.to_be_bytes(), tables::payload_value(row));
        }
        engine.commit(&self.batch)
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

    /// Records a new payload.
    pub(super) fn add_payload(&mut self, row: PayloadRow) {
        self.payloads.insert(row.key.number(), row);
    }

    /// Removes a block and gives how many of its messages were live. `floor` is the subject's, from before the step.
    pub(super) fn remove_block(&mut self, subject: &Subject, block: &Block, now: Timestamp) -> Result<u64> {
        let key = tables::block_key(subject, block.first);
        if let Some(expires) = block.expires {
            self.batch.remove(EXPIRY, tables::timed_key(expires, &key));
        }
        self.batch.remove(BLOCKS, key);
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
        self.payload(key)?.open = false;
        self.discard_if_unused(key, now)
    }

    fn release(&mut self, key: PayloadKey, now: Timestamp) -> Result<()> {
        let row = self.payload(key)?;
        row.alive = row.alive.saturating_sub(1);
        self.discard_if_unused(key, now)
    }

    fn discard_if_unused(&mut self, key: PayloadKey, now: Timestamp) -> Result<()> {
        let row = self.payload(key)?;
        if row.alive == 0 && !row.open {
            self.payloads.remove(&key.number());
            let number = key.number().to_be_bytes();
            self.batch.remove(PAYLOADS, number);
            self.batch.put(GARBAGE, tables::timed_key(now, &number), [tables::kind(key)]);
        }
        Ok(())
    }
}

pub(super) fn read_subject(snapshot: &Snapshot, subject: &Subject) -> Result<Option<SubjectRow>> {
    let key = subject.as_str().as_bytes();
    snapshot.get(SUBJECTS, key)?.map(|value| tables::read_subject_row(key, &value)).transpose()
}
