//! The client library with a real broker: a consumer, and what its workers say about messages.

use std::time::Duration;

use futures_util::StreamExt;
use minitoolstream_client::{Consumer, ConsumerSettings, Deliveries, Delivery, Error, Fetch, NewMessage, Settled};
use minitoolstream_testkit::TestBroker;
use tokio::time::timeout;

use crate::sharing::{publish, start};

/// Longest wait for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A consumer of all messages of `a`, which begins with `count` of them.
pub(crate) async fn consumer(broker: &TestBroker, count: u64, settings: ConsumerSettings) -> Consumer {
    publish(broker, "a", count).await;
    let consumer = broker.client().await.consumer("w");
    consumer.create(settings).await.unwrap();
    consumer
}

pub(crate) async fn next(deliveries: &mut Deliveries) -> Delivery {
    timeout(PATIENCE, deliveries.next()).await.expect("a message comes").expect("and no end").unwrap()
}

pub(crate) async fn take(deliveries: &mut Deliveries, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.push(next(deliveries).await);
    }
    taken
}

/// As (sequence, attempt).
pub(crate) fn attempts(deliveries: &[Delivery]) -> Vec<(u64, u32)> {
    deliveries.iter().map(|delivery| (delivery.message.sequence, delivery.attempt)).collect()
}

/// What the broker says of an answer.
pub(crate) async fn outcome(settled: Settled) -> Result<(), Error> {
    timeout(PATIENCE, settled).await.expect("the answer is answered")
}

/// True if nothing comes for this long.
pub(crate) async fn is_silent_for(deliveries: &mut Deliveries, time: Duration) -> bool {
    timeout(time, deliveries.next()).await.is_err()
}

