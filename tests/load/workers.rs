//! P4: workers may be killed at any time. Every message is done, and what is handled twice was out at one that was killed.

use std::{
    collections::{HashMap, HashSet},
    process::Command,
    time::{Duration, Instant},
};

use minitoolstream_client::{Client, Consumer, ConsumerSettings, NewMessage};
use minitoolstream_testkit::Process;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::worker::{BINARY, Handled, Worker};

const MESSAGES: u64 = 100_000;
const WORKERS: usize = 3;

/// Messages published before each kill, so that it comes in the middle of work however fast the machine is.
const BATCH: u64 = 10_000;

/// Most messages that a worker holds.
const WINDOW: u64 = 1_000;

/// Longest time for all of it.
const WITHIN: Duration = Duration::from_mins(1);

async fn publish(client: Client, count: u64) {
    let publisher = client.publisher();
    let mut acks = Vec::new();
    for number in 0..count {
        acks.push(publisher.send(NewMessage::new(format!("jobs.{}", number % 4), number.to_string())).await);
    }
    for ack in acks {
        ack.await.unwrap();
    }
}

async fn is_all_done(consumer: &Consumer) -> bool {
    consumer.info().await.unwrap().acked >= MESSAGES
}

/// Waits until a worker handles messages; false if all are done.
async fn is_at_work(worker: &Worker, consumer: &Consumer, until: Instant) -> bool {
    let before = worker.printed();
    while worker.printed() == before {
        if is_all_done(consumer).await {
            return false;
        }
        assert!(Instant::now() < until, "{:?}", consumer.info().await);
        sleep(Duration::from_millis(2)).await;
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn load_p4_killed_workers_lose_nothing_and_only_what_they_held_is_redelivered() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Process::start(BINARY, &dir.path().join("broker"), &[]);
    let consumer = broker.client().consumer("w");
    consumer.create(ConsumerSettings::of("jobs.*").max_deliver(0)).await.unwrap();
    let mut number = 0;
    let mut start = || {
        number += 1;
        Worker::start(&broker, "w", &dir.path().join(number.to_string()))
    };
    let mut workers: Vec<Worker> = (0..WORKERS).map(|_| start()).collect();
    let mut killed = Vec::new();
    let mut left = MESSAGES;
    let started = Instant::now();
    let mut turns = interval(Duration::from_secs(1));
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !is_all_done(&consumer).await {
        turns.tick().await;
        let batch = BATCH.min(left);
        left -= batch;
        let published = tokio::spawn(publish(broker.client(), batch));
        let victim = &mut workers[killed.len() % WORKERS];
        if is_at_work(victim, &consumer, started + WITHIN).await {
            victim.kill();
            killed.push(std::mem::replace(victim, start()));
        }
        published.await.unwrap();
    }
    let took = started.elapsed();
    assert!(workers.iter_mut().all(|worker| worker.terminate().success()), "they end well");

    let info = consumer.info().await.unwrap();
    assert_eq!((info.acked, info.passed, info.dead_lettered, info.dropped), (MESSAGES, MESSAGES, 0, 0), "{info:?}");
    assert_eq!((info.unacked, info.pending, info.redeliverable, info.expired), (0, 0, 0, 0), "{info:?}");
    assert_eq!(info.deliveries - info.redeliveries, MESSAGES, "{info:?}");
    let held_max = killed.len() as u64 * WINDOW;
    assert!(info.redeliveries <= held_max, "{} kills: {info:?}", killed.len());

    let twice = verify(&killed, &workers);
    assert!(killed.len() >= 8, "{} kills", killed.len());
    eprintln!(
        "{MESSAGES} messages in {took:.1?} with {} kills: {} redelivered, {twice} handled more than once",
        killed.len(),
        info.redeliveries
    );
    assert!(broker.terminate().success());
    let check = Command::new(BINARY).args(["check", "--data-dir"]).arg(broker.data_dir()).output().unwrap();
    assert!(check.status.success(), "{check:?}");
}

/// Compares what workers handled with what was published; gives how many messages were handled more than once.
fn verify(killed: &[Worker], lived: &[Worker]) -> usize {
    let of_killed: Vec<Vec<Handled>> = killed.iter().map(Worker::handled).collect();
    let of_lived: Vec<Handled> = lived.iter().flat_map(Worker::handled).collect();
    let mut attempts: HashMap<u64, Vec<u64>> = HashMap::new();
    let mut seen = HashSet::new();
    for handled in of_killed.iter().flatten().chain(&of_lived) {
        assert!(seen.insert(*handled), "{handled:?} was leased twice");
        attempts.entry(handled.place).or_default().push(handled.attempt);
    }
    assert_eq!(attempts.len() as u64, MESSAGES, "every message is handled");
    for Handled { place, attempt } in of_lived {
        let last = attempts[&place].iter().max();
        assert_eq!(last, Some(&attempt), "the worker that was not killed lost its lease of message {place}");
    }
    // An attempt after the first follows a kill, which takes no more than a window.
    let again: u64 = attempts.values().filter_map(|attempts| attempts.iter().max()).map(|attempt| attempt - 1).sum();
    assert!(again <= killed.len() as u64 * WINDOW, "{again} attempts were lost in {} kills", killed.len());
    attempts.values().filter(|attempts| attempts.len() > 1).count()
}
