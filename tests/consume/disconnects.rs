//! Workers, consumers and brokers that go away.

use std::time::{Duration, Instant};

use minitoolstream_client::proto::{
    ConsumeRequest, ConsumerRequest, ConsumerSettings, OpenConsumer, ResetConsumerRequest,
    consumer_service_client::ConsumerServiceClient,
};
use minitoolstream_testkit::Process;
use tonic::Code;

use crate::{
    sharing::{publish, start},
    worker::{Worker, channel, create, info, open},
};

#[tokio::test]
async fn p4_leases_of_a_worker_that_is_gone_are_redelivered_at_once() {
    let broker = start().await;
    publish(&broker, "a", 50).await;
    let mut gone = Worker::open(broker.egress, open("w", "a"), 50).await;
    let first = gone.next().await.lease_id;
    gone.take(49).await;
    gone.ack(first).await;
    let mut other = Worker::open(broker.egress, open("w", "a"), 100).await;
    drop(gone);
    let started = Instant::now();
    let taken = other.take(49).await;
    let waited = started.elapsed();
    assert_eq!(taken, (2..=50).map(|sequence| (sequence, 2)).collect::<Vec<_>>(), "in order");
    assert!(waited < Duration::from_secs(2), "{waited:?}, where the ack wait is 30 s");
    broker.stop().await;
}

#[tokio::test]
async fn p1_acks_attempts_and_settings_survive_a_kill_with_leases_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Process::start(env!("CARGO_BIN_EXE_minitoolstream"), dir.path(), &[]);
    let publisher = broker.client().publisher();
    for number in 0..10 {
        publisher.publish(minitoolstream_client::NewMessage::new("a", number.to_string())).await.unwrap();
    }
    let address = broker.address("egress");
    let settings = ConsumerSettings { filter: "a".into(), max_deliver: Some(7), ..Default::default() };
    create(&address, "w", settings).await.unwrap();
    let by_name = OpenConsumer { durable_name: "w".into(), ..Default::default() };
    let mut worker = Worker::open(&address, by_name.clone(), 6).await;
    let first = worker.next().await.lease_id;
    worker.take(5).await;
    worker.say(ConsumeRequest { ack: vec![first, first + 2], ..Default::default() }).await;
    assert_eq!((worker.outcome(first).await, worker.outcome(first + 2).await), (Ok(()), Ok(())));
    broker.crash_and_restart();
    let address = broker.address("egress");
    let mut worker = Worker::open(&address, by_name, 20).await;
    let mut taken = worker.take(8).await;
    taken.sort_unstable();
    let attempts: Vec<u32> = taken.iter().map(|(_, attempt)| *attempt).collect();
    assert_eq!(taken.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [2, 4, 5, 6, 7, 8, 9, 10]);
    // Of 7 and 8 nobody heard before the kill, but they may have been leased: two acks made room for two.
    assert!(attempts[..4].iter().all(|attempt| *attempt == 2), "{taken:?}");
    assert_eq!(attempts[6..], [1, 1], "{taken:?}");
    let info = info(&address, "w").await.unwrap();
    assert_eq!((info.acked, info.unacked, info.settings.unwrap().max_deliver), (2, 8, Some(7)));
}

#[tokio::test]
async fn deleting_a_consumer_ends_its_streams_and_what_follows_begins_anew() {
    let broker = start().await;
    publish(&broker, "a", 3).await;
    let mut leased = Worker::open(broker.egress, open("w", "a"), 2).await;
    let mut idle = Worker::open(broker.egress, open("w", "a"), 0).await;
    leased.take(2).await;
    let mut service = ConsumerServiceClient::new(channel(broker.egress).await);
    service.delete_consumer(ConsumerRequest { name: "w".into() }).await.unwrap();
    let status = leased.end().await;
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    assert_eq!(idle.end().await.code(), Code::NotFound);
    assert_eq!(info(broker.egress, "w").await.unwrap_err().code(), Code::NotFound);
    let mut anew = Worker::open(broker.egress, open("w", "a"), 9).await;
    assert_eq!(anew.take(3).await, [(1, 1), (2, 1), (3, 1)]);
    broker.stop().await;
}

#[tokio::test]
async fn a_reset_takes_leases_away_and_a_pause_keeps_them() {
    let broker = start().await;
    publish(&broker, "a", 3).await;
    let mut worker = Worker::open(broker.egress, open("w", "a"), 1).await;
    let first = worker.next().await.lease_id;
    let mut service = ConsumerServiceClient::new(channel(broker.egress).await);
    let name = || ConsumerRequest { name: "w".into() };
    assert!(service.pause_consumer(name()).await.unwrap().into_inner().paused);
    worker.ack(first).await;
    assert!(worker.is_silent_for(Duration::from_millis(300)).await, "paused");
    service.resume_consumer(name()).await.unwrap();
    let second = worker.next().await.lease_id;
    let reset = ResetConsumerRequest { name: "w".into(), start: None };
    assert_eq!(service.reset_consumer(reset).await.unwrap().into_inner().acked, 0);
    worker.say(ConsumeRequest { ack: vec![second], ..Default::default() }).await;
    assert_eq!(Code::from(worker.outcome(second).await.unwrap_err().code), Code::FailedPrecondition);
    assert_eq!(worker.take(1).await, [(1, 1)], "from the beginning");
    broker.stop().await;
}

#[tokio::test]
async fn a_broker_that_stops_says_so_and_takes_answers_first() {
    let broker = minitoolstream_testkit::TestBroker::start(&[]).await;
    publish(&broker, "a", 3).await;
    let mut worker = Worker::open(broker.egress, open("w", "a"), 2).await;
    let first = worker.next().await.lease_id;
    worker.take(1).await;
    let stop = broker.stop();
    let work = async {
        while !worker.draining {
            worker.frame().await.unwrap();
        }
        worker.ack(first).await;
        assert!(worker.is_silent_for(Duration::from_millis(200)).await, "nothing more is delivered");
        worker.ack(first + 1).await;
        let status = worker.end().await;
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    };
    tokio::join!(stop, work);
}
