//! Rows of a backup as bytes.

use bytes::Bytes;
use minitoolstream::{
    Error, Result,
    block::{Block, PayloadKey, Placement},
    store::{
        Ack, SubjectRow,
        backup::{
            Head, Row,
            frames::{Beginning, FrameReader, FrameWriter},
        },
    },
    types::{ConsumerName, DurableName, MessageId, Subject, Timestamp, UploadId},
};
use proptest::{collection::vec, prelude::*};

const BEGINNING: Beginning =
    Beginning { backup: 7, created: Timestamp(8), head: Head { next_stream: 9, next_payload: 10 } };

async fn written(rows: &[Row]) -> Vec<u8> {
    let mut writer = FrameWriter::begin(Vec::new(), "rows".into(), &BEGINNING).await.unwrap();
    for row in rows {
        writer.row(row).await.unwrap();
    }
    let (bytes, count, digest) = writer.end().await.unwrap();
    assert_eq!((count, digest.size), (rows.len() as u64, bytes.len() as u64));
    assert_eq!(digest.crc32, crc32fast::hash(&bytes));
    bytes
}

async fn read(bytes: &[u8]) -> Result<(Beginning, Vec<Row>)> {
    let mut reader = FrameReader::begin(bytes, "rows".into()).await?;
    let mut rows = Vec::new();
    while let Some(row) = reader.next().await? {
        rows.push(row);
    }
    assert_eq!(reader.read().1.size, bytes.len() as u64);
    Ok((reader.beginning, rows))
}

fn subject() -> impl Strategy<Value = Subject> {
    "[a-zß$]{1,20}(\\.[a-z0-9-]{1,9}){0,3}".prop_map(|name| Subject::parse("subject", &name).unwrap())
}

fn bytes(len_max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..=len_max).prop_map(Bytes::from)
}

fn placement() -> impl Strategy<Value = Placement> {
    prop_oneof![
        bytes(300).prop_map(Placement::Inline),
        any::<(u64, u64, u64)>().prop_map(|(segment, offset, len)| Placement::Slice { segment, offset, len }),
        (any::<(u64, u64, [u8; 32])>(), vec(any::<u32>(), 0..5), bytes(50)).prop_map(
            |((object, size, sha256), part_crcs, record)| {
                Placement::Object { object, size, sha256, part_crcs, record }
            }
        ),
        (any::<(u64, u64, u64, u32, u32)>(), bytes(50)).prop_map(
            |((segment, offset, len, body_crc, index), record)| {
                Placement::Shared { segment, offset, len, body_crc, index, record }
            }
        ),
    ]
}

fn row() -> impl Strategy<Value = Row> {
    let text = "[^\\p{Cc}]{1,40}";
    let consumer = "[a-z_-]{1,30}".prop_map(|name| ConsumerName::parse("name", &name).unwrap());
    let block = (any::<(u64, u64, u32, u64, u32)>(), proptest::option::of(1_u64..), placement());
    prop_oneof![
        (subject(), any::<[u64; 6]>()).prop_map(|(subject, [last, floor, expired, purged, bytes, updated])| {
            Row::Subject(SubjectRow { subject, last, floor, expired, purged, bytes, updated: Timestamp(updated) })
        }),
        (subject(), block).prop_map(|(subject, ((first, stream_first, count, created, crc), expires, placement))| {
            let (created, expires) = (Timestamp(created), expires.map(Timestamp));
            Row::Block { subject, block: Block { first, stream_first, count, created, expires, crc, placement } }
        }),
        (subject(), text, any::<(u64, u64)>()).prop_map(|(subject, id, (sequence, deadline))| {
            let id = MessageId::parse("id", &id).unwrap();
            Row::Id { subject, id, sequence, deadline: Timestamp(deadline) }
        }),
        (text, subject(), any::<u64>()).prop_map(|(durable, subject, sequence)| {
            Row::Position(Ack { durable: DurableName::parse("durable", &durable).unwrap(), subject, sequence })
        }),
        any::<(bool, u64, u64, u64)>().prop_map(|(is_object, number, alive, len)| {
            let key = if is_object { PayloadKey::Object(number) } else { PayloadKey::Segment(number) };
            Row::Payload { key, alive, len }
        }),
        (subject(), any::<(u64, u64)>()).prop_map(|(subject, (due, stream_first))| Row::Scheduled {
            due: Timestamp(due),
            stream_first,
            subject
        }),
        (consumer.clone(), bytes(300), bytes(90)).prop_map(|(name, settings, cursor)| Row::Consumer {
            name,
            settings,
            cursor
        }),
        (consumer, any::<u64>(), bytes(200)).prop_map(|(consumer, page, row)| Row::Pending { consumer, page, row }),
        (text, subject(), any::<(u64, u64, u64, [u8; 32])>()).prop_map(
            |(id, subject, (deadline, sequence, size, sha256))| {
                let id = UploadId::parse("id", &id).unwrap();
                Row::Upload { id, deadline: Timestamp(deadline), subject, sequence, size, sha256 }
            }
        ),
    ]
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

proptest! {
    #[test]
    fn every_row_is_read_as_it_was_written(rows in vec(row(), 0..20)) {
        let (beginning, found) = block_on(async { read(&written(&rows).await).await }).unwrap();
        prop_assert_eq!(beginning, BEGINNING);
        prop_assert_eq!(format!("{found:?}"), format!("{rows:?}"));
    }

    #[test]
    fn p7_whatever_is_damaged_or_cut_is_refused(
        rows in vec(row(), 1..8),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let bytes = block_on(written(&rows));
        let at = at.index(bytes.len());
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << bit;
        for damaged in [&flipped[..], &bytes[..at], &[&bytes[..], &[0]].concat()] {
            let refused = block_on(read(damaged)).map(drop);
            prop_assert!(matches!(refused, Err(Error::DataLoss(_) | Error::Precondition(_))), "{refused:?}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = Row::decode(bytes.into());
    }
}

#[tokio::test]
async fn yesterdays_rows_are_read() {
    let subject = Subject::parse("subject", "a").unwrap();
    let row = Row::Scheduled { due: Timestamp(3), stream_first: 2, subject };
    let bytes =
        b"MTSBKP\x01\0\x21\0\0\0\xb0\x06_\\\0\x07\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x0a\0\0\0\0\0\0\0\
                  \x14\0\0\0\xc9\x02\xbbK\x06\x03\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\0a\
                  \x09\0\0\0{\x18\xecc\xff\x01\0\0\0\0\0\0\0";
    assert_eq!(written(std::slice::from_ref(&row)).await.escape_ascii().to_string(), bytes.escape_ascii().to_string());
    assert_eq!(format!("{:?}", read(bytes).await.unwrap().1), format!("{:?}", [row]));
}
