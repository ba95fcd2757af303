//! P2 and P8 when messages go: numbers never restart, and the books balance.

use std::{path::Path, sync::Arc, time::Duration};

use minitoolstream::types::SystemClock;
use minitoolstream_client::{Error, proto::PublishRequest};
use minitoolstream_testkit::TestBroker;

use crate::{
    api::{Api, message, sequences},
    verify,
};

async fn start(dir: &Path) -> (TestBroker, Api) {
    let broker = TestBroker::start_in(dir, &[], Arc::new(SystemClock::new())).await;
    let api = Api::connect(broker.ingress).await;
    (broker, api)
}

/// Accepted, live, expired and purged messages of a subject; its first and last sequence.
async fn books(broker: &TestBroker, subject: &str) -> ([u64; 4], u64, u64) {
    let row = broker.client().await.subjects(subject).next_page().await.unwrap().unwrap().remove(0);
    assert_eq!(row.accepted, row.live + row.expired + row.purged, "P8");
    ([row.accepted, row.live, row.expired, row.purged], row.first_sequence, row.last_sequence)
}

/// Stops the broker, verifies what it leaves behind, and starts another on it.
async fn restart(dir: &Path, broker: TestBroker) -> (TestBroker, Api) {
    broker.stop().await;
    assert_eq!(verify::at_rest(&dir.join("data")).await, []);
    start(dir).await
}

#[tokio::test]
async fn p2_sequences_go_on_after_everything_was_purged_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (mut broker, mut api) = start(dir.path()).await;
    for (round, len) in (0..3).zip([10, 20_000, 2 << 20]) {
        for expected in 1..=4 {
            assert_eq!(api.publish(message("a", 1, len)).await.unwrap(), round * 4 + expected);
        }
        assert_eq!(broker.client().await.purge("a", None).await.unwrap(), 4);
        assert_eq!(api.fetch("a", 1).await.0, []);
        (broker, api) = restart(dir.path(), broker).await;
        assert_eq!(broker.client().await.last_sequence("a").await.unwrap(), round * 4 + 4);
        assert_eq!(books(&broker, "a").await, ([round * 4 + 4, 0, 0, round * 4 + 4], round * 4 + 5, round * 4 + 4));
    }
    assert_eq!(broker.client().await.purge("a", None).await.unwrap(), 0, "there is nothing left to purge");
    broker.stop().await;
}

#[tokio::test]
async fn p2_sequences_go_on_after_everything_expired_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, api) = start(dir.path()).await;
    let ttl = Some(Duration::from_millis(50).try_into().unwrap());
    for len in [10, 20_000, 2 << 20] {
        api.publish(PublishRequest { ttl, ..message("a", 1, len) }).await.unwrap();
    }
    for _ in 0..500 {
        if books(&broker, "a").await.0 == [3, 0, 3, 0] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(books(&broker, "a").await, ([3, 0, 3, 0], 4, 3));
    let (broker, api) = restart(dir.path(), broker).await;
    assert_eq!(api.publish(message("a", 1, 1)).await.unwrap(), 4);
    assert_eq!(sequences(&api.fetch("a", 1).await.0), [4]);
    broker.stop().await;
}

#[tokio::test]
async fn p8_a_purge_may_end_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, api) = start(dir.path()).await;
    // Blocks: 1-10 in a row, 11-20 in a segment, 21 an object, 22-30 in a row.
    for (count, len) in [(10, 10), (10, 2000), (1, 2 << 20), (9, 10)] {
        api.publish_batch((0..count).map(|_| message("a", 1, len)).collect()).await.unwrap();
    }
    let client = broker.client().await;
    let mut purged = 0;
    for (up_to, removed) in [(1, 1), (5, 4), (5, 0), (3, 0), (10, 5), (15, 5), (21, 6), (25, 4)] {
        assert_eq!(client.purge("a", Some(up_to)).await.unwrap(), removed, "up to {up_to}");
        purged += removed;
        assert_eq!(sequences(&api.fetch("a", 1).await.0), (purged + 1..=30).collect::<Vec<_>>(), "up to {up_to}");
        assert_eq!(books(&broker, "a").await, ([30, 30 - purged, 0, purged], purged + 1, 30));
        assert_eq!(verify::live(&client).await, []);
    }
    let (broker, api) = restart(dir.path(), broker).await;
    assert_eq!(sequences(&api.fetch("a", 1).await.0), [26, 27, 28, 29, 30]);
    let client = broker.client().await;
    assert_eq!(client.purge("a", Some(1000)).await.unwrap(), 5, "beyond the end: all there is");
    assert_eq!(api.publish(message("a", 1, 1)).await.unwrap(), 31);
    let never = client.purge("b", None).await.unwrap_err();
    assert!(matches!(never, Error::NotFound(_)), "{never:?}");
    let (broker, _) = restart(dir.path(), broker).await;
    broker.stop().await;
}

#[tokio::test]
async fn p8_what_expires_behind_a_purge_is_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, api) = start(dir.path()).await;
    let ttl = |millis| Some(Duration::from_millis(millis).try_into().unwrap());
    // Three blocks of five; the middle one expires first, the first one later, the last one never in this test.
    for millis in [1500, 100, 3_600_000] {
        let messages = (0..5).map(|_| PublishRequest { ttl: ttl(millis), ..message("a", 1, 10) });
        api.publish_batch(messages.collect()).await.unwrap();
    }
    let client = broker.client().await;
    assert_eq!(client.purge("a", Some(2)).await.unwrap(), 2);
    let is = async |expected: [u64; 4]| {
        for _ in 0..500 {
            if books(&broker, "a").await.0 == expected {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(books(&broker, "a").await.0, expected);
        assert_eq!(verify::live(&client).await, []);
    };
    is([15, 8, 5, 2]).await;
    is([15, 5, 8, 2]).await;
    assert_eq!(client.purge("a", Some(12)).await.unwrap(), 2);
    is([15, 3, 8, 4]).await;
    assert_eq!(sequences(&api.fetch("a", 1).await.0), [13, 14, 15]);
    let (broker, _) = restart(dir.path(), broker).await;
    broker.stop().await;
}

#[tokio::test]
async fn p2_positions_outlive_the_messages_and_the_broker() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, api) = start(dir.path()).await;
    let client = broker.client().await;
    for _ in 0..5 {
        api.publish(message("a", 1, 1)).await.unwrap();
    }
    assert_eq!(client.ack("d", "a", 4).await.unwrap(), 4);
    client.purge("a", None).await.unwrap();
    let (broker, api) = restart(dir.path(), broker).await;
    let client = broker.client().await;
    assert_eq!(client.ack("d", "a", 1).await.unwrap(), 4);
    assert_eq!(api.publish(message("a", 1, 1)).await.unwrap(), 6);
    let request = minitoolstream_client::proto::FetchRequest {
        subject: "a".into(),
        durable_name: "d".into(),
        ..Default::default()
    };
    assert_eq!(sequences(&api.read(request).await.0), [6], "nothing new is skipped");
    broker.stop().await;
}
