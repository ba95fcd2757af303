//! Several workers, one consumer.

use std::time::Duration;

use minitoolstream_client::{
    NewMessage,
    proto::{ConsumeRequest, ConsumerSettings, Credit, OpenConsumer},
};
use minitoolstream_testkit::{TestBroker, http};

use crate::worker::{Worker, create, info, open, seconds};

/// A broker that does not wait long for workers that a test leaves behind.
pub(crate) async fn start() -> TestBroker {
    TestBroker::start(&[("SHUTDOWN_DEADLINE", "300ms")]).await
}

pub(crate) async fn publish(broker: &TestBroker, subject: &str, count: u64) {
    let publisher = broker.client().await.publisher();
    let acks: Vec<_> = futures_util::future::join_all(
        (1..=count).map(|number| publisher.publish(NewMessage::new(subject, number.to_string()))),
    )
    .await;
    assert!(acks.iter().all(Result::is_ok));
}

#[tokio::test]
async fn p4_workers_share_messages_and_each_is_acked_once() {
    let broker = start().await;
    publish(&broker, "jobs", 100).await;
    let mut workers = [
        Worker::open(broker.egress, open("w", "jobs"), 10).await,
        Worker::open(broker.egress, open("w", "jobs"), 10).await,
    ];
    let mut seen = Vec::new();
    for turn in 0..100 {
        let worker = &mut workers[turn % 2];
        let delivery = worker.next().await;
        assert_eq!((delivery.attempt, delivery.message.as_ref().unwrap().headers.len()), (1, 0));
        worker.ack(delivery.lease_id).await;
        seen.push(delivery.message.unwrap().sequence);
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=100).collect::<Vec<_>>());
    let info = info(broker.egress, "w").await.unwrap();
    assert_eq!((info.passed, info.acked, info.pending, info.unacked, info.redeliverable), (100, 100, 0, 0, 0));
    assert_eq!((info.workers, info.deliveries, info.redeliveries), (2, 100, 0));
    broker.stop().await;
}

#[tokio::test]
async fn credit_bounds_what_is_out_in_messages_and_bytes() {
    let broker = start().await;
    let publisher = broker.client().await.publisher();
    for _ in 0..20 {
        publisher.publish(NewMessage::new("a", vec![7; 1000])).await.unwrap();
    }
    let mut worker = Worker::try_open(broker.egress, open("w", "a"), Credit::default()).await.unwrap();
    assert!(worker.is_silent_for(Duration::from_millis(300)).await, "no credit was granted");
    let credit = |messages, bytes| ConsumeRequest { credit: Some(Credit { messages, bytes }), ..Default::default() };
    worker.say(credit(3, 1 << 20)).await;
    let first = worker.next().await;
    assert_eq!(worker.take(2).await, [(2, 1), (3, 1)]);
    assert!(worker.is_silent_for(Duration::from_millis(200)).await, "three are out");
    assert_eq!(first.backlog, 19);
    // 5,500 bytes: five messages of 1,000.
    worker.say(credit(100, 5500)).await;
    assert_eq!(worker.take(2).await, [(4, 1), (5, 1)]);
    assert!(worker.is_silent_for(Duration::from_millis(200)).await, "5,000 bytes are out");
    worker.ack(first.lease_id).await;
    assert_eq!(worker.take(1).await, [(6, 1)]);
    // A message larger than all credit comes alone.
    worker.say(ConsumeRequest { ack_up_to: Some(first.lease_id + 5), ..credit(100, 10) }).await;
    let alone = worker.next().await;
    assert_eq!(alone.message.unwrap().sequence, 7);
    assert!(worker.is_silent_for(Duration::from_millis(200)).await, "one is out");
    worker.ack(alone.lease_id).await;
    assert_eq!(worker.take(1).await, [(8, 1)]);
    broker.stop().await;
}

#[tokio::test]
async fn a_full_consumer_goes_on_with_any_worker_when_there_is_room() {
    let broker = start().await;
    publish(&broker, "a", 10).await;
    let settings = ConsumerSettings { filter: "a".into(), max_ack_pending: Some(2), ..Default::default() };
    create(broker.egress, "w", settings).await.unwrap();
    let by_name = || OpenConsumer { durable_name: "w".into(), ..Default::default() };
    let mut first = Worker::open(broker.egress, by_name(), 100).await;
    let one = first.next().await;
    first.take(1).await;
    let mut second = Worker::open(broker.egress, by_name(), 100).await;
    assert!(second.is_silent_for(Duration::from_millis(200)).await, "two are out");
    // The first takes nothing more: the second gets what becomes free.
    first.say(ConsumeRequest { ack: vec![one.lease_id], credit: Some(Credit::default()), ..Default::default() }).await;
    assert_eq!(second.take(1).await, [(3, 1)]);
    broker.stop().await;
}

