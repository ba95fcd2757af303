//! Messages that are given up.

use std::collections::HashMap;

use minitoolstream_client::{
    NewMessage,
    proto::{
        ConsumeRequest, ConsumerSettings, Nak, OpenConsumer, RedriveRequest, Terminate,
        consumer_service_client::ConsumerServiceClient,
    },
};
use tokio_stream::StreamExt;
use tonic::Code;

use crate::{
    sharing::{publish, start},
    worker::{Worker, channel, create, info, seconds},
};

fn by_name(name: &str) -> OpenConsumer {
    OpenConsumer { durable_name: name.into(), ..Default::default() }
}

async fn letters(
    broker: &minitoolstream_testkit::TestBroker,
    subject: &str,
) -> Vec<(bytes::Bytes, HashMap<String, String>)> {
    let client = broker.client().await;
    let fetch = minitoolstream_client::Fetch::from_sequence(subject, 1).limit(1000);
    let messages: Vec<_> = client.fetch(fetch).await.unwrap().collect().await;
    messages.into_iter().map(Result::unwrap).map(|letter| (letter.data.unwrap(), letter.headers)).collect()
}

#[tokio::test]
async fn after_the_last_attempt_a_message_becomes_a_dead_letter() {
    let broker = start().await;
    let publisher = broker.client().await.publisher();
    publisher.publish(NewMessage::new("jobs.eu", "poison").header("kind", "bad")).await.unwrap();
    publisher.publish(NewMessage::new("jobs.eu", "fine")).await.unwrap();
    let settings = ConsumerSettings { filter: "jobs.>".into(), max_deliver: Some(2), ..Default::default() };
    create(broker.egress, "w", settings).await.unwrap();
    let mut worker = Worker::open(broker.egress, by_name("w"), 1).await;
    for attempt in 1..=2 {
        let delivery = worker.next().await;
        assert_eq!((delivery.attempt, delivery.message.unwrap().sequence), (attempt, 1));
        let nak = vec![Nak { lease_id: delivery.lease_id, delay: seconds(0.0) }];
        worker.say(ConsumeRequest { nak, ..Default::default() }).await;
    }
    let fine = worker.next().await;
    assert_eq!(fine.message.unwrap().sequence, 2, "the next is not held up");
    let letters = letters(&broker, "$dlq.w").await;
    let (data, headers) = &letters[0];
    assert_eq!((letters.len(), data.as_ref()), (1, b"poison".as_slice()));
    for (name, value) in [
        ("Mts-Original-Subject", "jobs.eu"),
        ("Mts-Original-Sequence", "1"),
        ("Mts-Reason", "max-deliver"),
        ("Mts-Attempts", "2"),
        ("Mts-Consumer", "w"),
        ("kind", "bad"),
    ] {
        assert_eq!(headers[name], value, "{headers:?}");
    }
    assert_eq!(info(broker.egress, "w").await.unwrap().dead_lettered, 1);
    broker.stop().await;
}

#[tokio::test]
async fn redriven_letters_are_published_where_they_came_from_as_they_were() {
    let broker = start().await;
    let client = broker.client().await;
    let publisher = client.publisher();
    // One of each placement: in the row, in a segment, an object.
    let datas = [vec![1; 10], vec![2; 200 << 10], vec![3; 3 << 20]];
    for data in &datas {
        publisher.publish(NewMessage::new("a", data.clone()).header("kind", "bad")).await.unwrap();
    }
    create(broker.egress, "w", ConsumerSettings { filter: "a".into(), ..Default::default() }).await.unwrap();
    let mut worker = Worker::open(broker.egress, by_name("w"), 3).await;
    for _ in 0..3 {
        let lease_id = worker.next().await.lease_id;
        let terminate = vec![Terminate { lease_id, reason: "no good".into() }];
        worker.say(ConsumeRequest { terminate, ..Default::default() }).await;
        assert_eq!(worker.outcome(lease_id).await, Ok(()));
    }
    client.purge("a", None).await.unwrap();
    let kept = letters(&broker, "$dlq.w").await;
    assert_eq!(kept.iter().map(|(data, _)| data.to_vec()).collect::<Vec<_>>(), datas, "by reference");
    assert!(kept.iter().all(|(_, headers)| headers["Mts-Detail"] == "no good"), "{:?}", kept[0].1);
    let mut service = ConsumerServiceClient::new(channel(broker.egress).await);
    let redrive = |sequences: Vec<u64>| RedriveRequest { subject: "$dlq.w".into(), sequences, ..Default::default() };
    let one = service.redrive(redrive(vec![2, 9])).await.unwrap().into_inner();
    assert_eq!((one.redriven, one.not_found), (1, vec![9]));
    let rest = service.redrive(redrive(vec![])).await.unwrap().into_inner();
    assert_eq!((rest.redriven, letters(&broker, "$dlq.w").await.len()), (2, 0));
    let back = letters(&broker, "a").await;
    assert_eq!(back.iter().map(|(data, _)| data.len()).collect::<Vec<_>>(), [200 << 10, 10, 3 << 20]);
    assert!(back.iter().all(|(_, headers)| headers.len() == 1 && headers["kind"] == "bad"), "{:?}", back[0].1);
    let delivery = worker.next().await;
    assert_eq!((delivery.attempt, delivery.message.unwrap().sequence), (1, 4));
    broker.stop().await;
}

