//! Workers that leave in good order, and brokers that do not.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use minitoolstream_client::{Client, Consumer, ConsumerSettings, Error, NewMessage};
use minitoolstream_testkit::{Process, http};
use tokio::time::{sleep, timeout};

use crate::{
    sdk::{PATIENCE, attempts, consumer, next, outcome, take},
    sharing::start,
};

const BINARY: &str = env!("CARGO_BIN_EXE_minitoolstream");

/// Far less than the ack wait of 30 s.
const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_worker_that_drains_gives_back_what_it_did_not_begin_with() {
    let broker = start().await;
    let consumer = consumer(&broker, 10, ConsumerSettings::of("a")).await;
    let mut leaving = consumer.messages().await.unwrap();
    let held = next(&mut leaving).await;
    let mut other = consumer.messages().await.unwrap();
    let draining = tokio::spawn(leaving.drain(PATIENCE));
    let since = Instant::now();
    let taken = take(&mut other, 9).await;
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    assert_eq!(attempts(&taken), (2..=10).map(|sequence| (sequence, 1)).collect::<Vec<_>>(), "no attempt was made");
    assert!(!draining.is_finished(), "one is at work");
    outcome(held.ack()).await.unwrap();
    draining.await.unwrap().unwrap();
    let info = consumer.info().await.unwrap();
    assert_eq!((info.acked, info.unacked, info.redeliverable), (1, 9, 0), "{info:?}");
    broker.stop().await;
}

