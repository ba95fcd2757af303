use std::{
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;

use super::{
    blocking,
    commit::{commit_group, read_position},
    consumers::{self, Consumers},
    due::{self, Skipped, each_due},
    engine::Engine,
    letters::move_message,
    migrate,
    retention::{expire, purge},
    scan::{scan_blocks, scan_stream, stream_at_time},
    schedule::{deliver_due, next_due},
    snapshot::Snapshot,
    space::Space,
    tables::{
        self, FACT_FORMAT, FACT_UNORDERED, FACTS, FORMAT, GARBAGE, ID_DEADLINES, IDS, PAYLOADS, POSITIONS, SUBJECTS,
    },
    transaction::{Transaction, read_subject},
    uploads,
    volume::Volume,
};
use crate::{
    block::{PayloadKey, ScanLimits, StreamScan},
    error::Result,
    store::{
        Ack, BlockScan, Committed, ConsumerChange, ConsumerView, Due, Expired, Garbage, Group, MetadataStore, Move,
        NewConsumer, NewUpload, PayloadRow, Purged, Saved, SubjectRow, Upload, Writer,
    },
    types::{ConsumerName, DurableName, Subject, SubjectFilter, Timestamp, UploadId},
};

/// Metadata in a redb database.
#[derive(Clone)]
pub struct EmbeddedMetadata {
    pub(super) engine: Arc<Engine>,
    space: Arc<Space>,
    /// Held from the first read of a change to its commit: one writer at a time. The state of consumers is the writer's.
    writer: Arc<Mutex<Consumers>>,
    /// Views that hold payload.
    pub(super) holds: Arc<AtomicUsize>,
    skipped: Arc<Skipped>,
}

impl EmbeddedMetadata {
    pub(super) fn open(volume: &Arc<Volume>, space: Arc<Space>) -> Result<Self> {
        let engine = Arc::new(Engine::open(volume.clone())?);
        let store = Self { engine, space, writer: Arc::default(), holds: Arc::default(), skipped: Arc::default() };
        store.check_format(&volume.dir)?;
        Ok(store)
    }

    fn check_format(&self, dir: &Path) -> Result<()> {
        let snapshot = self.engine.read()?;
        let format = snapshot.get(FACTS, FACT_FORMAT)?.ok_or_else(|| tables::unreadable("facts", FACT_FORMAT))?;
        match tables::read_u64("facts", FACT_FORMAT, &format)? {
            FORMAT => {}
            other => return Err(tables::unknown_format(dir, other)),
        }
        match snapshot.get(FACTS, FACT_UNORDERED)? {
            Some(_) => migrate::add_order(&self.engine),
            None => Ok(()),
        }
    }

    /// Runs a read where it may block.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Snapshot) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let engine = self.engine.clone();
        blocking(move || work(&engine.read()?)).await
    }

    /// Runs a change, one at a time, and makes it durable.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Transaction) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.change_with_consumers(move |transaction, _| work(transaction)).await
    }

    /// The same, for what concerns consumers.
    async fn change_with_consumers<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Transaction, &mut Consumers) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.clone();
        blocking(move || {
            let mut consumers = store.lock_writer();
            let result = Transaction::begin(&store.engine).and_then(|mut transaction| {
                let result = work(&mut transaction, &mut consumers)?;
                transaction.commit(&store.engine)?;
                Ok(result)
            });
            match &result {
                Ok(_) => consumers.keep(),
                Err(_) => consumers.roll_back(),
            }
            result
        })
        .await
    }

    /// Looks at consumers, while nobody changes them.
    async fn read_consumers<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Snapshot, &mut Consumers) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.clone();
        blocking(move || {
            let mut consumers = store.lock_writer();
            work(&store.engine.read()?, &mut consumers)
        })
        .await
    }

    fn lock_writer(&self) -> MutexGuard<'_, Consumers> {
        self.writer.lock().unwrap_or_else(|poisoned| {
            // A panic of an earlier writer left nothing half-done but the state of consumers: only `commit` has an effect.
            let mut consumers = poisoned.into_inner();
            consumers.roll_back();
            self.writer.clear_poison();
            consumers
        })
    }
}

#[async_trait]
impl MetadataStore for EmbeddedMetadata {
    async fn commit(&self, group: Group) -> Result<Committed> {
        let space = self.space.clone();
        self.change_with_consumers(move |transaction, consumers| {
            if !group.blocks.is_empty() {
                space.check(group.blocks.iter().map(|block| block.body.len() as u64).sum())?;
            }
            commit_group(transaction, consumers, group)
        })
        .await
    }

    async fn stream(&self, filter: &SubjectFilter, from: u64, limits: ScanLimits) -> Result<StreamScan> {
        let filter = filter.clone();
        self.read(move |snapshot| scan_stream(snapshot, &filter, from, limits)).await
    }

    async fn stream_at(&self, filter: &SubjectFilter, time: Timestamp) -> Result<u64> {
        let filter = filter.clone();
        self.read(move |snapshot| stream_at_time(snapshot, &filter, time)).await
    }

    async fn create_consumer(&self, new: NewConsumer) -> Result<ConsumerView> {
        let shown =
            self.change_with_consumers(move |transaction, consumers| consumers.create(transaction, new)).await?;
        self.read(move |snapshot| shown.counted(snapshot)).await
    }

    async fn consumer(&self, name: &ConsumerName) -> Result<Option<ConsumerView>> {
        let name = name.clone();
        let shown = self.read_consumers(move |snapshot, consumers| consumers.get(snapshot, &name)).await?;
        self.read(move |snapshot| shown.map(|shown| shown.counted(snapshot)).transpose()).await
    }

