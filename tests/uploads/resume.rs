//! Interrupted uploads go on, once each.

use std::{sync::Arc, time::Duration};

use minitoolstream::types::SystemClock;
use minitoolstream_client::proto::{UploadCommit, UploadHeader};
use minitoolstream_testkit::TestBroker;
use tonic::Code;

use crate::{
    api::{Api, Upload, header},
    pattern::Pattern,
};

const MIB: u64 = 1 << 20;

/// Sends the data between two offsets.
async fn send(upload: &Upload, data: Pattern, from: u64, to: u64) {
    upload.send_all(Pattern { size: to, ..data }.pieces(from)).await;
}

async fn offset(api: &Api, id: &str) -> u64 {
    api.get(id).await.unwrap().offset
}

/// Waits until an upload whose stream was cut is saved beyond a place, and gives where.
async fn saved_beyond(api: &Api, id: &str, place: u64) -> u64 {
    let is_saved = async {
        loop {
            match offset(api, id).await {
                at if at > place => return at,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), is_saved).await.expect("it is saved")
}

#[tokio::test]
async fn an_upload_goes_on_where_it_was_interrupted() {
    let broker = TestBroker::start(&[]).await;
    let api = Api::connect(broker.ingress).await;
    let data = Pattern::new(1, 9 * MIB + 5);
    let upload = api.begin(header("u", "a")).await;
    send(&upload, data, 0, 3 * MIB + 100).await;
    let ended = upload.end().await.unwrap_err();
    assert_eq!(ended.code(), Code::FailedPrecondition);
    assert_eq!(offset(&api, "u").await, 3 * MIB + 100);
    let wrong = api.begin(UploadHeader { offset: MIB, ..header("u", "a") }).await.end().await.unwrap_err();
    assert_eq!(wrong.code(), Code::FailedPrecondition);
    assert!(wrong.message().contains(&format!("offset {}", 3 * MIB + 100)), "{wrong:?}");
    let other = UploadHeader { offset: 3 * MIB + 100, ..header("u", "b") };
    let other = api.begin(other).await.end().await.unwrap_err();
    assert!(other.message().contains("another header"), "{other:?}");
    let upload = api.begin(UploadHeader { offset: 3 * MIB + 100, ..header("u", "a") }).await;
    send(&upload, data, 3 * MIB + 100, 7 * MIB).await;
    upload.taken().await;
    upload.cut();
    // What was on its way is lost.
    let at = saved_beyond(&api, "u", 3 * MIB + 100).await;
    assert!(at <= 7 * MIB, "{at}");
    let upload = api.begin(UploadHeader { offset: at, size: Some(data.size), ..header("u", "a") }).await;
    upload.send_all(data.pieces(at)).await;
    let stored = upload.commit(UploadCommit { size: None, sha256: data.sha256().to_vec().into() }).await.unwrap();
    assert_eq!((stored.sequence, stored.size), (1, data.size));
    api.assert_is("a", 1, data).await;
    let again = api.upload(header("u", "a"), data).await.unwrap();
    assert_eq!((again.sequence, again.duplicate), (1, true), "the same upload is the same message");
    broker.stop().await;
}

#[tokio::test]
async fn the_last_uploader_wins() {
    let broker = TestBroker::start(&[]).await;
    let api = Api::connect(broker.ingress).await;
    let data = Pattern::new(1, 5 * MIB);
    let first = api.begin(header("u", "a")).await;
    send(&first, data, 0, 3 * MIB).await;
    // Until the first has begun.
    begun(&api, "u").await;
    let second = api.begin(UploadHeader { offset: 99, ..header("u", "a") }).await.end().await.unwrap_err();
    assert_eq!(second.code(), Code::FailedPrecondition, "{second:?}");
    let ended = first.end().await.unwrap_err();
    assert!(ended.message().contains("by somebody else"), "{ended:?}");
    let at = offset(&api, "u").await;
    let third = api.begin(UploadHeader { offset: at, ..header("u", "a") }).await;
    third.send_all(data.pieces(at)).await;
    assert_eq!(third.commit(UploadCommit::default()).await.unwrap().sha256, data.sha256().to_vec());
    api.assert_is("a", 1, data).await;
    broker.stop().await;
}

async fn begun(api: &Api, id: &str) {
    let is_begun = async {
        while api.get(id).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), is_begun).await.expect("it begins");
}

