//! A server or a network that fails for a while, and for good.

use std::time::Duration;

use bytes::Bytes;
use minitoolstream::{
    Error,
    block::PayloadKey,
    store::{PayloadStore, Synced, s3::S3Payload},
};
use minitoolstream_testkit::Fault;

use crate::rig::{PART, Rig, assert_is, pattern, store, write};

const SEGMENT: PayloadKey = PayloadKey::Segment(1);
const GET: &str = "GET /letters/some/where/segments/";
const PUT: &str = "PUT /letters/some/where/segments/";

/// More than the timeout of these tests.
const LONG: Duration = Duration::from_secs(4);

async fn with_segment() -> (Rig, S3Payload, Bytes) {
    let rig = Rig::start();
    let payload = rig.connect().await;
    let data = pattern(100_000);
    assert_eq!(payload.append(1, vec![data.slice(..10), data.slice(10..)]).await.unwrap(), Some(0));
    (rig, payload, data)
}

#[tokio::test]
async fn p3_reads_get_over_what_passes() {
    let (rig, payload, data) = with_segment().await;
    let faults = [
        (Fault::Refuse(503, "SlowDown"), "503"),
        (Fault::Refuse(500, "InternalError"), "500"),
        (Fault::Refuse(404, ""), "404"),
        (Fault::Refuse(404, "NoSuchKey"), "404"),
        (Fault::Drop, "broken"),
        (Fault::LoseReply, "broken"),
        (Fault::CutBody, "broken"),
        (Fault::ShortBody, "short"),
        (Fault::SlowBody(LONG), "timeout"),
        (Fault::Silence(LONG), "timeout"),
    ];
    for (fault, code) in faults {
        let before = rig.count("get", code);
        rig.proxy.spoil(GET, 1, fault.clone());
        assert_eq!(payload.read(SEGMENT, 5, 50_000).await.unwrap(), data.slice(5..50_005), "{fault:?}");
        assert_eq!(rig.count("get", code), before + 1, "{fault:?}: {}", rig.metrics.render());
    }
    // What breaks again and again, each time in another way.
    for fault in [Fault::Drop, Fault::CutBody, Fault::Refuse(502, ""), Fault::ShortBody] {
        rig.proxy.spoil(GET, 1, fault);
    }
    assert_eq!(payload.read(SEGMENT, 99_999, 1).await.unwrap(), data.slice(99_999..));
    // Slow, but never silent for too long.
    rig.proxy.spoil(GET, 1, Fault::SlowBody(Duration::from_millis(800)));
    let before = rig.proxy.seen(GET);
    assert_eq!(payload.read(SEGMENT, 0, 100_000).await.unwrap(), data);
    assert_eq!(rig.proxy.seen(GET), before + 1);
}

#[tokio::test]
async fn p7_what_does_not_pass_is_an_error_and_never_other_bytes() {
    let (rig, payload, _) = with_segment().await;
    for (fault, says) in [
        (Fault::Refuse(503, "SlowDown"), "503 SlowDown, 5 attempts"),
        (Fault::ShortBody, "25000 bytes came instead of 50000, 5 attempts"),
        (Fault::CutBody, "5 attempts"),
        (Fault::Refuse(404, "NoSuchBucket"), "s3.bucket"),
    ] {
        rig.proxy.spoil(GET, usize::MAX, fault.clone());
        let Err(Error::Unavailable { what, .. }) = payload.read(SEGMENT, 0, 50_000).await else { panic!("{fault:?}") };
        assert!(what.contains(says) && what.contains("letters/some/where/segments/0000000000000001"), "{what}");
        rig.proxy.heal();
    }
    // A server that is not itself and denies an object once is not believed, however often it failed before.
    rig.proxy.spoil(GET, 2, Fault::Refuse(503, "SlowDown"));
    rig.proxy.spoil(GET, 2, Fault::Refuse(404, "NoSuchKey"));
    payload.read(SEGMENT, 0, 1).await.unwrap();
    // Only one that says so again and again is.
    rig.proxy.spoil(GET, usize::MAX, Fault::Refuse(404, "NoSuchKey"));
    let before = rig.proxy.seen(GET);
    let Err(Error::DataLoss(what)) = payload.read(SEGMENT, 0, 1).await else { panic!("not missing") };
    assert!(what.contains("segment-0000000000000001") && what.contains("missing"), "{what}");
    assert_eq!(rig.proxy.seen(GET), before + 3);
}