#[tokio::test]
async fn a_dead_letter_subject_that_the_filter_matches_is_refused() {
    let broker = start().await;
    for (filter, to) in [("a", "a"), ("a.>", "a.dead"), ("$dlq.>", "$dlq.x")] {
        let settings =
            ConsumerSettings { filter: filter.into(), dead_letter_subject: Some(to.into()), ..Default::default() };
        let status = create(broker.egress, "w", settings).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains("dead letters would come back"), "{status:?}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn what_expires_or_is_purged_while_leased_is_not_delivered_again() {
    let broker = start().await;
    let client = broker.client().await;
    let publisher = client.publisher();
    let ttl = std::time::Duration::from_millis(700);
    publisher.publish(NewMessage::new("a", "short").ttl(ttl)).await.unwrap();
    publish(&broker, "a", 2).await;
    create(broker.egress, "w", ConsumerSettings { filter: "a".into(), ..Default::default() }).await.unwrap();
    let mut worker = Worker::open(broker.egress, by_name("w"), 3).await;
    let first = worker.next().await.lease_id;
    worker.take(2).await;
    tokio::time::sleep(ttl).await;
    client.purge("a", Some(2)).await.unwrap();
    let naks = (0..3).map(|index| Nak { lease_id: first + index, delay: seconds(0.0) }).collect();
    worker.say(ConsumeRequest { nak: naks, ..Default::default() }).await;
    assert_eq!(worker.take(1).await, [(3, 2)]);
    let info = info(broker.egress, "w").await.unwrap();
    assert_eq!((info.passed, info.expired, info.unacked), (3, 2, 1));
    broker.stop().await;
}

#[tokio::test]
async fn p7_a_damaged_message_is_dead_lettered_and_the_rest_goes_on() {
    let broker = start().await;
    let publisher = broker.client().await.publisher();
    for byte in 1..=3 {
        publisher.publish(NewMessage::new("a", vec![byte; 100 << 10])).await.unwrap();
    }
    damage(&broker.data_dir().join("segments"), &[2; 1000]);
    create(broker.egress, "w", ConsumerSettings { filter: "a".into(), ..Default::default() }).await.unwrap();
    let mut worker = Worker::open(broker.egress, by_name("w"), 10).await;
    assert_eq!(worker.take(2).await, [(1, 1), (3, 1)]);
    for _ in 0..100 {
        if info(broker.egress, "w").await.unwrap().dead_lettered == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let letters = letters(&broker, "$dlq.w").await;
    let (data, headers) = &letters[0];
    assert!(data.is_empty() && headers["Mts-Reason"] == "data-loss" && headers["Mts-Original-Sequence"] == "2");
    assert!(headers["Mts-Detail"].contains("checksum"), "{headers:?}");
    broker.stop().await;
}

/// Changes a byte of the first file that holds these bytes.
fn damage(dir: &std::path::Path, bytes: &[u8]) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let mut content = std::fs::read(&path).unwrap();
        if let Some(at) = content.windows(bytes.len()).position(|window| window == bytes) {
            content[at] ^= 0xFF;
            return std::fs::write(&path, content).unwrap();
        }
    }
    panic!("no file holds the bytes");
}
