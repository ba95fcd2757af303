use std::sync::Arc;

use async_trait::async_trait;
use minitoolstream::{
    block::{PayloadKey, ScanLimits, StreamScan},
    error::Result,
    store::{
        Ack, BlockScan, Committed, ConsumerChange, ConsumerView, Due, Expired, Garbage, Group, MetadataStore, Move,
        NewConsumer, NewUpload, PayloadRow, Purged, Saved, Stores, SubjectRow, Upload,
        embedded::{Embedded, Limits},
    },
    types::{ConsumerName, DurableName, Subject, SubjectFilter, Timestamp, UploadId},
};
use tokio::sync::Semaphore;

/// Real stores in which the answer to a commit waits at a gate, after the commit is durable.
pub(crate) struct Gated {
    pub(crate) stores: Stores,
    /// One permit lets one answer through.
    pub(crate) gate: Arc<Semaphore>,
    /// One permit for each commit that is durable.
    pub(crate) durable: Arc<Semaphore>,
    _embedded: Embedded,
    _dir: tempfile::TempDir,
}

struct Metadata {
    inner: Arc<dyn MetadataStore>,
    gate: Arc<Semaphore>,
    durable: Arc<Semaphore>,
}

impl Gated {
    pub(crate) async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let embedded = Embedded::open(dir.path(), Limits::default()).await.unwrap();
        let (gate, durable) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let metadata =
            Metadata { inner: embedded.stores.metadata.clone(), gate: gate.clone(), durable: durable.clone() };
        let stores = Stores { metadata: Arc::new(metadata), payload: embedded.stores.payload.clone() };
        Self { stores, gate, durable, _embedded: embedded, _dir: dir }
    }

    /// Waits until one more commit is durable.
    pub(crate) async fn commit_is_durable(&self) {
        self.durable.acquire().await.unwrap().forget();
    }
}

#[async_trait]
impl MetadataStore for Metadata {
    async fn commit(&self, group: Group) -> Result<Committed> {
        let committed = self.inner.commit(group).await;
        self.durable.add_permits(1);
        self.gate.acquire().await.unwrap().forget();
        committed
    }

    async fn subject(&self, subject: &Subject) -> Result<Option<SubjectRow>> {
        self.inner.subject(subject).await
    }

    async fn subjects(&self, filter: &SubjectFilter, after: &str, limit: usize) -> Result<Vec<SubjectRow>> {
        self.inner.subjects(filter, after, limit).await
    }

    async fn blocks(&self, subject: &Subject, from: u64, blocks_max: usize, bytes_max: u64) -> Result<BlockScan> {
        self.inner.blocks(subject, from, blocks_max, bytes_max).await
    }

    async fn stream(&self, filter: &SubjectFilter, from: u64, limits: ScanLimits) -> Result<StreamScan> {
        self.inner.stream(filter, from, limits).await
    }

    async fn stream_at(&self, filter: &SubjectFilter, time: Timestamp) -> Result<u64> {
        self.inner.stream_at(filter, time).await
    }

    async fn create_consumer(&self, new: NewConsumer) -> Result<ConsumerView> {
        self.inner.create_consumer(new).await
    }

    async fn consumer(&self, name: &ConsumerName) -> Result<Option<ConsumerView>> {
        self.inner.consumer(name).await
    }

    async fn consumers(&self, after: &str, limit: usize) -> Result<Vec<ConsumerView>> {
        self.inner.consumers(after, limit).await
    }

    async fn change_consumer(&self, name: &ConsumerName, change: ConsumerChange) -> Result<ConsumerView> {
        self.inner.change_consumer(name, change).await
    }

    async fn move_message(&self, message: Move, now: Timestamp) -> Result<Option<u64>> {
        self.inner.move_message(message, now).await
    }

    async fn next_due(&self) -> Result<Option<Timestamp>> {
        self.inner.next_due().await
    }

    async fn deliver_due(&self, now: Timestamp, limit: usize) -> Result<Due> {
        self.inner.deliver_due(now, limit).await
    }

    async fn position(&self, durable: &DurableName, subject: &Subject) -> Result<u64> {
        self.inner.position(durable, subject).await
    }

    async fn positions(&self, after: Option<&(DurableName, Subject)>, limit: usize) -> Result<Vec<Ack>> {
        self.inner.positions(after, limit).await
    }

    async fn purge(&self, subject: &Subject, up_to: u64, blocks_max: usize, now: Timestamp) -> Result<Purged> {
        self.inner.purge(subject, up_to, blocks_max, now).await
    }

    async fn expire(&self, now: Timestamp, blocks_max: usize) -> Result<Expired> {
        self.inner.expire(now, blocks_max).await
    }

    async fn forget_ids(&self, now: Timestamp, limit: usize) -> Result<usize> {
        self.inner.forget_ids(now, limit).await
    }

    async fn open_payload(&self, kind: fn(u64) -> PayloadKey) -> Result<PayloadKey> {
        self.inner.open_payload(kind).await
    }

    async fn seal_payload(&self, key: PayloadKey, now: Timestamp) -> Result<()> {
        self.inner.seal_payload(key, now).await
    }

    async fn begin_upload(&self, new: NewUpload) -> Result<Upload> {
        self.inner.begin_upload(new).await
    }

    async fn upload(&self, id: &UploadId) -> Result<Option<Upload>> {
        self.inner.upload(id).await
    }

    async fn uploads(&self, after: &str, limit: usize) -> Result<Vec<Upload>> {
        self.inner.uploads(after, limit).await
    }

    async fn save_upload(&self, id: &UploadId, epoch: u64, saved: Saved, deadline: Timestamp) -> Result<()> {
        self.inner.save_upload(id, epoch, saved, deadline).await
    }

    async fn abandon_upload(&self, id: &UploadId, epoch: Option<u64>, now: Timestamp) -> Result<bool> {
        self.inner.abandon_upload(id, epoch, now).await
    }

    async fn expire_uploads(&self, now: Timestamp, limit: usize) -> Result<usize> {
        self.inner.expire_uploads(now, limit).await
    }

    async fn payloads(&self, after: u64, limit: usize) -> Result<Vec<PayloadRow>> {
        self.inner.payloads(after, limit).await
    }

    async fn garbage(&self, before: Timestamp, limit: usize) -> Result<Vec<Garbage>> {
        self.inner.garbage(before, limit).await
    }

    async fn forget_garbage(&self, removed: &[Garbage]) -> Result<()> {
        self.inner.forget_garbage(removed).await
    }

    async fn writable(&self) -> Result<()> {
        self.inner.writable().await
    }
}