    async fn consumers(&self, after: &str, limit: usize) -> Result<Vec<ConsumerView>> {
        let after = after.to_owned();
        let names = self.read(move |snapshot| consumers::names(snapshot, &after, limit)).await?;
        let shown = self.read_consumers(move |snapshot, consumers| {
            let mut shown = Vec::new();
            for name in names {
                shown.extend(consumers.get(snapshot, &name)?);
            }
            Ok(shown)
        });
        let shown = shown.await?;
        self.read(move |snapshot| shown.into_iter().map(|shown| shown.counted(snapshot)).collect()).await
    }

    async fn change_consumer(&self, name: &ConsumerName, change: ConsumerChange) -> Result<ConsumerView> {
        let name = name.clone();
        let shown = self
            .change_with_consumers(move |transaction, consumers| consumers.change(transaction, &name, change))
            .await?;
        self.read(move |snapshot| shown.counted(snapshot)).await
    }

    async fn move_message(&self, message: Move, now: Timestamp) -> Result<Option<u64>> {
        self.change(move |transaction| move_message(transaction, &message, now)).await
    }

    async fn next_due(&self) -> Result<Option<Timestamp>> {
        self.read(next_due).await
    }

    async fn deliver_due(&self, now: Timestamp, limit: usize) -> Result<Due> {
        let skipped = self.skipped.clone();
        self.change(move |transaction| deliver_due(transaction, now, limit, &skipped)).await
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
        let skipped = self.skipped.clone();
        self.change(move |transaction| expire(transaction, now, blocks_max, &skipped)).await
    }

    async fn forget_ids(&self, now: Timestamp, limit: usize) -> Result<usize> {
        let skipped = self.skipped.clone();
        self.change(move |transaction| {
            let of = (ID_DEADLINES, "id_deadlines");
            each_due(transaction, of, (now, limit), &skipped, |transaction, key, _| {
                // An id that was used again after its window has a later deadline of its own.
                let id = due::behind_time("id_deadlines", key)?;
                if let Some(value) = transaction.snapshot.get(IDS, id)? {
                    let (_, deadline) = tables::read_pair("ids", id, &value)?;
                    if deadline <= now.0 {
                        transaction.batch.remove(IDS, id);
                    }
                }
                transaction.batch.remove(ID_DEADLINES, key);
                Ok(())
            })
        })
        .await
    }

    async fn open_payload(&self, kind: fn(u64) -> PayloadKey) -> Result<PayloadKey> {
        self.change(move |transaction| transaction.add_payload(kind, Writer::Commits)).await
    }

    async fn seal_payload(&self, key: PayloadKey, now: Timestamp) -> Result<()> {
        self.change(move |transaction| transaction.seal(key, now)).await
    }

    async fn begin_upload(&self, new: NewUpload) -> Result<Upload> {
        self.change(move |transaction| uploads::begin(transaction, new)).await
    }

    async fn upload(&self, id: &UploadId) -> Result<Option<Upload>> {
        let id = id.clone();
        self.read(move |snapshot| uploads::read(snapshot, &id)).await
    }

    async fn uploads(&self, after: &str, limit: usize) -> Result<Vec<Upload>> {
        let after = after.to_owned();
        self.read(move |snapshot| uploads::list(snapshot, &after, limit)).await
    }

    async fn save_upload(&self, id: &UploadId, epoch: u64, saved: Saved, deadline: Timestamp) -> Result<()> {
        let id = id.clone();
        self.change(move |transaction| uploads::save(transaction, &id, epoch, saved, deadline)).await
    }

    async fn abandon_upload(&self, id: &UploadId, epoch: Option<u64>, now: Timestamp) -> Result<bool> {
        let id = id.clone();
        self.change(move |transaction| uploads::abandon(transaction, &id, epoch, now)).await
    }

    async fn expire_uploads(&self, now: Timestamp, limit: usize) -> Result<usize> {
        let skipped = self.skipped.clone();
        self.change(move |transaction| uploads::expire(transaction, now, limit, &skipped)).await
    }

    async fn payloads(&self, after: u64, limit: usize) -> Result<Vec<PayloadRow>> {
        let skipped = self.skipped.clone();
        self.read(move |snapshot| {
            let mut rows = Vec::new();
            snapshot.scan(PAYLOADS, &(after + 1).to_be_bytes(), &[0xFF; 9], |key, value| {
                rows.extend(skipped.pass("payloads", tables::read_payload_row(key, value))?);
                Ok(rows.len() < limit)
            })?;
            Ok(rows)
        })
        .await
    }

    async fn garbage(&self, before: Timestamp, limit: usize) -> Result<Vec<Garbage>> {
        let skipped = self.skipped.clone();
        self.read(move |snapshot| {
            let mut garbage = Vec::new();
            snapshot.scan(GARBAGE, &[], &before.0.to_be_bytes(), |key, value| {
                garbage.extend(skipped.pass("garbage", tables::read_garbage(key, value))?);
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

    fn unreadable_rows(&self) -> u64 {
        self.skipped.count()
    }

    async fn is_held(&self) -> Result<bool> {
        Ok(self.holds.load(Ordering::Acquire) > 0)
    }

    async fn writable(&self) -> Result<()> {
        let store = self.clone();
        blocking(move || {
            store.space.check(0)?;
            store.engine.read()?.get(FACTS, FACT_FORMAT).map(drop)
        })
        .await
    }
}
