//! P5: from its deadline on a message is never delivered, and its bytes are reclaimed afterwards.

use std::time::{Duration, Instant};

use minitoolstream_client::proto::{FetchRequest, PublishRequest, ReadMessageRequest};
use minitoolstream_testkit::TestBroker;
use tonic::Code;

use crate::{
    api::{Api, message, sequences},
    clock::Manual,
    verify,
};

const NOON: u64 = 1_800_000_000_000;

/// A reaper that never comes while a test runs.
const LATE: (&str, &str) = ("REAPER_INTERVAL", "24h");

/// TTLs: one hour for `logs.debug.>`, two for `logs.>`, a day for the rest, at most two days.
const RULES: [(&str, &str); 2] = [
    ("TTL_CHANNELS", "[{channel: 'logs.debug.>', duration: 1h}, {channel: 'logs.>', duration: 2h}]"),
    ("TTL_MAX", "2d"),
];

const MINUTE: Duration = Duration::from_secs(60);

fn hours(hours: u32) -> Duration {
    60 * MINUTE * hours
}

fn with_ttl(request: PublishRequest, ttl: Duration) -> PublishRequest {
    PublishRequest { ttl: Some(ttl.try_into().unwrap()), ..request }
}

async fn start(clock: &Manual, settings: &[(&str, &str)]) -> (TestBroker, Api) {
    let broker = TestBroker::start_with_clock(settings, clock.clock()).await;
    let api = Api::connect(broker.ingress).await;
    (broker, api)
}

async fn live(api: &Api, subject: &str) -> Vec<u64> {
    let (messages, end) = api.fetch(subject, 1).await;
    end.unwrap();
    sequences(&messages)
}

