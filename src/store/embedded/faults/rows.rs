//! Rows that cannot be read: those that are due behind them are handled, and nothing is deleted in their place.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    super::{
        Limits,
        batch::Batch,
        engine::Engine,
        metadata::EmbeddedMetadata,
        open_on,
        tables::{
            self, BLOCKS, EXPIRY, GARBAGE, ID_DEADLINES, IDS, PAYLOADS, SCHEDULE, Table, UPLOAD_DEADLINES, UPLOADS,
        },
        volume::{Sizes, Volume},
    },
    disk::FailingDisk,
    load::{ROOMY, file},
};
use crate::{
    block::{PayloadKey, Placement, batch},
    store::{
        Archive, Group, MetadataStore, PayloadStore,
        check::{self, Kind, Report},
    },
    types::{Draft, MessageId, Subject, Timestamp},
};

const NOW: Timestamp = Timestamp(1_000_000);
const LATER: Timestamp = Timestamp(9_000_000);

fn open() -> (Arc<Engine>, EmbeddedMetadata) {
    let disk = FailingDisk::new(1, ROOMY);
    let (metadata, _files) =
        open_on(Volume::on(Arc::new(disk), &file(""), Sizes::default()), Limits::default()).unwrap();
    (metadata.engine.clone(), metadata)
}

/// Writes rows that no version would write.
fn put(engine: &Engine, rows: &[(Table, Vec<u8>, &[u8])]) {
    let mut batch = Batch::default();
    rows.iter().for_each(|(table, key, value)| batch.put(*table, key.clone(), *value));
    engine.commit(&batch).unwrap();
}

/// A key before all that are due, of so many.
fn early(number: u64, key: &[u8]) -> Vec<u8> {
    tables::timed_key(Timestamp(number), key)
}

async fn publish(metadata: &EmbeddedMetadata, subject: &str, id: &str, deliver_at: Option<Timestamp>) {
    let draft = Draft {
        subject: Subject::parse("subject", subject).unwrap(),
        data: "data".into(),
        headers: vec![],
        created: NOW,
        expires: deliver_at.is_none().then(|| NOW.after(Duration::from_secs(1))),
        message_id: Some(MessageId::parse("message_id", id).unwrap()),
        expected_last: None,
        deliver_at,
        upload: None,
        uploaded: None,
    };
    let blocks = batch::form(&[draft], &[false]);
    let placements = vec![Placement::Inline(blocks[0].body.clone())];
    let group = Group { blocks, placements, now: NOW, dedup_window: Duration::from_secs(1), ..Group::default() };
    metadata.commit(group).await.unwrap();
}

