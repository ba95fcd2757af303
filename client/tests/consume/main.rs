//! What a worker does when a broker misbehaves, or stops: a fake one says what a real one says only on bad days.
#![allow(clippy::unwrap_used)]

mod fake;

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use fake::Fake;
use minitoolstream_client::{
    ConsumerSettings, Deliveries, Delivery, Error,
    proto::{ConsumeResponse, Delivery as Delivered, Detached, Message},
};
use tokio::{sync::oneshot, time::timeout};
use tokio_stream::StreamExt;
use tonic::Status;

const WAIT: Duration = Duration::from_secs(30);

async fn next(deliveries: &mut Deliveries) -> Delivery {
    timeout(Duration::from_secs(10), deliveries.next()).await.unwrap().unwrap().unwrap()
}

/// Opens a stream while the fake answers.
macro_rules! open {
    ($fake:expr, $consumer:expr) => {{
        let consumer = $consumer;
        let (deliveries, (worker, asked)) = tokio::join!(consumer.messages(), $fake.next(WAIT));
        (deliveries.unwrap(), worker, asked)
    }};
}

#[tokio::test]
async fn messages_are_taken_and_acknowledged() {
    let mut fake = Fake::start().await;
    let consumer = fake.client().await.consumer("c").settings(ConsumerSettings::of("s")).window(10, 1000);
    let (mut deliveries, mut worker, asked) = open!(fake, consumer);
    let open = asked.open.unwrap();
    assert_eq!((open.durable_name.as_str(), open.settings.unwrap().filter.as_str()), ("c", "s"));
    assert_eq!(asked.credit.map(|credit| (credit.messages, credit.bytes)), Some((10, 1000)));
    worker.deliver(1..=3).await;
    let (first, second, third) =
        (next(&mut deliveries).await, next(&mut deliveries).await, next(&mut deliveries).await);
    assert_eq!((first.message.sequence, first.data().await.unwrap().as_ref()), (1, b"data".as_slice()));
    first.ack_nowait();
    drop(second.ack());
    let settled = third.ack();
    let answers = worker.hear().await.unwrap();
    assert_eq!(answers.ack, [1, 2, 3], "they share a frame");
    worker.settle(1, 3).await;
    settled.await.unwrap();
}

#[tokio::test]
async fn large_messages_are_read_in_pieces() {
    let mut fake = Fake::start().await;
    let (mut deliveries, worker, _) = open!(fake, fake.client().await.consumer("c"));
    let message = Message { detached: Some(Detached { size: 8, ..Default::default() }), ..Default::default() };
    let deliveries_sent = vec![Delivered { message: Some(message), ..Default::default() }];
    worker.say(ConsumeResponse { deliveries: deliveries_sent, ..Default::default() }).await;
    let delivery = next(&mut deliveries).await;
    assert_eq!((delivery.message.size(), delivery.message.data.as_ref()), (8, None));
    assert_eq!(delivery.data().await.unwrap(), "so large");
}

#[tokio::test]
async fn what_is_out_on_a_stream_that_drains_is_read_at_any_broker() {
    let mut fake = Fake::start().await;
    let (mut deliveries, worker, _) = open!(fake, fake.client().await.consumer("c"));
    let message = Message { detached: Some(Detached { size: 8, ..Default::default() }), ..Default::default() };
    let delivered = Delivered { message: Some(message), lease_id: Fake::LEASE_OF_ANOTHER, ..Default::default() };
    worker.say(ConsumeResponse { deliveries: vec![delivered], ..Default::default() }).await;
    let delivery = next(&mut deliveries).await;
    assert!(delivery.data().await.is_err(), "elsewhere nobody knows the lease");
    worker.say(ConsumeResponse { draining: true, ..Default::default() }).await;
    let _next = fake.next(WAIT).await;
    assert_eq!(delivery.data().await.unwrap(), "so large");
}

#[tokio::test]
async fn a_broken_stream_is_opened_again_and_its_leases_are_lost() {
    let mut fake = Fake::start().await;
    let (mut deliveries, worker, _) = open!(fake, fake.client().await.consumer("c"));
    worker.deliver(1..=3).await;
    let (first, second) = (next(&mut deliveries).await, next(&mut deliveries).await);
    let asked = second.ack();
    worker.responses.send(Err(Status::unavailable("gone"))).await.unwrap();
    let (again, _) = fake.next(WAIT).await;
    assert!(matches!(asked.await, Err(Error::LeaseLost(_))));
    assert!(matches!(first.lost(), Some(Error::LeaseLost(_))));
    assert!(matches!(first.ack().await, Err(Error::LeaseLost(_))));
    again.deliver(1..=1).await;
    assert_eq!(next(&mut deliveries).await.message.sequence, 1, "the third of the old stream is not handed out");
}

#[tokio::test]
async fn a_broker_that_drains_gets_its_answers_while_work_goes_on_elsewhere() {
    let mut fake = Fake::start().await;
    let (mut deliveries, mut worker, _) = open!(fake, fake.client().await.consumer("c"));
    worker.deliver(1..=3).await;
    let first = next(&mut deliveries).await;
    worker.say(ConsumeResponse { draining: true, ..Default::default() }).await;
    let answers = worker.hear().await.unwrap();
    assert_eq!((answers.release, answers.credit.map(|credit| credit.messages)), (vec![2, 3], Some(0)));
    let (again, _) = fake.next(WAIT).await;
    again.deliver(7..=7).await;
    assert_eq!(next(&mut deliveries).await.message.sequence, 7);
    let settled = first.ack();
    assert_eq!(worker.hear().await.unwrap().ack, [1]);
    worker.settle(1, 3).await;
    settled.await.unwrap();
    assert!(worker.hear().await.is_none(), "the old stream is ended");
}

