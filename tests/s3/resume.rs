//! Uploads that one process begins and another ends.

use bytes::Bytes;
use minitoolstream::{
    Error,
    store::{PayloadStore, Synced, s3::Settings},
};

use crate::rig::{PART, Rig, assert_is, pattern, write};

#[tokio::test]
async fn another_process_goes_on_after_what_was_synced() {
    let rig = Rig::start();
    let data = pattern(4 * PART + 77);
    let first = rig.connect().await;
    let mut writer = first.write_object(1, &Synced::default()).await.unwrap();
    assert_eq!((writer.sync_step(), first.sync_step()), (PART as u64, PART as u64));
    assert_eq!(writer.sync().await.unwrap(), Synced::default(), "nothing was written");
    write(&mut *writer, &data.slice(..PART / 2)).await.unwrap();
    assert_eq!(writer.sync().await.unwrap().offset, 0, "no part is whole");
    write(&mut *writer, &data.slice(PART / 2..2 * PART)).await.unwrap();
    assert_eq!(writer.sync().await.unwrap().offset, 2 * PART as u64, "what is whole is synced at once");
    write(&mut *writer, &data.slice(2 * PART..3 * PART + 5)).await.unwrap();
    let synced = writer.sync().await.unwrap();
    assert_eq!(synced.offset, 3 * PART as u64);
    // What comes afterwards is forgotten, whether it is stored or not.
    write(&mut *writer, &Bytes::from(vec![7; 2 * PART])).await.unwrap();
    writer.sync().await.unwrap();
    drop(writer);

    // Settings may have changed meanwhile; an upload keeps its part size.
    let settings = Settings { part_size: 2 * PART as u64, ..rig.settings.clone() };
    let second = minitoolstream::store::s3::S3Payload::connect(settings, rig.metrics.clone()).await.unwrap();
    let mut writer = second.write_object(1, &synced).await.unwrap();
    assert_eq!(writer.sync_step(), PART as u64);
    assert_eq!(writer.sync().await.unwrap(), synced, "it begins where the other was");
    write(&mut *writer, &data.slice(3 * PART..)).await.unwrap();
    writer.finish().await.unwrap();
    assert_is(&second, 1, &data).await;
    assert_eq!(rig.files(), ["some/where/objects/0000000000000001"]);
}

#[tokio::test]
async fn an_object_that_was_whole_can_be_gone_on_with() {
    let rig = Rig::start();
    let payload = rig.connect().await;
    let data = pattern(2 * PART + 9);
    let mut writer = payload.write_object(1, &Synced::default()).await.unwrap();
    write(&mut *writer, &data).await.unwrap();
    let synced = writer.sync().await.unwrap();
    writer.finish().await.unwrap();
    // Its message was never committed: the client sends the rest again, and it may be another.
    let other = Bytes::from([&data[..2 * PART], b"another end"].concat());
    let mut writer = payload.write_object(1, &synced).await.unwrap();
    assert_eq!(writer.sync().await.unwrap().offset, synced.offset);
    write(&mut *writer, &other.slice(2 * PART..)).await.unwrap();
    writer.finish().await.unwrap();
    assert_is(&payload, 1, &other).await;
    assert_eq!(rig.files().len(), 1);
}

#[tokio::test]
async fn p7_what_was_synced_and_is_gone_is_data_loss() {
    let rig = Rig::start();
    let payload = rig.connect().await;
    let mut writer = payload.write_object(1, &Synced::default()).await.unwrap();
    write(&mut *writer, &pattern(PART)).await.unwrap();
    let synced = writer.sync().await.unwrap();
    drop(writer);
    let key = minitoolstream::block::PayloadKey::Object(1);
    payload.delete(key).await.unwrap();
    let too_far = Synced { offset: synced.offset * 2, ..synced.clone() };
    let damaged = Synced { receipt: synced.receipt.slice(1..), ..synced.clone() };
    for from in [synced, too_far, damaged] {
        let refused = payload.write_object(1, &from).await.map(drop);
        assert!(matches!(refused, Err(Error::DataLoss(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn beginning_anew_leaves_nothing_of_the_earlier_upload() {
    let rig = Rig::start();
    let payload = rig.connect().await;
    let mut abandoned = payload.write_object(1, &Synced::default()).await.unwrap();
    write(&mut *abandoned, &pattern(2 * PART)).await.unwrap();
    abandoned.sync().await.unwrap();
    let data = pattern(PART + 1);
    crate::rig::store(&payload, 1, &data).await.unwrap();
    assert_is(&payload, 1, &data).await;
    assert_eq!(rig.files().len(), 1);
    // The writer that lost its upload does not bring it back.
    let late = write(&mut *abandoned, &pattern(PART)).await;
    assert!(late.is_err() || matches!(abandoned.sync().await, Err(Error::Unavailable { .. })));
    assert_eq!(rig.files().len(), 1);
    assert!(matches!(abandoned.finish().await, Err(Error::Unavailable { .. })));
    assert_is(&payload, 1, &data).await;
}

#[tokio::test]
async fn what_another_broker_completed_meanwhile_can_be_gone_on_with() {
    let rig = Rig::start();
    let payload = rig.connect().await;
    let data = pattern(2 * PART + 9);
    let mut first = payload.write_object(1, &Synced::default()).await.unwrap();
    write(&mut *first, &data).await.unwrap();
    let synced = first.sync().await.unwrap();
    // The client has lost the first broker, whose completion is on its way, and goes on at a second one.
    let mut second = payload.write_object(1, &synced).await.unwrap();
    first.finish().await.unwrap();
    write(&mut *second, &data.slice(2 * PART..)).await.unwrap();
    let refused = second.finish().await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    let mut third = payload.write_object(1, &synced).await.unwrap();
    write(&mut *third, &data.slice(2 * PART..)).await.unwrap();
    third.finish().await.unwrap();
    assert_is(&payload, 1, &data).await;
}
