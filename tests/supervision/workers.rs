//! Workers of consumers go on when actors under them fail: nothing is lost, and nothing is done twice but what was out.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use minitoolstream::actors::supervise::Fault;
use minitoolstream_client::{ConsumerSettings, Error, NewMessage};
use minitoolstream_testkit::TestBroker;
use tokio::task::JoinHandle;

use crate::victim::Victim;

const MESSAGES: u64 = 3_000;

async fn publish(broker: &TestBroker, count: u64) {
    let publisher = broker.client().await.publisher();
    let mut pending = Vec::new();
    for number in 0..count {
        pending.push(publisher.send(NewMessage::new("jobs", number.to_string())).await);
    }
    for ack in pending {
        ack.await.unwrap();
    }
}

/// Two workers that note each message they handle.
async fn work(broker: &TestBroker) -> (Arc<Mutex<BTreeMap<u64, u32>>>, [JoinHandle<Result<(), Error>>; 2]) {
    let handled: Arc<Mutex<BTreeMap<u64, u32>>> = Arc::default();
    let mut workers = Vec::new();
    for _ in 0..2 {
        let settings = ConsumerSettings::of("jobs").max_deliver(0);
        let consumer = broker.client().await.consumer("w").settings(settings).window(50, 1 << 20);
        let handled = handled.clone();
        workers.push(tokio::spawn(async move {
            let handler = move |job: Arc<minitoolstream_client::Delivery>| {
                *handled.lock().unwrap().entry(job.message.sequence).or_default() += 1;
                async { Ok::<_, Error>(()) }
            };
            consumer.for_each(50, handler).await
        }));
    }
    (handled, workers.try_into().unwrap_or_else(|_| panic!("two workers")))
}

async fn strikes_under_work(fault: Fault, strikes: usize) {
    let broker = TestBroker::start(&[("SHUTDOWN_DEADLINE", "1s")]).await;
    publish(&broker, MESSAGES).await;
    let (handled, workers) = work(&broker).await;
    let victim = Victim::new(&broker.actors.storage);
    for _ in 0..strikes {
        tokio::time::sleep(Duration::from_millis(50)).await;
        victim.strike_and_recover(fault, &broker).await;
    }
    let consumer = broker.client().await.consumer("w");
    let all_acked = async {
        while consumer.info().await.unwrap().acked < MESSAGES {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all_acked).await.expect("every message is acked");
    let books = consumer.info().await.unwrap();
    assert_eq!((books.passed, books.pending, books.unacked, books.redeliverable), (MESSAGES, 0, 0, 0), "{books:?}");
    let handled = handled.lock().unwrap().clone();
    assert!((1..=MESSAGES).all(|sequence| handled.contains_key(&sequence)));
    assert!(handled.values().map(|count| u64::from(count - 1)).sum::<u64>() <= books.redeliveries, "{books:?}");
    workers.iter().for_each(JoinHandle::abort);
    broker.stop().await;
}

#[tokio::test]
async fn p4_workers_go_on_when_the_storage_panics() {
    strikes_under_work(Fault::Panic, 4).await;
}

#[tokio::test]
async fn p4_workers_go_on_when_the_storage_hangs() {
    strikes_under_work(Fault::Hang(Duration::from_secs(3)), 1).await;
}

#[tokio::test]
async fn scheduled_messages_go_when_the_scheduler_was_rebuilt() {
    let broker = TestBroker::start(&[]).await;
    let client = broker.client().await;
    let at = std::time::SystemTime::now() + Duration::from_millis(1500);
    client.publisher().publish(NewMessage::new("later", "x").deliver_at(at)).await.unwrap();
    let victim = Victim::new(&broker.actors.scheduler);
    victim.strike_and_recover(Fault::Panic, &broker).await;
    let arrived = async {
        while client.last_sequence("later").await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(15), arrived).await.expect("it goes at its time");
    assert!(std::time::SystemTime::now() >= at);
    broker.stop().await;
}