#[tokio::test]
async fn idle_streams_beat_and_new_messages_come_at_once() {
    let broker = start().await;
    let opening = OpenConsumer { heartbeat: seconds(0.1), ..open("w", "a.*") };
    let mut worker = Worker::open(broker.egress, opening, 10).await;
    while worker.heartbeats < 3 {
        worker.frame().await.unwrap();
    }
    publish(&broker, "a.b", 1).await;
    assert_eq!(worker.take(1).await, [(1, 1)]);
    broker.stop().await;
}

#[tokio::test]
async fn a_stream_that_stops_asking_is_carried_out_and_ends_well() {
    let broker = start().await;
    publish(&broker, "a", 2).await;
    let mut worker = Worker::open(broker.egress, open("w", "a"), 10).await;
    let first = worker.next().await;
    worker.say(ConsumeRequest { ack: vec![first.lease_id], ..Default::default() }).await;
    let status = worker.finish().await;
    assert_eq!(status.code(), tonic::Code::Ok, "{status:?}");
    assert_eq!(worker.settled, [first.lease_id]);
    let mut next = Worker::open(broker.egress, open("w", "a"), 10).await;
    assert_eq!(next.take(1).await, [(2, 2)], "what was not answered is there at once");
    broker.stop().await;
}

#[tokio::test]
async fn ephemeral_consumers_leave_nothing_behind() {
    let broker = start().await;
    publish(&broker, "a", 3).await;
    let mut worker = Worker::open(broker.egress, open("", "a"), 10).await;
    assert_eq!(worker.take(3).await, [(1, 1), (2, 1), (3, 1)]);
    drop(worker);
    let mut other = Worker::open(broker.egress, open("", "a"), 10).await;
    assert_eq!(other.take(1).await, [(1, 1)], "another begins anew");
    let listed = broker.client().await.consumers().next_page().await.unwrap().unwrap();
    assert!(listed.is_empty(), "{listed:?}");
    broker.stop().await;
}

#[tokio::test]
async fn a_message_that_does_not_fit_waits_for_room_and_costs_nothing_meanwhile() {
    let broker = start().await;
    let mut ingress = minitoolstream_client::proto::ingress_service_client::IngressServiceClient::new(
        crate::worker::channel(broker.ingress).await,
    );
    // One block, whose average of about 250 bytes says little of each.
    let message = |len| minitoolstream_client::proto::PublishRequest {
        subject: "a".into(),
        data: vec![7; len].into(),
        ..Default::default()
    };
    let messages = [10, 950, 10, 10].map(message).to_vec();
    ingress.publish_batch(minitoolstream_client::proto::PublishBatchRequest { messages }).await.unwrap();
    let credit = Credit { messages: 100, bytes: 600 };
    let mut worker = Worker::try_open(broker.egress, open("w", "a"), credit).await.unwrap();
    let first = worker.next().await;
    assert_eq!(first.message.unwrap().sequence, 1);
    let commits = async || http::metric(broker.http, "minitoolstream_commit_seconds_count").await;
    assert!(worker.is_silent_for(Duration::from_millis(200)).await, "590 bytes are left");
    let before = commits().await;
    assert!(worker.is_silent_for(Duration::from_millis(500)).await);
    assert!(commits().await - before < 20, "{} commits while nothing happens", commits().await - before);
    worker.ack(first.lease_id).await;
    assert_eq!(worker.take(1).await, [(2, 1)], "alone");
    broker.stop().await;
}

#[tokio::test]
async fn messages_larger_than_a_page_come_while_others_are_out() {
    const LARGE: usize = 3 << 20;
    let broker = start().await;
    let publisher = broker.client().await.publisher();
    for len in [10, LARGE, 10, LARGE, LARGE, 10, 10, LARGE, 10, 10, LARGE, 10] {
        publisher.publish(NewMessage::new("a", vec![7; len])).await.unwrap();
    }
    for messages in [12, 100] {
        let mut worker = Worker::open(broker.egress, open("", "a"), messages).await;
        assert_eq!(worker.take(12).await, (1..=12).map(|sequence| (sequence, 1)).collect::<Vec<_>>());
    }
    // Room for two large ones, and the small ones before the third.
    let credit = Credit { messages: 100, bytes: 7 << 20 };
    let mut worker = Worker::try_open(broker.egress, open("", "a"), credit).await.unwrap();
    worker.take(1).await;
    let large = worker.next().await;
    assert_eq!(worker.take(2).await, [(3, 1), (4, 1)]);
    assert!(worker.is_silent_for(Duration::from_millis(200)).await, "6 MiB are out");
    worker.ack(large.lease_id).await;
    assert_eq!(worker.take(3).await, [(5, 1), (6, 1), (7, 1)]);
    broker.stop().await;
}