#[tokio::test]
async fn silence_is_a_broken_connection() {
    let mut fake = Fake::start().await;
    let consumer = fake.client().await.consumer("c").heartbeat(Duration::from_millis(100));
    let (_deliveries, _silent, _) = open!(fake, consumer);
    let (heard, _) = fake.next(WAIT).await;
    for _ in 0..6 {
        heard.say(ConsumeResponse::default()).await;
        assert!(timeout(Duration::from_millis(100), fake.next(WAIT)).await.is_err(), "it is alive");
    }
}

#[tokio::test]
async fn what_trying_again_does_not_mend_ends_the_stream() {
    let mut fake = Fake::start().await;
    let (mut deliveries, worker, _) = open!(fake, fake.client().await.consumer("c"));
    worker.responses.send(Err(Status::not_found("consumer 'c' was deleted"))).await.unwrap();
    let error = deliveries.next().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::NotFound(text) if text == "consumer 'c' was deleted"));
    assert!(deliveries.next().await.is_none());
    let nobody = fake.client().await.consumer("");
    let (mut deliveries, worker, _) = open!(fake, nobody);
    worker.responses.send(Err(Status::unavailable("gone"))).await.unwrap();
    assert!(matches!(deliveries.next().await, Some(Err(Error::Unavailable { .. }))), "nobody remembers it");
}

#[tokio::test]
async fn patience_has_an_end() {
    let mut fake = Fake::start().await;
    let consumer = fake.client().await.consumer("c").patience(Duration::from_millis(300));
    let (mut deliveries, worker, _) = open!(fake, consumer);
    drop((fake, worker));
    let error = timeout(Duration::from_secs(5), deliveries.next()).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn what_is_held_is_extended() {
    let mut fake = Fake::start().await;
    let consumer = fake.client().await.consumer("c");
    let (deliveries, (mut worker, _)) = tokio::join!(consumer.messages(), fake.next(Duration::from_millis(300)));
    let mut deliveries = deliveries.unwrap();
    worker.deliver(1..=3).await;
    let first = next(&mut deliveries).await;
    next(&mut deliveries).await.ack_nowait();
    assert_eq!(worker.hear().await.unwrap().ack, [2]);
    for _ in 0..2 {
        assert_eq!(worker.hear().await.unwrap().extend, [1, 3], "one is handled, one waits");
    }
    first.extend().unwrap();
    assert!(worker.hear().await.unwrap().extend.contains(&1));
}

#[tokio::test]
async fn draining_waits_for_answers_and_gives_back_the_rest() {
    let mut fake = Fake::start().await;
    let (mut deliveries, mut worker, _) = open!(fake, fake.client().await.consumer("c"));
    worker.deliver(1..=2).await;
    let first = next(&mut deliveries).await;
    let draining = tokio::spawn(deliveries.drain(Duration::from_secs(10)));
    let answers = worker.hear().await.unwrap();
    assert_eq!((answers.release, answers.credit.map(|credit| credit.messages)), (vec![2], Some(0)));
    worker.deliver(3..=3).await;
    assert_eq!(worker.hear().await.unwrap().release, [3], "it was on its way");
    first.ack_nowait();
    assert_eq!(worker.hear().await.unwrap().ack, [1]);
    assert!(!draining.is_finished());
    worker.settle(1, 3).await;
    assert!(worker.hear().await.is_none());
    drop(worker);
    draining.await.unwrap().unwrap();
}

#[tokio::test]
async fn draining_has_an_end() {
    let mut fake = Fake::start().await;
    let (mut deliveries, worker, _) = open!(fake, fake.client().await.consumer("c"));
    worker.deliver(1..=1).await;
    let first = next(&mut deliveries).await;
    let error = deliveries.drain(Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(error, Error::LeaseLost(_)), "{error}");
    while first.lost().is_none() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(first.ack().await, Err(Error::LeaseLost(_))));
}

#[tokio::test]
async fn handlers_answer_with_their_results() {
    let mut fake = Fake::start().await;
    let consumer = fake.client().await.consumer("c");
    let (stop, stopped) = oneshot::channel::<()>();
    let handled = AtomicU32::new(0);
    let working = consumer.for_each_until(2, stopped, |delivery| {
        handled.fetch_add(1, Ordering::Relaxed);
        async move {
            match delivery.message.sequence {
                1 => Ok(()),
                2 => Err("cannot"),
                _ => panic!("a handler that panics is one of those that fail"),
            }
        }
    });
    let scripted = async {
        let (mut worker, _) = fake.next(WAIT).await;
        worker.deliver(1..=3).await;
        let (mut acks, mut naks) = (vec![], vec![]);
        while acks.len() + naks.len() < 3 {
            let answers = worker.hear().await.unwrap();
            acks.extend(answers.ack);
            naks.extend(answers.nak.into_iter().map(|nak| nak.lease_id));
        }
        naks.sort_unstable();
        assert_eq!((acks, naks), (vec![1], vec![2, 3]));
        worker.settle(1, 3).await;
        stop.send(()).unwrap();
        worker.hear().await.unwrap();
        assert!(worker.hear().await.is_none());
    };
    let (worked, ()) = tokio::join!(working, scripted);
    worked.unwrap();
    assert_eq!(handled.into_inner(), 3);
}