async fn until_async<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let since = Instant::now();
    while !holds().await {
        assert!(since.elapsed() < Duration::from_secs(10), "not in 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn p5_ttl_of_the_message_of_the_pattern_and_of_the_broker() {
    let clock = Manual::at(NOON);
    let (broker, api) = start(&clock, &[RULES[0], RULES[1], LATE]).await;
    for subject in ["logs.debug.a", "logs.a", "orders"] {
        api.publish(message(subject, 1, 1)).await.unwrap();
        api.publish(with_ttl(message(subject, 1, 1), hours(48))).await.unwrap();
        api.publish(with_ttl(message(subject, 1, 1), Duration::from_millis(1))).await.unwrap();
    }
    // Just before and at each deadline: the first message of each subject lives by its rule.
    let expected = |now: Duration| {
        let first = |ttl: Duration| if now < ttl { vec![1, 2] } else { vec![2] };
        [("logs.debug.a", first(hours(1))), ("logs.a", first(hours(2))), ("orders", first(hours(24)))]
    };
    let mut now = Duration::ZERO;
    for deadline in [Duration::from_millis(1), hours(1), hours(2), hours(24)] {
        for moment in [deadline.checked_sub(Duration::from_millis(1)).unwrap(), deadline] {
            clock.advance(moment - now);
            now = moment;
            for (subject, mut sequences) in expected(now) {
                if now < Duration::from_millis(1) {
                    sequences.push(3);
                }
                assert_eq!(live(&api, subject).await, sequences, "{subject} after {now:?}");
            }
        }
    }
    clock.advance(hours(48) - now);
    assert_eq!(live(&api, "orders").await, [0; 0]);
    broker.stop().await;
}

#[tokio::test]
async fn p5_nothing_expired_is_delivered_in_any_way_before_the_reaper_comes() {
    let clock = Manual::at(NOON);
    let (broker, api) = start(&clock, &[LATE]).await;
    // In one block: messages that expire and messages that live; and a block and an object that expire as a whole.
    let mixed = (0..10).map(|index| with_ttl(message("a", 1, 2000), if index % 2 == 0 { MINUTE } else { 2 * MINUTE }));
    api.publish_batch(mixed.collect()).await.unwrap();
    api.publish_batch((0..3).map(|_| with_ttl(message("a", 1, 50_000), MINUTE)).collect()).await.unwrap();
    api.publish(with_ttl(message("a", 1, 2 << 20), MINUTE)).await.unwrap();
    assert_eq!(live(&api, "a").await, (1..=14).collect::<Vec<_>>());
    clock.advance(MINUTE);
    assert_eq!(live(&api, "a").await, [2, 4, 6, 8, 10]);
    let durable = FetchRequest { subject: "a".into(), durable_name: "d".into(), ..Default::default() };
    assert_eq!(sequences(&api.read(durable).await.0), [2, 4, 6, 8, 10]);
    let follow = FetchRequest {
        subject: "a".into(),
        start_sequence: Some(1),
        batch_size: 6,
        follow: true,
        ..Default::default()
    };
    let mut follower = api.open_fetch(follow).await.unwrap();
    api.publish(message("a", 1, 1)).await.unwrap();
    for sequence in [2, 4, 6, 8, 10, 15] {
        assert_eq!(follower.message().await.unwrap().unwrap().sequence, sequence);
    }
    assert!(follower.message().await.unwrap().is_none());
    for (sequence, lives) in [(1, false), (2, true), (13, false), (14, false), (15, true)] {
        let read = ReadMessageRequest { subject: "a".into(), sequence, ..Default::default() };
        let answer = api.egress.clone().read_message(read).await;
        assert_eq!(answer.is_ok(), lives, "message {sequence}");
        if let Err(status) = answer {
            assert_eq!(status.code(), Code::NotFound);
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn p5_the_bytes_of_what_expired_are_reclaimed_and_the_books_balance() {
    let clock = Manual::at(NOON);
    let (broker, api) = start(&clock, &[]).await;
    let client = broker.client().await;
    let payloads = || broker.broker.stores.payload.keys();
    api.publish_batch((0..3).map(|_| with_ttl(message("a", 1, 50_000), MINUTE)).collect()).await.unwrap();
    api.publish(with_ttl(message("a", 1, 3 << 20), MINUTE)).await.unwrap();
    api.publish(with_ttl(message("b", 1, 10), MINUTE)).await.unwrap();
    api.publish(message("b", 1, 10)).await.unwrap();
    assert_eq!(payloads().await.unwrap().len(), 2, "a segment and an object");
    clock.advance(MINUTE);
    let rows = async || {
        let rows = client.subjects("").next_page().await.unwrap().unwrap();
        rows.into_iter().map(|row| (row.subject, row.live, row.expired)).collect::<Vec<_>>()
    };
    until_async("the rows are gone", || async { rows().await == [("a".into(), 0, 4), ("b".into(), 1, 1)] }).await;
    // What is older than the grace period goes. The segment is still being written to: it goes when it is full, or when
    // the next broker starts.
    clock.advance(Duration::from_millis(1));
    until_async("the object is gone", || async { payloads().await.unwrap().len() == 1 }).await;
    assert_eq!(verify::live(&client).await, []);
    broker.stop().await;
}

#[tokio::test]
async fn p5_a_segment_goes_with_the_last_block_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Manual::at(NOON);
    let broker = TestBroker::start_in(dir.path(), &[], clock.clock()).await;
    let api = Api::connect(broker.ingress).await;
    api.publish(with_ttl(message("a", 1, 100_000), MINUTE)).await.unwrap();
    api.publish(with_ttl(message("b", 1, 100_000), 2 * MINUTE)).await.unwrap();
    broker.stop().await;
    // A new broker writes to segments of its own.
    let broker = TestBroker::start_in(dir.path(), &[], clock.clock()).await;
    let api = Api::connect(broker.ingress).await;
    let segments = || std::fs::read_dir(dir.path().join("data/segments")).unwrap().count();
    clock.advance(MINUTE);
    until_async("the first block is gone", || async {
        let row = broker.client().await.subjects("a").next_page().await.unwrap().unwrap().remove(0);
        row.expired == 1
    })
    .await;
    assert_eq!((segments(), live(&api, "b").await), (1, vec![1]));
    clock.advance(MINUTE);
    until_async("its row is gone", || async {
        broker.broker.stores.metadata.payloads(0, 10).await.unwrap().is_empty()
    })
    .await;
    clock.advance(Duration::from_millis(1));
    until_async("the segment is gone", || async { segments() == 0 }).await;
    let data_dir = broker.data_dir().to_owned();
    broker.stop().await;
    assert_eq!(verify::at_rest(&data_dir).await, []);
}

#[tokio::test]
async fn p5_a_clock_set_backwards_neither_stops_nor_repeats_time() {
    let clock = Manual::at(NOON);
    let (broker, api) = start(&clock, &[LATE]).await;
    api.publish(with_ttl(message("a", 1, 1), 10 * MINUTE)).await.unwrap();
    clock.advance(5 * MINUTE);
    clock.set_wall(NOON - 24 * 3_600_000);
    api.publish(with_ttl(message("a", 1, 1), 10 * MINUTE)).await.unwrap();
    assert_eq!(live(&api, "a").await, [1, 2]);
    clock.advance(5 * MINUTE);
    assert_eq!(live(&api, "a").await, [2], "ten minutes have passed, whatever the wall shows");
    clock.advance(5 * MINUTE);
    assert_eq!(live(&api, "a").await, [0; 0]);
    let (messages, _) = {
        api.publish(message("a", 1, 1)).await.unwrap();
        api.fetch("a", 1).await
    };
    let accepted = messages[0].timestamp.unwrap().seconds;
    assert_eq!(accepted, i64::try_from(NOON / 1000).unwrap() + 15 * 60);
    broker.stop().await;
}

#[tokio::test]
async fn p5_a_clock_set_backwards_between_two_lives_keeps_what_it_kept() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Manual::at(NOON);
    let broker = TestBroker::start_in(dir.path(), &[LATE], clock.clock()).await;
    let api = Api::connect(broker.ingress).await;
    api.publish(with_ttl(message("a", 1, 1), MINUTE)).await.unwrap();
    broker.stop().await;
    let earlier = Manual::at(NOON - 3_600_000);
    let broker = TestBroker::start_in(dir.path(), &[LATE], earlier.clock()).await;
    let api = Api::connect(broker.ingress).await;
    assert_eq!(api.publish(with_ttl(message("a", 1, 1), MINUTE)).await.unwrap(), 2);
    assert_eq!(live(&api, "a").await, [1, 2]);
    earlier.advance(MINUTE);
    assert_eq!(live(&api, "a").await, [1], "its deadline is an hour ahead now");
    earlier.advance(hours(1));
    assert_eq!(live(&api, "a").await, [0; 0]);
    broker.stop().await;
}