#[tokio::test]
async fn an_upload_outlives_its_broker() {
    let dir = tempfile::tempdir().unwrap();
    let data = Pattern::new(1, 40 * MIB);
    let broker = TestBroker::start_in(dir.path(), &[], Arc::new(SystemClock::new())).await;
    let api = Api::connect(broker.ingress).await;
    let upload = api.begin(header("u", "a")).await;
    send(&upload, data, 0, 10 * MIB).await;
    begun(&api, "u").await;
    let stopping = tokio::spawn(broker.stop());
    let drained = upload.answer().await.unwrap_err();
    assert_eq!(drained.code(), Code::Unavailable, "{drained:?}");
    stopping.await.unwrap();
    let broker = TestBroker::start_in(dir.path(), &[], Arc::new(SystemClock::new())).await;
    let api = Api::connect(broker.ingress).await;
    let at = offset(&api, "u").await;
    assert!(at > 0 && at <= 10 * MIB, "{at}");
    let upload = api.begin(UploadHeader { offset: at, ..header("u", "a") }).await;
    upload.send_all(data.pieces(at)).await;
    assert_eq!(upload.commit(UploadCommit::default()).await.unwrap().sequence, 1);
    api.assert_is("a", 1, data).await;
    broker.stop().await;
}

#[tokio::test]
async fn offset_0_begins_anew() {
    let broker = TestBroker::start(&[]).await;
    let api = Api::connect(broker.ingress).await;
    let upload = api.begin(header("u", "a")).await;
    send(&upload, Pattern::new(1, 5 * MIB), 0, 3 * MIB).await;
    upload.end().await.unwrap_err();
    assert_eq!(offset(&api, "u").await, 3 * MIB);
    // Even as another message.
    let data = Pattern::new(2, 2 * MIB);
    assert_eq!(api.upload(header("u", "b"), data).await.unwrap().sequence, 1);
    api.assert_is("b", 1, data).await;
    broker.stop().await;
}

#[tokio::test]
async fn an_abandoned_upload_goes_with_its_bytes() {
    let broker = TestBroker::start(&[("UPLOADS_RETENTION", "300ms")]).await;
    let api = Api::connect(broker.ingress).await;
    let upload = api.begin(header("u", "a")).await;
    send(&upload, Pattern::new(1, 3 * MIB), 0, 3 * MIB).await;
    upload.end().await.unwrap_err();
    assert_eq!(offset(&api, "u").await, 3 * MIB);
    let is_gone = async {
        while api.get("u").await.is_ok() || !broker.broker.stores.payload.keys().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), is_gone).await.expect("it goes");
    broker.stop().await;
}

#[tokio::test]
async fn aborting_ends_whoever_uploads() {
    let broker = TestBroker::start(&[]).await;
    let api = Api::connect(broker.ingress).await;
    let upload = api.begin(UploadHeader { size: Some(9 * MIB), ..header("u", "a") }).await;
    send(&upload, Pattern::new(1, 9 * MIB), 0, 3 * MIB).await;
    begun(&api, "u").await;
    api.abort("u").await.unwrap();
    let ended = upload.answer().await.unwrap_err();
    assert!(ended.message().contains("by somebody else"), "{ended:?}");
    assert_eq!(api.get("u").await.unwrap_err().code(), Code::NotFound);
    broker.stop().await;
}

#[tokio::test]
async fn a_slow_upload_outlives_the_retention() {
    let broker = TestBroker::start(&[("UPLOADS_RETENTION", "1s")]).await;
    let api = Api::connect(broker.ingress).await;
    let data = Pattern::new(1, 12 * MIB + 7);
    let upload = api.begin(header("u", "a")).await;
    for at in 0..12 {
        send(&upload, data, at * MIB, (at + 1) * MIB).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    send(&upload, data, 12 * MIB, data.size).await;
    let stored = upload.commit(UploadCommit { size: None, sha256: data.sha256().to_vec().into() }).await.unwrap();
    assert_eq!(stored.size, data.size);
    broker.stop().await;
}

#[tokio::test]
async fn who_begins_anew_writes_elsewhere() {
    let broker = TestBroker::start(&[]).await;
    let api = Api::connect(broker.ingress).await;
    let data = Pattern::new(1, 5 * MIB);
    let first = api.begin(header("u", "a")).await;
    send(&first, data, 0, 2 * MIB).await;
    begun(&api, "u").await;
    let begun_objects = || async { broker.broker.stores.payload.keys().await.unwrap().len() };
    let before = begun_objects().await;
    let second = api.begin(header("u", "a")).await;
    second.send_all(data.pieces(0)).await;
    assert_eq!(first.end().await.unwrap_err().code(), Code::FailedPrecondition);
    let stored = second.commit(UploadCommit { size: None, sha256: data.sha256().to_vec().into() }).await.unwrap();
    assert_eq!((stored.sequence, before), (1, 1));
    api.assert_is("a", 1, data).await;
    broker.stop().await;
}
