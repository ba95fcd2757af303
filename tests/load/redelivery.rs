//! P4: what a worker held is with another one moments after it is gone.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use minitoolstream_client::{Consumer, ConsumerSettings, NewMessage};
use minitoolstream_testkit::Process;
use tokio::time::{sleep, timeout};

use crate::worker::{BINARY, Worker};

const ROUNDS: usize = 15;

/// Messages out at the worker that is killed.
const HELD: u64 = 200;

/// More than a pipe holds: printing the first message never ends.
const LARGE: usize = 200 << 10;

async fn wait_for_leases(consumer: &Consumer) {
    let all_out = async {
        while consumer.info().await.unwrap().unacked < HELD {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), all_out).await.expect("the worker takes all messages");
}

/// One worker dies with messages out while another has nothing to do; gives how long until it has them all.
async fn round(broker: &Process, consumer: &Consumer) -> Duration {
    let publisher = broker.client().publisher();
    for number in 0..HELD {
        let size = if number == 0 { LARGE } else { 10 };
        publisher.publish(NewMessage::new("jobs", vec![b'x'; size])).await.unwrap();
    }
    let mut dying = Worker::start_stuck(broker, "w");
    wait_for_leases(consumer).await;
    let mut idle = consumer.messages().await.unwrap();
    let started = Instant::now();
    dying.kill();
    let mut taken = Vec::new();
    while (taken.len() as u64) < HELD {
        let delivery = timeout(Duration::from_secs(20), idle.next()).await.expect("redelivered").unwrap().unwrap();
        taken.push(delivery);
    }
    let waited = started.elapsed();
    assert!(taken.iter().all(|delivery| delivery.attempt == 2));
    taken.pop().unwrap().ack_up_to().await.unwrap();
    idle.drain(Duration::from_secs(20)).await.unwrap();
    waited
}

#[tokio::test(flavor = "multi_thread")]
async fn load_p4_leases_of_a_killed_worker_are_redelivered_within_100_ms() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Process::start(BINARY, dir.path(), &[]);
    let consumer = broker.client().consumer("w");
    consumer.create(ConsumerSettings::of("jobs")).await.unwrap();
    let mut waits = Vec::new();
    for _ in 0..ROUNDS {
        waits.push(round(&broker, &consumer).await);
    }
    waits.sort_unstable();
    let (median, max) = (waits[ROUNDS / 2], waits[ROUNDS - 1]);
    eprintln!("{HELD} leases of a killed worker are with another within {median:.1?} (median), {max:.1?} (longest)");
    assert!(median < Duration::from_millis(100), "{waits:?}");
    assert!(max < Duration::from_secs(1), "{waits:?}");
    let info = consumer.info().await.unwrap();
    let all = HELD * ROUNDS as u64;
    assert_eq!((info.acked, info.deliveries, info.redeliveries), (all, 2 * all, all), "{info:?}");
}
