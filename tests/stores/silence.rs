//! P4 among brokers that share a store: who falls silent loses its leases, and nobody else does.

use std::time::{Duration, Instant};

use minitoolstream::{
    Error,
    store::{
        ConsumerChange, MetadataStore,
        tarantool::{Config, News},
    },
};
use minitoolstream_testkit::Tarantool;
use tokio::time::sleep;

use crate::{
    shared::{connect, given, make, publish, step},
    workers::consumer,
};

const LIVENESS: Duration = Duration::from_millis(600);

#[tokio::test]
async fn p4_a_silent_broker_gives_its_leases_back() {
    let server = Tarantool::start(&[]);
    let config = Config { liveness: LIVENESS, ..server.config() };
    let (silent, other) = (connect(config.clone()).await, connect(config).await);
    make(&silent, "a").await;
    for _ in 0..3 {
        publish(&silent, "a", 9).await.unwrap();
    }
    assert_eq!(given(&step(&silent, 1, &[], 2).await.unwrap()), [(1, 1), (2, 1)]);
    assert_eq!(given(&step(&other, 2, &[], 9).await.unwrap()), [(3, 1)], "what is leased is another's");
    let mut news = other.news(&News::default(), Duration::from_secs(1)).await.unwrap();
    drop(silent);
    let started = Instant::now();
    while !news.rung.contains(&consumer("c")) {
        assert!(started.elapsed() < Duration::from_secs(10), "nobody is told");
        news = other.news(&news, Duration::from_secs(1)).await.unwrap();
    }
    assert_eq!(given(&step(&other, 2, &[], 9).await.unwrap()), [(1, 2), (2, 2)]);
    assert_eq!(other.consumer(&consumer("c")).await.unwrap().unwrap().workers, 1);
}

#[tokio::test]
async fn p4_who_was_taken_for_dead_is_fenced() {
    let server = Tarantool::start(&[]);
    let (frozen, other) = (connect(server.config()).await, connect(server.config()).await);
    make(&frozen, "a").await;
    publish(&frozen, "a", 9).await.unwrap();
    let leased = given(&step(&frozen, 1, &[], 1).await.unwrap());
    // As after a silence: the others have buried it, and it does not know.
    frozen.leave().await.unwrap();
    assert_eq!(given(&step(&other, 2, &[], 1).await.unwrap()), [(1, 2)]);
    let late = step(&frozen, 1, &leased, 0).await.unwrap();
    assert!(matches!(late.settled[0], Err(Error::Precondition(_))), "{:?}", late.settled);
    assert!(step(&other, 2, &[(1, 2)], 0).await.unwrap().settled[0].is_ok());
}

#[tokio::test]
async fn p4_a_server_that_stands_still_buries_nobody() {
    let server = Tarantool::start(&[]);
    let config = Config { liveness: LIVENESS, ..server.config() };
    let (first, second) = (connect(config.clone()).await, connect(config).await);
    make(&first, "a").await;
    publish(&first, "a", 9).await.unwrap();
    let leased = given(&step(&first, 1, &[], 1).await.unwrap());
    for _ in 0..2 {
        server.signal("STOP");
        sleep(3 * LIVENESS).await;
        server.signal("CONT");
        sleep(2 * LIVENESS).await;
        assert_eq!(given(&step(&second, 2, &[], 1).await.unwrap()), [], "it is the first one's");
    }
    assert!(step(&first, 1, &leased, 0).await.unwrap().settled[0].is_ok());
}

#[tokio::test]
async fn p4_a_consumer_is_not_taken_for_an_earlier_one_of_its_name() {
    let server = Tarantool::start(&[]);
    let (first, second) = (connect(server.config()).await, connect(server.config()).await);
    make(&first, "a").await;
    for _ in 0..9 {
        publish(&first, "a", 9).await.unwrap();
    }
    // The first one remembers the state that it saw last, and how often it had changed.
    let leased = given(&step(&first, 1, &[], 2).await.unwrap());
    second.change_consumer(&consumer("c"), ConsumerChange::Delete).await.unwrap();
    make(&second, "a").await;
    for taken in 1..=4 {
        assert_eq!(given(&step(&second, 2, &[], 1).await.unwrap()), [(taken, 1)], "the next of another consumer");
        let late = step(&first, 1, &leased, 0).await;
        assert!(late.is_err() || late.is_ok_and(|late| late.settled.iter().all(Result::is_err)), "after {taken}");
    }
    let view = second.consumer(&consumer("c")).await.unwrap().unwrap();
    assert_eq!(view.counts.acked, 0, "nobody has acknowledged anything of it");
}