#[tokio::test]
async fn p5_unreadable_rows_stop_no_row_behind_them() {
    let (engine, metadata) = open();
    publish(&metadata, "a", "one", None).await;
    publish(&metadata, "a", "two", None).await;
    publish(&metadata, "later", "three", Some(NOW.after(Duration::from_secs(5)))).await;
    let mut rows: Vec<(Table, Vec<u8>, &[u8])> = Vec::new();
    // More than a page of each.
    for number in 0..30 {
        let subject = Subject::parse("subject", &format!("bad.{number}")).unwrap();
        let block = tables::block_key(&subject, 1);
        rows.push((EXPIRY, early(number, &block), b""));
        rows.push((BLOCKS, block, b"\xFFno block"));
        rows.push((EXPIRY, early(number, b"x"), b""));
        let id = [subject.as_str().as_bytes(), b"\0id"].concat();
        rows.push((ID_DEADLINES, early(number, &id), b""));
        rows.push((IDS, id, b"short"));
        rows.push((UPLOAD_DEADLINES, early(number, format!("bad-{number}").as_bytes()), b""));
        rows.push((UPLOADS, format!("bad-{number}").into_bytes(), b"no upload"));
        rows.push((SCHEDULE, early(number, &number.to_be_bytes()), b"\xFF"));
        rows.push((SCHEDULE, number.to_be_bytes()[..4].to_vec(), b"a"));
        rows.push((PAYLOADS, number.to_be_bytes().to_vec(), b"no payload"));
        rows.push((GARBAGE, early(number, &number.to_be_bytes()), b"\x09"));
    }
    put(&engine, &rows);
    let before = engine.read().unwrap();
    let expired = metadata.expire(LATER, 10).await.unwrap();
    assert_eq!((expired.blocks, expired.messages), (2, 2));
    assert_eq!(metadata.expire(LATER, 10).await.unwrap().blocks, 0);
    assert_eq!(metadata.forget_ids(LATER, 10).await.unwrap(), 3);
    assert_eq!(metadata.expire_uploads(LATER, 10).await.unwrap(), 0);
    let due = metadata.deliver_due(LATER, 10).await.unwrap();
    assert_eq!(due.raised.iter().map(|(subject, last)| (subject.as_str(), *last)).collect::<Vec<_>>(), [("later", 1)]);
    assert_eq!(metadata.payloads(0, 10).await.unwrap().len(), 0);
    assert_eq!(metadata.garbage(Timestamp(u64::MAX), 10).await.unwrap().len(), 0);
    assert!(metadata.unreadable_rows() >= 8 * 30, "{}", metadata.unreadable_rows());
    // Nothing was deleted because it could not be read (P5).
    let after = engine.read().unwrap();
    for (table, key, value) in rows {
        let (was, is) = (before.get(table, &key).unwrap(), after.get(table, &key).unwrap());
        assert_eq!((was.as_deref(), is.as_deref()), (Some(value), Some(value)));
    }
}

#[tokio::test]
async fn p5_a_repair_moves_no_file_whose_row_cannot_be_read() {
    let disk = FailingDisk::new(1, ROOMY);
    let sizes = Sizes { journal: 48 << 10, segment: 24 << 10, reserve: 0, ..Sizes::default() };
    let volume = Volume::on(Arc::new(disk.clone()), &file(""), sizes);
    let (metadata, files) = open_on(volume, Limits::default()).unwrap();
    let number = metadata.open_payload(PayloadKey::Segment).await.unwrap().number();
    files.append(number, vec![Bytes::from_static(b"living bytes")]).await.unwrap();
    put(&metadata.engine, &[(PAYLOADS, number.to_be_bytes().to_vec(), b"no payload")]);
    let archive = Archive { metadata: Arc::new(metadata), payload: Arc::new(files) };
    let mut kinds = Vec::new();
    let report = |report| {
        if let Report::Finding(finding) = report {
            kinds.push((finding.kind, finding.repair));
        }
    };
    check::repair(&archive, report).await.unwrap();
    assert_eq!(kinds, [(Kind::UnreadableRow, None)]);
    let key = PayloadKey::Segment(number);
    assert!(archive.payload.size(key).await.unwrap().is_some(), "the file is where it was");
}

#[tokio::test]
async fn p5_a_scheduled_block_that_cannot_be_read_stays() {
    let (engine, metadata) = open();
    let due = NOW.after(Duration::from_secs(5));
    publish(&metadata, "bad", "one", Some(due)).await;
    let key = tables::block_key(&Subject::scheduled(), 1);
    put(&engine, &[(BLOCKS, key.clone(), b"\xFFno block")]);
    publish(&metadata, "good", "two", Some(due)).await;
    let moved = metadata.deliver_due(LATER, 10).await.unwrap();
    assert_eq!(moved.raised.iter().map(|(subject, last)| (subject.as_str(), *last)).collect::<Vec<_>>(), [("good", 1)]);
    assert_eq!(engine.read().unwrap().get(BLOCKS, &key).unwrap().as_deref(), Some(b"\xFFno block".as_slice()));
    assert!(metadata.next_due().await.unwrap().is_some(), "it waits for a check");
}
