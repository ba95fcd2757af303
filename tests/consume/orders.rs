//! Patterns, starts, and messages that wait for their time.

use std::time::{Duration, SystemTime};

use minitoolstream_client::{
    Fetch, NewMessage,
    proto::{ConsumerSettings, OpenConsumer, Start, start::From},
};
use tokio_stream::StreamExt;

use crate::{
    sharing::{publish, start},
    worker::{Worker, open},
};

async fn one_by_one(broker: &minitoolstream_testkit::TestBroker, subjects: &[&'static str]) {
    let publisher = broker.client().await.publisher();
    for subject in subjects {
        publisher.publish(NewMessage::new(*subject, *subject)).await.unwrap();
    }
}

async fn subjects(worker: &mut Worker, count: usize) -> Vec<(String, u64)> {
    let mut subjects = Vec::new();
    while subjects.len() < count {
        let message = worker.next().await.message.unwrap();
        subjects.push((message.subject, message.sequence));
    }
    subjects
}

#[tokio::test]
async fn patterns_deliver_in_the_order_of_the_stream() {
    let broker = start().await;
    one_by_one(&broker, &["a.x", "b", "a.y", "a.x", "a.x.deep", "a.y"]).await;
    let mut worker = Worker::open(broker.egress, open("w", "a.*"), 10).await;
    let expected = [("a.x", 1), ("a.y", 1), ("a.x", 2), ("a.y", 2)].map(|(subject, at)| (subject.to_owned(), at));
    assert_eq!(subjects(&mut worker, 4).await, expected);
    one_by_one(&broker, &["b", "a.z"]).await;
    assert_eq!(subjects(&mut worker, 1).await, [("a.z".to_owned(), 1)]);
    let client = broker.client().await;
    let by_sequence = client.fetch(Fetch::from_sequence("a.>", 1)).await;
    assert!(by_sequence.is_err(), "a sequence belongs to one subject");
    let all: Vec<_> = client.fetch(Fetch::from_stream_sequence(">", 1).limit(100)).await.unwrap().collect().await;
    let all: Vec<_> = all.into_iter().map(|message| message.unwrap()).collect();
    assert!(all.iter().map(|message| message.stream_sequence).is_sorted());
    assert_eq!(all.len(), 8);
    broker.stop().await;
}

#[tokio::test]
async fn consumers_begin_where_they_are_told_to() {
    let broker = start().await;
    publish(&broker, "a", 3).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let then = SystemTime::now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    publish(&broker, "a", 2).await;
    let stream = broker.client().await.fetch(Fetch::from_sequence("a", 3).limit(1)).await.unwrap();
    let third: Vec<_> = stream.collect().await;
    let starts = [
        (From::All(()), 1),
        (From::New(()), 6),
        (From::Sequence(2), 2),
        (From::Sequence(6), 6),
        (From::StreamSequence(third[0].as_ref().unwrap().stream_sequence), 3),
        (From::Time(then.into()), 4),
    ];
    let mut workers = Vec::new();
    for (index, (from, first)) in starts.into_iter().enumerate() {
        let settings =
            ConsumerSettings { filter: "a".into(), start: Some(Start { from: Some(from) }), ..Default::default() };
        let opening =
            OpenConsumer { durable_name: format!("w{index}"), settings: Some(settings), ..Default::default() };
        workers.push((Worker::open(broker.egress, opening, 1).await, first));
    }
    publish(&broker, "a", 1).await;
    for (index, (worker, first)) in workers.iter_mut().enumerate() {
        assert_eq!(worker.take(1).await, [(*first, 1)], "start {index}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn scheduled_messages_come_at_their_time_and_not_before() {
    let broker = start().await;
    let publisher = broker.client().await.publisher();
    let mut worker = Worker::open(broker.egress, open("w", "a"), 10).await;
    let begun = SystemTime::now();
    let scheduled = NewMessage::new("a", "later").deliver_at(begun + Duration::from_millis(600)).message_id("once");
    let published = publisher.publish(scheduled.clone()).await.unwrap();
    assert_eq!((published.scheduled, published.sequence), (true, 0));
    assert!(publisher.publish(scheduled).await.unwrap().duplicate);
    publisher.publish(NewMessage::new("a", "now")).await.unwrap();
    assert_eq!(worker.take(1).await, [(1, 1)]);
    let later = worker.next().await.message.unwrap();
    let waited = begun.elapsed().unwrap();
    assert_eq!((later.sequence, later.data.as_ref()), (2, b"later".as_slice()), "it got its sequence now");
    assert!((Duration::from_millis(600)..Duration::from_secs(5)).contains(&waited), "{waited:?}");
    broker.stop().await;
}