#[tokio::test]
async fn each_answer_does_what_it_says() {
    let broker = start().await;
    let settings = ConsumerSettings::of("a").back_off([Duration::from_millis(100)]);
    let consumer = consumer(&broker, 6, settings).await;
    let mut deliveries = consumer.messages().await.unwrap();
    let taken = take(&mut deliveries, 6).await;
    assert_eq!(attempts(&taken), (1..=6).map(|sequence| (sequence, 1)).collect::<Vec<_>>());
    assert_eq!((taken[0].backlog, taken[5].backlog), (5, 0));
    let mut taken = taken.into_iter();
    let mut one = || taken.next().unwrap();
    let answers =
        [one().ack(), one().nak_after(Duration::ZERO), one().nak(), one().terminate("no good"), one().release()];
    for answer in answers {
        outcome(answer).await.unwrap();
    }
    // Dropped: whoever handled it failed.
    drop(one());
    let mut again = take(&mut deliveries, 4).await;
    let mut numbers = attempts(&again);
    numbers.sort_unstable();
    assert_eq!(numbers, [(2, 2), (3, 2), (5, 1), (6, 2)], "only what was released was no attempt");
    let info = consumer.info().await.unwrap();
    assert_eq!((info.acked, info.dead_lettered, info.unacked, info.redeliverable), (1, 1, 4, 0), "{info:?}");
    let letters: Vec<_> = broker.client().await.fetch(Fetch::from_sequence("$dlq.w", 1)).await.unwrap().collect().await;
    let headers = &letters[0].as_ref().unwrap().headers;
    assert_eq!((headers["Mts-Reason"].as_str(), headers["Mts-Detail"].as_str()), ("terminated", "no good"));
    outcome(again.pop().unwrap().ack_up_to()).await.unwrap();
    let info = consumer.info().await.unwrap();
    assert_eq!((info.acked, info.unacked, info.redeliverable), (5, 0, 0), "{info:?}");
    deliveries.drain(PATIENCE).await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn an_ack_up_to_a_message_covers_what_came_before_and_was_kept() {
    let broker = start().await;
    let consumer = consumer(&broker, 5, ConsumerSettings::of("a")).await;
    let mut deliveries = consumer.messages().await.unwrap();
    let mut taken = take(&mut deliveries, 5).await;
    outcome(taken.remove(1).nak_after(Duration::from_hours(1))).await.unwrap();
    let fourth = taken.remove(2);
    outcome(fourth.ack_up_to()).await.unwrap();
    let info = consumer.info().await.unwrap();
    assert_eq!((info.acked, info.redeliverable, info.unacked), (3, 1, 1), "1, 3 and 4; 2 waits; 5 is out: {info:?}");
    let [first, third, fifth] = <[Delivery; 3]>::try_from(taken).unwrap();
    outcome(first.ack()).await.unwrap();
    let refused = outcome(third.nak()).await;
    assert!(matches!(&refused, Err(Error::LeaseLost(why)) if why.contains("acknowledged already")), "{refused:?}");
    fifth.ack_nowait();
    deliveries.drain(PATIENCE).await.unwrap();
    assert_eq!(consumer.info().await.unwrap().acked, 4, "a drained worker has said everything");
    broker.stop().await;
}

#[tokio::test]
async fn large_data_is_read_when_it_is_wanted() {
    let broker = start().await;
    let publisher = broker.client().await.publisher();
    let data: Vec<u8> = (0..=250).cycle().take(3 << 20).collect();
    publisher.publish(NewMessage::new("a", data.clone())).await.unwrap();
    let consumer = consumer(&broker, 1, ConsumerSettings::of("a")).await.max_message_bytes(1 << 20);
    let mut deliveries = consumer.messages().await.unwrap();
    let taken = take(&mut deliveries, 2).await;
    assert_eq!((taken[0].message.data.as_ref(), taken[0].message.size()), (None, data.len() as u64));
    assert!(taken[0].data().await.unwrap() == data);
    assert_eq!(taken[1].data().await.unwrap(), "1");
    broker.stop().await;
}

#[tokio::test]
async fn a_consumer_that_is_deleted_ends_its_streams_with_an_error() {
    let broker = start().await;
    let consumer = consumer(&broker, 2, ConsumerSettings::of("a")).await;
    let mut deliveries = consumer.messages().await.unwrap();
    let taken = take(&mut deliveries, 2).await;
    consumer.delete().await.unwrap();
    let end = timeout(PATIENCE, deliveries.next()).await.unwrap();
    assert!(matches!(end, Some(Err(Error::NotFound(_)))), "{end:?}");
    let end = timeout(PATIENCE, deliveries.next()).await.unwrap();
    assert!(end.is_none(), "{end:?}");
    for delivery in taken {
        assert!(matches!(outcome(delivery.ack()).await, Err(Error::LeaseLost(_))));
    }
    assert!(matches!(consumer.messages().await, Err(Error::NotFound(_))));
    assert!(matches!(consumer.info().await, Err(Error::NotFound(_))));
    broker.stop().await;
}

#[tokio::test]
async fn settings_create_a_consumer_once_and_others_are_refused() {
    let broker = start().await;
    publish(&broker, "a", 1).await;
    let consumer = broker.client().await.consumer("w");
    let mine = consumer.clone().settings(ConsumerSettings::of("a").max_deliver(3));
    for attempt in 1..=2 {
        let mut deliveries = mine.messages().await.unwrap();
        let delivery = next(&mut deliveries).await;
        assert_eq!(delivery.attempt, attempt);
        outcome(delivery.nak_after(Duration::ZERO)).await.unwrap();
        deliveries.drain(PATIENCE).await.unwrap();
    }
    let others = consumer.clone().settings(ConsumerSettings::of("b").max_deliver(3));
    assert!(matches!(others.messages().await, Err(Error::Invalid(_))));
    assert!(matches!(consumer.create(ConsumerSettings::of("b")).await, Err(Error::Invalid(_))));
    let info = consumer.update(ConsumerSettings::unchanged().ack_wait(Duration::from_mins(2))).await.unwrap();
    let settings = info.settings.unwrap();
    assert_eq!((settings.ack_wait.unwrap().seconds, settings.max_deliver), (120, Some(3)));
    broker.stop().await;
}