#[tokio::test]
async fn p1_what_a_put_acknowledges_is_there() {
    let rig = Rig::start();
    let payload = rig.connect().await;
    let faults = [
        Fault::Refuse(503, "SlowDown"),
        Fault::Refuse(429, ""),
        Fault::Drop,
        Fault::LoseReply,
        Fault::Silence(LONG),
        Fault::Refuse(400, "RequestTimeout"),
    ];
    let data = pattern(10_000);
    for (segment, fault) in (1..).zip(faults) {
        rig.proxy.spoil(PUT, 1, fault.clone());
        payload.append(segment, vec![data.clone()]).await.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(payload.read(PayloadKey::Segment(segment), 0, 10_000).await.unwrap(), data);
    }
    rig.proxy.spoil(PUT, usize::MAX, Fault::Refuse(507, "InsufficientStorage"));
    let before = rig.proxy.seen(PUT);
    assert!(matches!(payload.append(100, vec![data]).await, Err(Error::Exhausted { .. })));
    assert_eq!(rig.proxy.seen(PUT), before + 1, "no use in trying again");
    rig.proxy.heal();
    assert_eq!(payload.append(100, vec!["x".into()]).await.unwrap(), None, "a segment that failed is left alone");
}

#[tokio::test]
async fn uploads_get_over_what_passes_and_leave_nothing_else() {
    let rig = Rig::start();
    let payload = rig.connect().await;
    let data = pattern(3 * PART + 1);
    let object = "/letters/some/where/objects/";
    for (number, (line, fault)) in (1..).zip([
        (format!("POST {object}"), Fault::LoseReply),
        (format!("POST {object}"), Fault::Refuse(503, "SlowDown")),
        (format!("PUT {object}"), Fault::LoseReply),
        (format!("PUT {object}"), Fault::Drop),
        ("GET /letters/?uploads".into(), Fault::Refuse(500, "InternalError")),
    ]) {
        rig.proxy.spoil(&line, 1, fault);
        store(&payload, number, &data).await.unwrap();
        assert_is(&payload, number, &data).await;
    }
    // The answer to the completion is lost.
    let mut writer = payload.write_object(6, &Synced::default()).await.unwrap();
    write(&mut *writer, &data).await.unwrap();
    writer.sync().await.unwrap();
    rig.proxy.spoil("POST", 1, Fault::LoseReply);
    writer.finish().await.unwrap();
    assert_is(&payload, 6, &data).await;
    let names: Vec<_> = (1..=6).map(|number| format!("some/where/objects/{number:016}")).collect();
    assert_eq!(rig.files(), names);
}

#[tokio::test]
async fn an_upload_that_failed_goes_on_from_what_was_synced() {
    let rig = Rig::start();
    let payload = rig.connect().await;
    let data = pattern(3 * PART);
    let mut writer = payload.write_object(1, &Synced::default()).await.unwrap();
    write(&mut *writer, &data.slice(..PART)).await.unwrap();
    let synced = writer.sync().await.unwrap();
    rig.proxy.spoil("PUT", usize::MAX, Fault::Refuse(500, "InternalError"));
    write(&mut *writer, &data.slice(PART..2 * PART)).await.unwrap();
    assert!(matches!(writer.sync().await, Err(Error::Unavailable { .. })));
    assert!(writer.write(vec![data.slice(..1)]).await.is_err(), "it stays failed");
    assert!(writer.finish().await.is_err());
    rig.proxy.heal();
    let mut writer = payload.write_object(1, &synced).await.unwrap();
    write(&mut *writer, &data.slice(PART..)).await.unwrap();
    writer.finish().await.unwrap();
    assert_is(&payload, 1, &data).await;
}

#[tokio::test]
async fn an_outage_is_not_met_with_many_times_the_load() {
    let (rig, payload, _) = with_segment().await;
    rig.proxy.spoil(GET, usize::MAX, Fault::Refuse(500, "InternalError"));
    let before = rig.proxy.seen(GET);
    let read = || payload.read(SEGMENT, 0, 1);
    let outcomes = futures_util::future::join_all((0..300).map(|_| read())).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(Error::Unavailable { .. }))));
    let sent = rig.proxy.seen(GET) - before;
    assert!((300..=400).contains(&sent), "300 reads sent {sent} requests");
    rig.proxy.heal();
    read().await.unwrap();
}

#[tokio::test]
async fn a_server_that_was_killed_is_found_again() {
    let (mut rig, payload, data) = with_segment().await;
    rig.server.kill();
    assert!(matches!(payload.read(SEGMENT, 0, 1).await, Err(Error::Unavailable { .. })));
    rig.server.restart();
    assert_eq!(payload.read(SEGMENT, 0, 100_000).await.unwrap(), data);
}
