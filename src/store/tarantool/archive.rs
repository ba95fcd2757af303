use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use serde_bytes::ByteBuf;

use super::{TarantoolMetadata, answers, view::TarantoolView, wire};
use crate::{
    block::PayloadKey,
    error::Result,
    store::{
        Ack, MetadataArchive, PayloadRow, SubjectRow, View, Writer,
        backup::{Head, Row},
    },
};

#[async_trait]
impl MetadataArchive for TarantoolMetadata {
    async fn view(&self) -> Result<Box<dyn View>> {
        Ok(Box::new(TarantoolView::open(self.link.clone()).await?))
    }

    async fn restoring(&self) -> Result<Option<u64>> {
        let (backup,): (Option<u64>,) = self.link.call("restore_read", &[(); 0]).await?;
        Ok(backup)
    }

    async fn begin_restore(&self, backup: u64) -> Result<()> {
        self.link.call::<bool>("restore_begin", &(self.link.id(), backup)).await.map(drop)
    }

    async fn restore(&self, backup: u64, rows: Vec<Row>) -> Result<()> {
        let Some(space) = rows.first().map(space) else { return Ok(()) };
        let tuples: Vec<_> = rows.into_iter().map(Tuple::of).collect();
        self.link.call::<bool>("restore_rows", &(self.link.id(), backup, space, tuples)).await.map(drop)
    }

    async fn end_restore(&self, backup: u64, head: Head) -> Result<()> {
        let arguments = (self.link.id(), backup, head.next_stream, head.next_payload);
        self.link.call::<bool>("restore_finish", &arguments).await.map(drop)
    }

    async fn brokers(&self) -> Result<u64> {
        self.link.call("broker_count", &[(); 0]).await
    }

    async fn recount(&self, row: PayloadRow, counted: Option<u64>) -> Result<()> {
        let PayloadRow { key, alive, len, writer } = row;
        let arguments = (self.link.id(), key.number(), wire::kind(key), answers::writer(writer), alive, len, counted);
        self.link.call::<bool>("payload_recount", &arguments).await.map(drop)
    }
}

/// The space that a row goes to.
fn space(row: &Row) -> &'static str {
    match row {
        Row::Subject(_) => "mts_subjects",
        Row::Block { .. } => "mts_blocks",
        Row::Id { .. } => "mts_ids",
        Row::Position(_) => "mts_positions",
        Row::Payload { .. } => "mts_payloads",
        Row::Scheduled { .. } => "mts_schedule",
        Row::Consumer { .. } => "mts_consumers",
        Row::Pending { .. } => "mts_pending",
        Row::Upload { .. } => "mts_uploads",
    }
}

/// A row as its space has it.
#[derive(Serialize)]
#[serde(untagged)]
enum Tuple {
    Subject(String, u64, u64, u64, u64, u64, u64),
    Block(String, u64, u64, u32, u64, u64, u32, u64, u64, u64, ByteBuf),
    Id(String, String, u64, u64),
    Position(String, String, u64),
    Payload(u64, u8, u8, u64, u64),
    Scheduled(u64, u64, String),
    Consumer(String, u64, ByteBuf, ByteBuf),
    Pending(String, u64, ByteBuf),
    Upload(Box<UploadTuple>),
}

/// See `UPLOAD` in upload.lua: one that is done.
type UploadTuple =
    (String, u64, u8, u64, u64, &'static str, u64, &'static str, &'static str, String, u64, u64, ByteBuf);

impl Tuple {
    fn of(row: Row) -> Self {
        let bytes = |bytes: Bytes| ByteBuf::from(Vec::from(bytes));
        match row {
            Row::Subject(row) => {
                let SubjectRow { subject, last, floor, expired, purged, bytes, updated } = row;
                Self::Subject(subject.to_string(), last, floor, expired, purged, bytes, updated.0)
            }
            Row::Block { subject, block } => Self::Block(
                subject.to_string(),
                block.first,
                block.stream_first,
                block.count,
                block.created.0,
                block.expires.map_or(0, |at| at.0),
                block.crc,
                block.bytes(),
                block.read_bytes(),
                block.payload().map_or(0, PayloadKey::number),
                wire::encode(&block.placement),
            ),
            Row::Id { subject, id, sequence, deadline } => {
                Self::Id(subject.to_string(), id.to_string(), sequence, deadline.0)
            }
            Row::Position(Ack { durable, subject, sequence }) => {
                Self::Position(durable.to_string(), subject.to_string(), sequence)
            }
            Row::Payload { key, alive, len } => {
                Self::Payload(key.number(), wire::kind(key), answers::writer(Writer::Nobody), alive, len)
            }
            Row::Scheduled { due, stream_first, subject } => Self::Scheduled(due.0, stream_first, subject.to_string()),
            Row::Consumer { name, settings, cursor } => {
                Self::Consumer(name.to_string(), 1, bytes(settings), bytes(cursor))
            }
            Row::Pending { consumer, page, row } => Self::Pending(consumer.to_string(), page, bytes(row)),
            Row::Upload { id, deadline, subject, sequence, size, sha256 } => {
                let sha256 = ByteBuf::from(sha256.to_vec());
                let (id, subject) = (id.to_string(), subject.to_string());
                Self::Upload(Box::new((id, deadline.0, 1, 0, 0, "", 0, "", "", subject, sequence, size, sha256)))
            }
        }
    }
}
