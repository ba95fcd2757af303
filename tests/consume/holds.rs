//! How long a message stays with a worker.

use std::time::{Duration, Instant};

use minitoolstream_client::{ConsumerSettings, Error};
use tokio::time::{sleep, timeout};

use crate::{
    sdk::{PATIENCE, attempts, consumer, is_silent_for, next, outcome, take},
    sharing::start,
};

#[tokio::test]
async fn a_message_without_an_answer_is_lost_after_the_ack_wait() {
    let broker = start().await;
    let consumer = consumer(&broker, 2, ConsumerSettings::of("a").ack_wait(Duration::from_millis(600))).await;
    let mut deliveries = consumer.clone().auto_extend(false).messages().await.unwrap();
    let since = Instant::now();
    let lost = take(&mut deliveries, 2).await;
    let mine = take(&mut deliveries, 2).await;
    assert!(since.elapsed() >= Duration::from_millis(400), "{:?}", since.elapsed());
    assert_eq!((attempts(&lost), attempts(&mine)), (vec![(1, 1), (2, 1)], vec![(1, 2), (2, 2)]));
    for delivery in lost {
        let answer = outcome(delivery.ack()).await;
        assert!(matches!(answer, Err(Error::LeaseLost(_))), "{answer:?}");
    }
    for delivery in mine {
        delivery.ack_nowait();
    }
    deliveries.drain(PATIENCE).await.unwrap();
    assert_eq!(consumer.info().await.unwrap().acked, 2);
    broker.stop().await;
}

#[tokio::test]
async fn a_worker_that_asks_for_more_time_too_late_hears_of_it() {
    let broker = start().await;
    let consumer = consumer(&broker, 1, ConsumerSettings::of("a").ack_wait(Duration::from_millis(300))).await;
    let consumer = consumer.auto_extend(false).window(1, 1 << 20);
    let mut frozen = consumer.messages().await.unwrap();
    let lost = next(&mut frozen).await;
    assert!(lost.lost().is_none());
    let mut other = consumer.clone().auto_extend(true).messages().await.unwrap();
    let mine = next(&mut other).await;
    // That it was too late is known once the broker has answered.
    lost.extend().unwrap();
    let heard = async {
        while lost.lost().is_none() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, heard).await.expect("the broker says that it was too late");
    assert!(matches!(lost.extend(), Err(Error::LeaseLost(_))));
    let answer = outcome(lost.ack()).await;
    assert!(matches!(answer, Err(Error::LeaseLost(_))), "{answer:?}");
    outcome(mine.ack()).await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn what_is_held_and_what_is_buffered_is_extended() {
    let broker = start().await;
    let ack_wait = Duration::from_secs(1);
    let consumer = consumer(&broker, 5, ConsumerSettings::of("a").ack_wait(ack_wait)).await;
    let mut slow = consumer.messages().await.unwrap();
    let held = next(&mut slow).await;
    let mut idle = consumer.messages().await.unwrap();
    assert!(is_silent_for(&mut idle, ack_wait * 3).await, "one is at work, four wait for it");
    outcome(held.ack()).await.unwrap();
    for delivery in take(&mut slow, 4).await {
        assert_eq!(delivery.attempt, 1);
        outcome(delivery.ack()).await.unwrap();
    }
    let info = consumer.info().await.unwrap();
    assert_eq!((info.acked, info.deliveries, info.redeliveries), (5, 5, 0), "{info:?}");
    broker.stop().await;
}

#[tokio::test]
async fn a_handler_that_hangs_loses_its_message_in_the_end() {
    let broker = start().await;
    let consumer = consumer(&broker, 1, ConsumerSettings::of("a").ack_wait(Duration::from_millis(400))).await;
    let consumer = consumer.max_hold(Duration::from_millis(800));
    let mut hanging = consumer.messages().await.unwrap();
    let held = next(&mut hanging).await;
    let again = next(&mut hanging).await;
    assert_eq!((again.message.sequence, again.attempt), (1, 2));
    assert!(matches!(outcome(held.ack()).await, Err(Error::LeaseLost(_))));
    outcome(again.ack()).await.unwrap();
    broker.stop().await;
}
