//! Answers to leases that are out, over, unknown, or somebody else's.

use std::time::Duration;

use minitoolstream_client::proto::{
    ConsumeRequest, ConsumerSettings, Credit, LeaseRefused, Nak, OpenConsumer, Terminate,
};
use minitoolstream_testkit::TestBroker;
use tonic::Code;

use crate::{
    sharing::{publish, start},
    worker::{Worker, create, info, open, seconds},
};

async fn is_refused(worker: &mut Worker, lease: u64, says: &str) {
    let LeaseRefused { code, message, .. } = worker.outcome(lease).await.unwrap_err();
    assert_eq!(Code::from(code), Code::FailedPrecondition, "{message}");
    assert!(message.contains(says), "{message}");
}

/// A consumer whose messages come back quickly.
async fn hasty(broker: &TestBroker, ack_wait: f64) -> OpenConsumer {
    let settings = ConsumerSettings { filter: "a".into(), ack_wait: seconds(ack_wait), ..Default::default() };
    create(broker.egress, "w", settings).await.unwrap();
    OpenConsumer { durable_name: "w".into(), ..Default::default() }
}

#[tokio::test]
async fn p4_a_late_ack_of_a_lost_lease_is_refused() {
    let broker = start().await;
    publish(&broker, "a", 1).await;
    let opening = hasty(&broker, 0.2).await;
    let mut frozen = Worker::open(broker.egress, opening.clone(), 10).await;
    let lost = frozen.next().await;
    // Or the message would come back to it.
    frozen.say(ConsumeRequest { credit: Some(Credit::default()), ..Default::default() }).await;
    let mut other = Worker::open(broker.egress, opening, 10).await;
    let mine = other.next().await;
    assert_eq!((mine.attempt, mine.message.as_ref().unwrap().sequence), (2, 1), "after the ack wait");
    frozen.say(ConsumeRequest { ack: vec![lost.lease_id], ..Default::default() }).await;
    is_refused(&mut frozen, lost.lease_id, "the lease is").await;
    other.ack(mine.lease_id).await;
    assert_eq!(info(broker.egress, "w").await.unwrap().acked, 1);
    broker.stop().await;
}

#[tokio::test]
async fn unknown_and_foreign_leases_are_refused() {
    let broker = start().await;
    publish(&broker, "a", 2).await;
    let mut mine = Worker::open(broker.egress, open("w", "a"), 1).await;
    let mut other = Worker::open(broker.egress, open("w", "a"), 1).await;
    let (of_mine, of_other) = (mine.next().await.lease_id, other.next().await.lease_id);
    let foreign = ConsumeRequest {
        ack: vec![of_other],
        extend: vec![of_mine + 1],
        nak: vec![Nak { lease_id: 7, delay: None }],
        terminate: vec![Terminate { lease_id: 8, reason: String::new() }],
        release: vec![9],
        ack_up_to: Some(10),
        ..Default::default()
    };
    mine.say(foreign).await;
    for lease in [of_other, of_mine + 1, 7, 8, 9, 10] {
        is_refused(&mut mine, lease, "not of this stream").await;
    }
    mine.ack(of_mine).await;
    other.ack(of_other).await;
    // Once is enough.
    mine.say(ConsumeRequest { ack: vec![of_mine], ..Default::default() }).await;
    is_refused(&mut mine, of_mine, "answered before").await;
    assert_eq!(info(broker.egress, "w").await.unwrap().acked, 2);
    broker.stop().await;
}

#[tokio::test]
async fn an_extended_lease_goes_on() {
    let broker = start().await;
    publish(&broker, "a", 1).await;
    let mut worker = Worker::open(broker.egress, hasty(&broker, 0.6).await, 10).await;
    let lease = worker.next().await.lease_id;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        worker.say(ConsumeRequest { extend: vec![lease], ..Default::default() }).await;
        assert_eq!(worker.outcome(lease).await, Ok(()));
    }
    worker.ack(lease).await;
    assert_eq!(info(broker.egress, "w").await.unwrap().deliveries, 1);
    broker.stop().await;
}

#[tokio::test]
async fn a_refused_message_waits_for_its_delay_or_the_back_off() {
    let broker = start().await;
    publish(&broker, "a", 2).await;
    let mut worker = Worker::open(broker.egress, open("w", "a"), 10).await;
    let (first, second) = (worker.next().await.lease_id, worker.next().await.lease_id);
    let started = std::time::Instant::now();
    let nak = vec![Nak { lease_id: first, delay: seconds(0.3) }, Nak { lease_id: second, delay: None }];
    worker.say(ConsumeRequest { nak, ..Default::default() }).await;
    assert_eq!(worker.take(2).await, [(1, 2), (2, 2)]);
    let waited = started.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_secs(4)).contains(&waited), "1 s, less up to half: {waited:?}");
    broker.stop().await;
}

#[tokio::test]
async fn a_storm_of_refusals_does_not_burn_all_attempts() {
    let broker = start().await;
    publish(&broker, "a", 1).await;
    let mut worker = Worker::open(broker.egress, open("w", "a"), 10).await;
    let until = std::time::Instant::now() + Duration::from_millis(1500);
    let mut attempts = 0;
    while std::time::Instant::now() < until {
        if worker.is_silent_for(Duration::from_millis(50)).await {
            continue;
        }
        let delivery = worker.next().await;
        attempts = delivery.attempt;
        worker
            .say(ConsumeRequest { nak: vec![Nak { lease_id: delivery.lease_id, delay: None }], ..Default::default() })
            .await;
    }
    assert!((1..=3).contains(&attempts), "{attempts} attempts in 1.5 s");
    broker.stop().await;
}

#[tokio::test]
async fn a_released_message_is_there_at_once_and_the_attempt_does_not_count() {
    let broker = start().await;
    publish(&broker, "a", 1).await;
    let mut worker = Worker::open(broker.egress, open("w", "a"), 10).await;
    for _ in 0..3 {
        let delivery = worker.next().await;
        assert_eq!(delivery.attempt, 1);
        worker.say(ConsumeRequest { release: vec![delivery.lease_id], ..Default::default() }).await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn answers_are_taken_from_a_client_that_does_not_read() {
    let broker = start().await;
    publish(&broker, "a", 3).await;
    let mut worker = Worker::open(broker.egress, open("w", "a"), 1).await;
    let lease = worker.next().await.lease_id;
    worker.say(ConsumeRequest { ack: vec![lease], ..Default::default() }).await;
    // Nothing is read meanwhile.
    for _ in 0..100 {
        if info(broker.egress, "w").await.unwrap().acked == 1 {
            return broker.stop().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the ack was not carried out");
}
