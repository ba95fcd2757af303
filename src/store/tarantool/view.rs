//! All rows as of one moment: see `tarantool/mts/view.lua`.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;

use super::{
    answers::{BlockRow, Books, PayloadTuple, PositionRow, UploadRow, read_subject, unreadable},
    link::Link,
    state::{ConsumerRow, PageRow},
};
use crate::{
    error::Result,
    store::{
        View,
        backup::{Head, Row},
    },
    types::{ConsumerName, MessageId, Timestamp},
};

/// See the [module](self).
pub(super) struct TarantoolView {
    link: Arc<Link>,
    id: ByteBuf,
    head: Head,
    /// Which of the spaces comes next, and which page over all of them.
    space: usize,
    page: u64,
}

#[derive(Deserialize)]
struct Page<T> {
    rows: Vec<T>,
    is_end: bool,
}

#[derive(Deserialize)]
struct IdRow(String, String, u64, u64);

#[derive(Deserialize)]
struct ScheduleRow(u64, u64, String);

impl TarantoolView {
    pub(super) async fn open(link: Arc<Link>) -> Result<Self> {
        let id = link.id();
        let (next_stream, next_payload) = link.call("view_open", &(&id,)).await?;
        Ok(Self { link, id, head: Head { next_stream, next_payload }, space: 0, page: 0 })
    }

    /// The next page of a space.
    async fn page<T: DeserializeOwned>(
        &mut self,
        space: &str,
        read: impl Fn(T) -> Result<Option<Row>>,
    ) -> Result<Vec<Row>> {
        let page: Page<T> = self.link.call("view_rows", &(&self.id, space, self.page)).await?;
        self.page += 1;
        self.space += usize::from(page.is_end);
        page.rows.into_iter().filter_map(|row| read(row).transpose()).collect()
    }
}

#[async_trait]
impl View for TarantoolView {
    fn head(&self) -> Head {
        self.head
    }

    async fn next(&mut self) -> Result<Vec<Row>> {
        loop {
            let rows = match self.space {
                0 => self.page("mts_subjects", |row: Books| Ok(Some(Row::Subject(row.read()?)))).await?,
                1 => self.page("mts_blocks", block).await?,
                2 => self.page("mts_ids", id).await?,
                3 => self.page("mts_positions", |row: PositionRow| Ok(Some(Row::Position(row.read()?)))).await?,
                4 => self.page("mts_payloads", |row: PayloadTuple| Ok(Row::of_payload(&row.read()?))).await?,
                5 => self.page("mts_schedule", scheduled).await?,
                6 => self.page("mts_consumers", consumer).await?,
                7 => self.page("mts_pending", pending).await?,
                8 => self.page("mts_uploads", |row: UploadRow| Ok(Row::of_upload(row.read()?))).await?,
                _ => return Ok(Vec::new()),
            };
            if !rows.is_empty() {
                return Ok(rows);
            }
        }
    }

    async fn keep(&self) -> Result<()> {
        self.link.call::<bool>("view_keep", &(&self.id,)).await.map(drop)
    }

    async fn close(self: Box<Self>) -> Result<()> {
        self.link.call::<bool>("view_close", &(&self.id,)).await.map(drop)
    }
}

fn block(row: BlockRow) -> Result<Option<Row>> {
    let (subject, block) = row.read_with_subject()?;
    Ok(Some(Row::Block { subject, block }))
}

fn id(IdRow(subject, id, sequence, deadline): IdRow) -> Result<Option<Row>> {
    let parsed = MessageId::parse("message_id", &id).map_err(|_| unreadable("ids", format_args!("{id}")))?;
    Ok(Some(Row::Id { subject: read_subject(&subject)?, id: parsed, sequence, deadline: Timestamp(deadline) }))
}

fn scheduled(ScheduleRow(due, stream_first, subject): ScheduleRow) -> Result<Option<Row>> {
    Ok(Some(Row::Scheduled { due: Timestamp(due), stream_first, subject: read_subject(&subject)? }))
}

fn consumer(row: ConsumerRow) -> Result<Option<Row>> {
    let ConsumerRow { name, settings, cursor, .. } = row;
    let name = consumer_name("consumers", &name)?;
    Ok(Some(Row::Consumer { name, settings: settings.into_vec().into(), cursor: cursor.into_vec().into() }))
}

fn pending(row: PageRow) -> Result<Option<Row>> {
    let PageRow { consumer, number: page, row } = row;
    Ok(Some(Row::Pending { consumer: consumer_name("pending", &consumer)?, page, row: row.into_vec().into() }))
}

fn consumer_name(space: &str, name: &str) -> Result<ConsumerName> {
    ConsumerName::parse("name", name).map_err(|_| unreadable(space, format_args!("{name}")))
}
