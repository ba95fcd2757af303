//! P1: an ack that was confirmed is done, even if the broker is killed the next moment.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use minitoolstream_client::{Consumer, ConsumerSettings, NewMessage};
use minitoolstream_testkit::Process;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::worker::BINARY;

const MESSAGES: u64 = 30_000;
const WORKERS: usize = 3;
const KILLS: u64 = 6;

/// Attempts of each message, and those whose ack was confirmed.
#[derive(Default)]
struct Ledger {
    seen: BTreeMap<u64, Vec<u32>>,
    confirmed: BTreeMap<u64, u32>,
}

/// Acks one message after the other, without waiting for what becomes of each, until it is ended.
async fn work(consumer: Consumer, ledger: Arc<Mutex<Ledger>>) {
    let mut deliveries = consumer.messages().await.unwrap();
    let mut acks = JoinSet::new();
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery.unwrap();
        let (sequence, attempt) = (delivery.message.sequence, delivery.attempt);
        ledger.lock().unwrap().seen.entry(sequence).or_default().push(attempt);
        let (settled, ledger) = (delivery.ack(), ledger.clone());
        acks.spawn(async move {
            if settled.await.is_ok() {
                let before = ledger.lock().unwrap().confirmed.insert(sequence, attempt);
                assert_eq!(before, None, "{sequence} was confirmed twice");
            }
        });
        while let Some(ended) = acks.try_join_next() {
            ended.unwrap();
        }
    }
}

async fn wait_for_acks(consumer: &Consumer, acked: u64) {
    let reached = async {
        while consumer.info().await.unwrap().acked < acked {
            sleep(Duration::from_millis(5)).await;
        }
    };
    if timeout(Duration::from_secs(60), reached).await.is_err() {
        panic!("{:?}", consumer.info().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn load_p1_acks_are_kept_while_the_broker_is_killed_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Process::start(BINARY, dir.path(), &[]);
    let client = broker.client();
    let publisher = client.publisher();
    let acks: Vec<_> =
        (0..MESSAGES).map(|number| publisher.publish(NewMessage::new("jobs", number.to_string()))).collect();
    assert!(futures_util::future::join_all(acks).await.iter().all(Result::is_ok));
    // So few at a time that it takes as long as there are kills.
    let consumer = client.consumer("w").window(200, 1 << 20);
    consumer.create(ConsumerSettings::of("jobs").max_deliver(0)).await.unwrap();
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        workers.spawn(work(consumer.clone(), ledger.clone()));
    }
    let started = Instant::now();
    for kill in 1..=KILLS {
        wait_for_acks(&consumer, MESSAGES * kill / (KILLS + 1)).await;
        broker = tokio::task::spawn_blocking(|| {
            broker.crash_and_restart();
            broker
        })
        .await
        .unwrap();
    }
    wait_for_acks(&consumer, MESSAGES).await;
    let took = started.elapsed();
    while let Some(ended) = workers.try_join_next() {
        ended.unwrap();
    }
    let info = consumer.info().await.unwrap();
    assert_eq!((info.acked, info.passed, info.dead_lettered), (MESSAGES, MESSAGES, 0), "{info:?}");
    assert_eq!((info.pending, info.unacked, info.redeliverable), (0, 0, 0), "{info:?}");
    let ledger = ledger.lock().unwrap();
    assert_eq!(ledger.seen.len() as u64, MESSAGES, "every message is handled");
    for (sequence, attempts) in &ledger.seen {
        assert!(
            attempts.iter().collect::<HashSet<_>>().len() == attempts.len(),
            "{sequence} was leased twice: {attempts:?}"
        );
        let confirmed = ledger.confirmed.get(sequence);
        let last = attempts.iter().max();
        assert!(confirmed.is_none() || confirmed == last, "{sequence} came again after its ack: {attempts:?}");
    }
    let again = ledger.seen.values().filter(|attempts| attempts.len() > 1).count();
    let held_max = WORKERS * 200 * usize::try_from(KILLS).unwrap();
    assert!(again <= held_max, "{again} messages came again in {KILLS} kills");
    eprintln!("{MESSAGES} messages in {took:.1?} with {KILLS} kills of the broker: {again} handled more than once");
}