#[tokio::test]
async fn what_is_on_its_way_to_a_worker_that_leaves_was_no_attempt() {
    let broker = start().await;
    let consumer = consumer(&broker, 1, ConsumerSettings::of("a")).await;
    for attempt in 1..=9 {
        let mut leaving = consumer.messages().await.unwrap();
        let failed = next(&mut leaving).await;
        assert_eq!(failed.attempt, attempt, "only failures count");
        // It comes again at once, and crosses the farewell.
        outcome(failed.nak_after(Duration::ZERO)).await.unwrap();
        leaving.drain(PATIENCE).await.unwrap();
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_worker_that_is_dropped_gives_back_what_it_did_not_begin_with() {
    let broker = start().await;
    let consumer = consumer(&broker, 10, ConsumerSettings::of("a")).await;
    let mut dropped = consumer.messages().await.unwrap();
    let held = next(&mut dropped).await;
    let mut other = consumer.messages().await.unwrap();
    drop(dropped);
    assert_eq!(attempts(&take(&mut other, 9).await), (2..=10).map(|sequence| (sequence, 1)).collect::<Vec<_>>());
    outcome(held.ack()).await.unwrap();
    assert_eq!(consumer.info().await.unwrap().acked, 1, "what is out may still be answered");
    broker.stop().await;
}

#[tokio::test]
async fn a_drain_that_takes_too_long_says_so_and_the_message_moves_on() {
    let broker = start().await;
    let consumer = consumer(&broker, 1, ConsumerSettings::of("a")).await;
    let mut leaving = consumer.messages().await.unwrap();
    let held = next(&mut leaving).await;
    let drained = leaving.drain(Duration::from_millis(50)).await;
    assert!(matches!(drained, Err(Error::LeaseLost(_))), "{drained:?}");
    let since = Instant::now();
    let again = next(&mut consumer.messages().await.unwrap()).await;
    assert_eq!(again.attempt, 2);
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    assert!(held.lost().is_some());
    assert!(matches!(outcome(held.ack()).await, Err(Error::LeaseLost(_))));
    broker.stop().await;
}

async fn publish(client: &Client, count: u64) -> Consumer {
    let publisher = client.publisher();
    for number in 1..=count {
        publisher.publish(NewMessage::new("a", number.to_string())).await.unwrap();
    }
    let consumer = client.consumer("w").window(10, 1 << 20).patience(Duration::from_mins(1));
    consumer.create(ConsumerSettings::of("a")).await.unwrap();
    consumer
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_come_back_to_a_broker_that_was_killed_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Process::start(BINARY, dir.path(), &[]);
    let consumer = publish(&broker.client(), 40).await;
    let mut deliveries = consumer.messages().await.unwrap();
    let mut taken = take(&mut deliveries, 5).await;
    let held = taken.split_off(3);
    for delivery in taken {
        outcome(delivery.ack()).await.unwrap();
    }
    let restarted = tokio::task::spawn_blocking(|| {
        broker.crash_and_restart();
        broker
    });
    let _broker = restarted.await.unwrap();
    for delivery in held {
        assert!(matches!(outcome(delivery.ack()).await, Err(Error::LeaseLost(_))), "it was for another stream");
    }
    let mut seen = Vec::new();
    for _ in 0..37 {
        let delivery = next(&mut deliveries).await;
        let (sequence, attempt) = (delivery.message.sequence, delivery.attempt);
        assert!(attempt == 2 || sequence > 5, "{sequence} was out: {attempt}");
        seen.push(sequence);
        outcome(delivery.ack()).await.unwrap();
    }
    seen.sort_unstable();
    assert_eq!(seen, (4..=40).collect::<Vec<_>>(), "what was acked does not come again");
    let info = consumer.info().await.unwrap();
    assert_eq!((info.acked, info.pending, info.unacked, info.redeliverable), (40, 0, 0, 0), "{info:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stops_lets_a_handler_come_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Process::start(BINARY, dir.path(), &[]);
    let status_page = broker.address("http");
    let consumer = publish(&broker.client(), 5).await;
    let mut deliveries = consumer.messages().await.unwrap();
    let held = next(&mut deliveries).await;
    let stopping = tokio::task::spawn_blocking(move || (broker.terminate(), broker));
    let drains = async {
        while http::get(&status_page, "/readyz").await.0 != 503 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, drains).await.expect("the broker drains");
    outcome(held.ack()).await.expect("the broker waits for the answer");
    let since = Instant::now();
    let (status, mut broker) = stopping.await.unwrap();
    assert!(status.success() && since.elapsed() < SOON, "nothing else held it: {:?}", since.elapsed());
    let restarted = tokio::task::spawn_blocking(move || {
        broker.restart();
        broker
    });
    let _broker = restarted.await.unwrap();
    let taken = take(&mut deliveries, 4).await;
    assert_eq!(attempts(&taken), [(2, 1), (3, 1), (4, 1), (5, 1)], "what was buffered was given back");
    assert_eq!(consumer.info().await.unwrap().acked, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_without_a_name_ends_with_its_broker() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Process::start(BINARY, dir.path(), &[]);
    let client = broker.client();
    client.publisher().publish(NewMessage::new("a", "1")).await.unwrap();
    let mut deliveries = client.consumer("").settings(ConsumerSettings::of("a")).messages().await.unwrap();
    let held = next(&mut deliveries).await;
    broker.kill();
    let end = timeout(PATIENCE, deliveries.next()).await.unwrap();
    assert!(matches!(&end, Some(Err(Error::Unavailable { message, .. })) if message.contains("begin anew")), "{end:?}");
    assert!(matches!(outcome(held.ack()).await, Err(Error::LeaseLost(_))));
    assert!(deliveries.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_the_broker_does_not_live_through_says_what_is_not_certain() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Process::start(BINARY, dir.path(), &[]);
    let consumer = publish(&broker.client(), 2).await.window(1, 1 << 20);
    let (mut busy, mut idle) = (consumer.messages().await.unwrap(), consumer.messages().await.unwrap());
    let held = next(&mut busy).await;
    outcome(next(&mut idle).await.ack()).await.unwrap();
    let draining = tokio::spawn(busy.drain(PATIENCE));
    broker.kill();
    let since = Instant::now();
    let drained = draining.await.unwrap();
    assert!(matches!(drained, Err(Error::LeaseLost(_))), "{drained:?}");
    assert!(matches!(outcome(held.ack()).await, Err(Error::LeaseLost(_))));
    idle.drain(PATIENCE).await.expect("all that it said was confirmed");
    assert!(since.elapsed() < SOON, "nobody waits for a broker that is gone: {:?}", since.elapsed());
}
