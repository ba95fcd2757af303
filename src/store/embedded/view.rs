//! All rows as of one moment: a read transaction of the engine, page by page.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;

use super::{
    blocking,
    scan::read_block,
    snapshot::Snapshot,
    tables::{
        self, BLOCKS, CONSUMERS, CURSORS, FACT_NEXT_PAYLOAD, FACTS, IDS, PAYLOADS, PENDING, POSITIONS, SCHEDULE,
        SUBJECTS, Table, UPLOADS,
    },
    transaction::next_stream,
    uploads,
};
use crate::{
    error::Result,
    store::{
        Ack, View,
        backup::{Head, Row},
    },
    types::Timestamp,
};

/// Rows of one page, and their bytes.
const ROWS_MAX: usize = 1000;
const BYTES_MAX: usize = 4 << 20;

/// Turns a row of a table into one of a backup.
type Read = fn(&Snapshot, &[u8], &[u8]) -> Result<Option<Row>>;

/// What is read, in this order.
const TABLES: [(Table, Read); 9] = [
    (SUBJECTS, |_, key, value| Ok(Some(Row::Subject(tables::read_subject_row(key, value)?)))),
    (BLOCKS, block),
    (IDS, id),
    (POSITIONS, position),
    (PAYLOADS, |_, key, value| Ok(Row::of_payload(&tables::read_payload_row(key, value)?))),
    (SCHEDULE, scheduled),
    (CONSUMERS, consumer),
    (PENDING, pending),
    (UPLOADS, |_, key, value| Ok(Row::of_upload(uploads::decode(key, value)?))),
];

/// See the [module](self).
pub(super) struct EmbeddedView {
    snapshot: Arc<Snapshot>,
    head: Head,
    at: Place,
    _hold: Hold,
}

/// Where the next page begins.
#[derive(Clone, Default)]
struct Place {
    table: usize,
    from: Vec<u8>,
}

/// Counts who holds payload.
pub(super) struct Hold(Arc<AtomicUsize>);

impl Hold {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count.clone())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl EmbeddedView {
    pub(super) fn new(snapshot: Snapshot, hold: Hold) -> Result<Self> {
        let next_payload = snapshot.get(FACTS, FACT_NEXT_PAYLOAD)?;
        let next_payload = next_payload.map_or(Ok(1), |value| tables::read_u64("facts", FACT_NEXT_PAYLOAD, &value))?;
        let head = Head { next_stream: next_stream(&snapshot)?, next_payload };
        Ok(Self { snapshot: Arc::new(snapshot), head, at: Place::default(), _hold: hold })
    }
}

#[async_trait]
impl View for EmbeddedView {
    fn head(&self) -> Head {
        self.head
    }

    async fn next(&mut self) -> Result<Vec<Row>> {
        let (snapshot, mut at) = (self.snapshot.clone(), self.at.clone());
        let (rows, at) = blocking(move || {
            let mut rows = Vec::new();
            while rows.is_empty() && at.table < TABLES.len() {
                rows = page(&snapshot, &mut at)?;
            }
            Ok((rows, at))
        })
        .await?;
        self.at = at;
        Ok(rows)
    }

    async fn keep(&self) -> Result<()> {
        Ok(())
    }

    async fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// The next rows of a table.
fn page(snapshot: &Snapshot, at: &mut Place) -> Result<Vec<Row>> {
    let (table, read) = TABLES[at.table];
    let (mut rows, mut looks, mut bytes) = (Vec::new(), 0, 0);
    let mut last = None;
    // No key has so many bytes of ones: names are text, and times and numbers far from their end.
    snapshot.scan(table, &at.from, &[0xFF; 16], |key, value| {
        looks += 1;
        bytes += value.len();
        rows.extend(read(snapshot, key, value)?);
        let is_full = looks >= ROWS_MAX || bytes >= BYTES_MAX;
        if is_full {
            last = Some(key.to_vec());
        }
        Ok(!is_full)
    })?;
    match last {
        Some(mut key) => {
            key.push(0);
            at.from = key;
        }
        None => *at = Place { table: at.table + 1, from: Vec::new() },
    }
    Ok(rows)
}

fn block(_: &Snapshot, key: &[u8], value: &[u8]) -> Result<Option<Row>> {
    let (subject, _) = tables::read_block_key(key)?;
    Ok(Some(Row::Block { subject, block: read_block(key, value)? }))
}

fn id(_: &Snapshot, key: &[u8], value: &[u8]) -> Result<Option<Row>> {
    let (subject, id) = tables::read_id_key(key)?;
    let (sequence, deadline) = tables::read_pair("ids", key, value)?;
    Ok(Some(Row::Id { subject, id, sequence, deadline: Timestamp(deadline) }))
}

fn position(_: &Snapshot, key: &[u8], value: &[u8]) -> Result<Option<Row>> {
    let (durable, subject) = tables::read_position_key(key)?;
    let sequence = tables::read_u64("positions", key, value)?;
    Ok(Some(Row::Position(Ack { durable, subject, sequence })))
}

fn scheduled(_: &Snapshot, key: &[u8], value: &[u8]) -> Result<Option<Row>> {
    let (due, stream_first) = tables::read_schedule_key(key)?;
    Ok(Some(Row::Scheduled { due, stream_first, subject: tables::read_subject(value)? }))
}

fn consumer(snapshot: &Snapshot, key: &[u8], value: &[u8]) -> Result<Option<Row>> {
    let name = tables::read_consumer_name(key)?;
    let cursor = snapshot.get(CURSORS, key)?.ok_or_else(|| tables::unreadable("cursors", key))?;
    Ok(Some(Row::Consumer { name, settings: value.to_vec().into(), cursor: cursor.into() }))
}

fn pending(_: &Snapshot, key: &[u8], value: &[u8]) -> Result<Option<Row>> {
    let (consumer, page) = tables::read_pending_key(key)?;
    Ok(Some(Row::Pending { consumer, page, row: value.to_vec().into() }))
}
