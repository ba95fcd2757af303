use async_trait::async_trait;

use super::{
    batch::Batch,
    metadata::EmbeddedMetadata,
    snapshot::Snapshot,
    tables::{
        self, BLOCKS, CONSUMERS, CURSORS, EXPIRY, FACT_NEXT_PAYLOAD, FACT_NEXT_STREAM, FACT_RESTORING, FACTS, GARBAGE,
        ID_DEADLINES, IDS, PAYLOADS, PENDING, POSITIONS, SCHEDULE, STREAM, SUBJECTS, UPLOADS,
    },
    uploads,
    view::{EmbeddedView, Hold},
};
use crate::{
    error::{Error, Result},
    store::{
        MetadataArchive, PayloadRow, Upload, UploadState, View, Writer,
        backup::{Head, Row},
    },
};

/// Tables that are empty before a restore.
const EMPTY: [tables::Table; 10] =
    [SUBJECTS, BLOCKS, IDS, POSITIONS, PAYLOADS, GARBAGE, CONSUMERS, PENDING, SCHEDULE, UPLOADS];

#[async_trait]
impl MetadataArchive for EmbeddedMetadata {
    async fn view(&self) -> Result<Box<dyn View>> {
        // Held before the moment of the view: nothing that it shows can be removed in between.
        let hold = Hold::new(&self.holds);
        let engine = self.engine.clone();
        let view = super::blocking(move || EmbeddedView::new(engine.read()?, hold)).await?;
        Ok(Box::new(view))
    }

    async fn restoring(&self) -> Result<Option<u64>> {
        self.read(restoring).await
    }

    async fn begin_restore(&self, backup: u64) -> Result<()> {
        self.change(move |transaction| {
            match restoring(&transaction.snapshot)? {
                Some(other) if other == backup => return Ok(()),
                Some(_) => {
                    let what = "the restore of another backup was interrupted: repeat that one, or begin with an empty \
                                directory";
                    return Err(Error::Precondition(what.into()));
                }
                None => {}
            }
            for table in EMPTY {
                transaction.snapshot.scan(table, &[], &[0xFF; 16], |_, _| {
                    let what = "the data directory is not empty: restore into one of its own";
                    Err(Error::Precondition(what.into()))
                })?;
            }
            transaction.batch.put(FACTS, FACT_RESTORING, backup.to_le_bytes());
            Ok(())
        })
        .await
    }

    async fn restore(&self, backup: u64, rows: Vec<Row>) -> Result<()> {
        self.change(move |transaction| {
            check(&transaction.snapshot, backup)?;
            rows.into_iter().for_each(|row| put(&mut transaction.batch, row));
            Ok(())
        })
        .await
    }

    async fn end_restore(&self, backup: u64, head: Head) -> Result<()> {
        self.change(move |transaction| {
            check(&transaction.snapshot, backup)?;
            transaction.batch.put(FACTS, FACT_NEXT_PAYLOAD, head.next_payload.to_le_bytes());
            transaction.batch.put(FACTS, FACT_NEXT_STREAM, head.next_stream.to_le_bytes());
            transaction.batch.remove(FACTS, FACT_RESTORING);
            Ok(())
        })
        .await
    }

    /// Whoever has the stores open holds their lock.
    async fn brokers(&self) -> Result<u64> {
        Ok(0)
    }

    /// Nobody else can have changed the row.
    async fn recount(&self, row: PayloadRow, _counted: Option<u64>) -> Result<()> {
        self.change(move |transaction| {
            transaction.batch.put(PAYLOADS, row.key.number().to_be_bytes(), tables::payload_value(&row));
            Ok(())
        })
        .await
    }
}

pub(super) fn restoring(snapshot: &Snapshot) -> Result<Option<u64>> {
    let backup = snapshot.get(FACTS, FACT_RESTORING)?;
    backup.map(|value| tables::read_u64("facts", FACT_RESTORING, &value)).transpose()
}

fn check(snapshot: &Snapshot, backup: u64) -> Result<()> {
    match restoring(snapshot)? == Some(backup) {
        true => Ok(()),
        false => Err(Error::Precondition("this restore is over: look at the store, and begin anew".into())),
    }
}

/// Writes a row of a backup, and those that follow from it.
fn put(batch: &mut Batch, row: Row) {
    match row {
        Row::Subject(row) => batch.put(SUBJECTS, row.subject.as_str(), tables::subject_value(&row)),
        Row::Block { subject, block } => {
            let key = tables::block_key(&subject, block.first);
            if let Some(expires) = block.expires {
                batch.put(EXPIRY, tables::timed_key(expires, &key), []);
            }
            let place = tables::stream_value(&subject, block.first, block.count);
            batch.put(STREAM, block.stream_first.to_be_bytes(), place);
            batch.put(BLOCKS, key, block.encode());
        }
        Row::Id { subject, id, sequence, deadline } => {
            let key = tables::id_key(&subject, &id);
            batch.put(ID_DEADLINES, tables::timed_key(deadline, &key), []);
            batch.put(IDS, key, tables::pair_value(sequence, deadline.0));
        }
        Row::Position(ack) => {
            let key = tables::position_key(&ack.durable, &ack.subject);
            batch.put(POSITIONS, key, ack.sequence.to_le_bytes());
        }
        Row::Payload { key, alive, len } => {
            let row = PayloadRow { key, alive, len, writer: Writer::Nobody };
            batch.put(PAYLOADS, key.number().to_be_bytes(), tables::payload_value(&row));
        }
        Row::Scheduled { due, stream_first, subject } => {
            batch.put(SCHEDULE, tables::timed_key(due, &stream_first.to_be_bytes()), subject.as_str());
        }
        Row::Consumer { name, settings, cursor } => {
            batch.put(CONSUMERS, name.as_str(), settings);
            batch.put(CURSORS, name.as_str(), cursor);
        }
        Row::Pending { consumer, page, row } => batch.put(PENDING, tables::pending_key(&consumer, page), row),
        Row::Upload { id, deadline, subject, sequence, size, sha256 } => {
            let state = UploadState::Done { subject, sequence, size, sha256 };
            uploads::put_rows(batch, &Upload { id, state, deadline });
        }
    }
}
