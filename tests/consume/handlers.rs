//! Handlers that the client library calls.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::StreamExt;
use minitoolstream_client::{ConsumerSettings, Error, Fetch};
use tokio::{
    sync::{Notify, Semaphore},
    time::timeout,
};

use crate::{
    sdk::{PATIENCE, attempts, consumer, take},
    sharing::start,
};

#[tokio::test]
async fn what_fails_or_panics_is_handled_again() {
    let broker = start().await;
    let settings = ConsumerSettings::of("a").back_off([Duration::from_millis(50)]);
    let consumer = consumer(&broker, 30, settings).await;
    let (done, all_done) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let (at_work, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let stop = all_done.clone();
    let work = consumer.for_each_until(4, stop.notified(), |delivery| {
        let (done, all_done, at_work, most) = (done.clone(), all_done.clone(), at_work.clone(), most.clone());
        async move {
            most.fetch_max(at_work.fetch_add(1, SeqCst) + 1, SeqCst);
            tokio::task::yield_now().await;
            at_work.fetch_sub(1, SeqCst);
            match (delivery.message.sequence % 3, delivery.attempt) {
                (0, 1) => return Err("not now"),
                (1, 1) => panic!("this message makes its handler panic"),
                _ => {}
            }
            if done.fetch_add(1, SeqCst) == 29 {
                all_done.notify_one();
            }
            Ok(())
        }
    });
    timeout(PATIENCE, work).await.expect("all is done").unwrap();
    let info = consumer.info().await.unwrap();
    assert_eq!((info.acked, info.deliveries, info.redeliveries), (30, 50, 20), "{info:?}");
    assert!((2..=4).contains(&most.load(SeqCst)), "{} at a time", most.load(SeqCst));
    broker.stop().await;
}

#[tokio::test]
async fn what_always_fails_becomes_a_dead_letter_and_is_redriven() {
    let broker = start().await;
    let settings = ConsumerSettings::of("a").max_deliver(3).back_off([Duration::from_millis(20)]);
    let consumer = consumer(&broker, 2, settings).await;
    let given_up = Notify::new();
    let calls = Arc::new(AtomicU64::new(0));
    let work = consumer.for_each_until(1, given_up.notified(), |_| {
        calls.fetch_add(1, SeqCst);
        async { Err::<(), _>("never") }
    });
    let watch = async {
        while consumer.info().await.unwrap().dead_lettered < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        given_up.notify_one();
    };
    let (worked, ()) = timeout(PATIENCE, async { tokio::join!(work, watch) }).await.expect("both are given up");
    worked.unwrap();
    assert_eq!(calls.load(SeqCst), 6);
    assert_eq!(consumer.dead_letter_subject().await.unwrap(), "$dlq.w");
    let redriven = consumer.redrive(&[1, 7], Some("repaired")).await.unwrap();
    assert_eq!((redriven.count, redriven.not_found), (1, vec![7]));
    assert_eq!(consumer.redrive(&[], Some("repaired")).await.unwrap().count, 1);
    let repaired = broker.client().await.fetch(Fetch::from_sequence("repaired", 1)).await.unwrap();
    let mut repaired: Vec<_> = repaired.map(|message| message.unwrap().data.unwrap()).collect().await;
    repaired.sort_unstable();
    assert_eq!(repaired, ["1", "2"]);
    broker.stop().await;
}

#[tokio::test]
async fn messages_that_no_handler_has_begun_with_go_to_others_as_soon_as_work_stops() {
    let broker = start().await;
    let consumer = consumer(&broker, 10, ConsumerSettings::of("a")).await;
    let (stop, begun, end) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let work = tokio::spawn({
        let (consumer, stop, begun, end) = (consumer.clone(), stop.clone(), begun.clone(), end.clone());
        async move {
            let handler = |_| {
                let (begun, end) = (begun.clone(), end.clone());
                async move {
                    begun.add_permits(1);
                    end.acquire().await.map(drop)
                }
            };
            consumer.for_each_until(2, stop.notified(), handler).await
        }
    });
    timeout(PATIENCE, begun.acquire_many(2)).await.expect("two handlers begin").unwrap().forget();
    let mut other = consumer.messages().await.unwrap();
    stop.notify_one();
    let taken = take(&mut other, 8).await;
    assert_eq!(attempts(&taken), (3..=10).map(|sequence| (sequence, 1)).collect::<Vec<_>>());
    assert!(!work.is_finished(), "its handlers are at work");
    end.add_permits(2);
    timeout(PATIENCE, work).await.expect("it ends with its handlers").unwrap().unwrap();
    assert_eq!(consumer.info().await.unwrap().acked, 2);
    broker.stop().await;
}

#[tokio::test]
async fn work_ends_with_the_reason_when_its_consumer_is_deleted() {
    let broker = start().await;
    let consumer = consumer(&broker, 1, ConsumerSettings::of("a")).await;
    let begun = Arc::new(Semaphore::new(0));
    let work = consumer.for_each(1, |_| {
        let begun = begun.clone();
        async move {
            begun.add_permits(1);
            Ok::<_, Error>(())
        }
    });
    let delete = async {
        begun.acquire().await.unwrap().forget();
        consumer.delete().await.unwrap();
    };
    let (ended, ()) = timeout(PATIENCE, async { tokio::join!(work, delete) }).await.expect("it ends");
    assert!(matches!(ended, Err(Error::NotFound(_))), "{ended:?}");
    broker.stop().await;
}
