//! Subscribers share threads and come and go with their clients.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use minitoolstream::{
    actors::{
        handle::Handle,
        subscriber::{Feed, Parts, Progress, Subscriber},
        supervise::{Policy, Supervision, supervise},
        threads::{ThreadPool, Threads},
    },
    metrics::Metrics,
};
use minitoolstream_client::proto::{FetchRequest, Message, egress_service_client::EgressServiceClient};
use minitoolstream_testkit::{TestBroker, http};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

/// Tells a list of what is new, and fails once at a sequence.
#[derive(Default)]
struct Frail {
    told: Mutex<Vec<u64>>,
    fails_at: u64,
    fails_by: Option<fn()>,
    failed: AtomicU64,
    /// How many were told.
    count: AtomicU64,
    head: watch::Sender<u64>,
}

#[async_trait]
impl Feed for Frail {
    async fn advance(&self) -> Option<Progress> {
        let (seen, from) = (*self.head.borrow(), self.count.load(Ordering::SeqCst) + 1);
        if from > seen {
            return Some(Progress { seen, more: false });
        }
        if let (Some(fail), true) = (self.fails_by, from == self.fails_at)
            && self.failed.fetch_add(1, Ordering::SeqCst) == 0
        {
            fail();
        }
        self.told.lock().unwrap().push(from);
        self.count.store(from, Ordering::SeqCst);
        Some(Progress { seen, more: from < seen })
    }
}

/// A subscription without a client.
struct Subscription {
    feed: Arc<Frail>,
    head: watch::Sender<u64>,
    ended: CancellationToken,
    _handle: Handle<Subscriber>,
}

impl Subscription {
    fn start(feed: Frail, threads: Arc<ThreadPool>, metrics: Metrics) -> Self {
        let (feed, ended) = (Arc::new(feed), CancellationToken::new());
        let parts = Parts { feed: feed.clone(), head: feed.head.subscribe(), ended: ended.clone() };
        let supervision = Supervision {
            name: "subscriber",
            policy: Policy::default(),
            threads: Threads::Shared(threads),
            shutdown: ended.clone(),
            metrics,
        };
        let (handle, alive) = supervise(supervision, move |bell| Subscriber::new(parts.clone(), bell));
        tokio::spawn(alive);
        Self { head: feed.head.clone(), feed, ended, _handle: handle }
    }

    fn told(&self) -> Vec<u64> {
        self.feed.told.lock().unwrap().clone()
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not in 10 s: {what}");
}

async fn restarts(broker: &TestBroker, cause: &str) -> u64 {
    let series = format!("minitoolstream_actor_restarts_total{{actor=\"subscriber\",cause=\"{cause}\"}}");
    http::metric(broker.http, &series).await
}

async fn follow(broker: &TestBroker, subject: &str) -> Streaming<Message> {
    let mut egress = EgressServiceClient::connect(format!("http://{}", broker.egress)).await.unwrap();
    let request = FetchRequest { subject: subject.into(), start_sequence: Some(1), follow: true, ..Default::default() };
    egress.fetch(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn one_that_panics_goes_on_where_it_stood() {
    let broker = TestBroker::start(&[]).await;
    let (threads, metrics) = (broker.broker.subscriber_threads.clone(), broker.broker.metrics.clone());
    let feed = Frail { fails_at: 3, fails_by: Some(|| panic!("injected fault")), ..Frail::default() };
    let subscription = Subscription::start(feed, threads, metrics);
    subscription.head.send_replace(5);
    until("everything is told", || subscription.told().len() >= 5).await;
    assert_eq!(subscription.told(), [1, 2, 3, 4, 5]);
    assert_eq!(restarts(&broker, "panic").await, 1);
    assert_eq!(http::get(broker.http, "/readyz").await.0, 200, "one subscriber is not the broker");
    broker.stop().await;
}

#[tokio::test]
async fn one_that_hangs_takes_no_other_with_it() {
    let broker = TestBroker::start(&[]).await;
    let publisher = broker.client().await.publisher();
    let message = || minitoolstream_client::NewMessage::new("a", "x");
    // On each of the threads that subscribers share: a client that follows.
    let mut followers = [follow(&broker, "a").await, follow(&broker, "a").await];
    publisher.publish(message()).await.unwrap();
    for follower in &mut followers {
        assert_eq!(follower.message().await.unwrap().unwrap().sequence, 1);
    }
    let feed = Frail { fails_at: 1, fails_by: Some(|| std::thread::sleep(Duration::from_secs(3))), ..Frail::default() };
    let (threads, metrics) = (broker.broker.subscriber_threads.clone(), broker.broker.metrics.clone());
    let subscription = Subscription::start(feed, threads, metrics);
    subscription.head.send_replace(1);
    until("the thread hangs", || subscription.feed.failed.load(Ordering::SeqCst) == 1).await;
    for sequence in 2..=100 {
        assert_eq!(publisher.publish(message()).await.unwrap().sequence, sequence, "publishing goes on");
    }
    for follower in &mut followers {
        for sequence in 2..=100 {
            let message = tokio::time::timeout(Duration::from_secs(10), follower.message()).await;
            let message = message.expect("the follower of a hung thread moves to another").unwrap().unwrap();
            assert_eq!(message.sequence, sequence, "nothing is skipped or sent twice");
        }
    }
    assert_eq!(restarts(&broker, "hang").await, 2, "the one that hung, and the follower on its thread");
    // The thread wakes, and what was on it must be silent.
    until("the successor tells", || !subscription.told().is_empty()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    publisher.publish(message()).await.unwrap();
    for follower in &mut followers {
        assert_eq!(follower.message().await.unwrap().unwrap().sequence, 101);
    }
    broker.stop().await;
}

#[tokio::test]
async fn one_whose_client_left_goes_although_its_subject_is_silent() {
    let broker = TestBroker::start(&[]).await;
    let (threads, metrics) = (broker.broker.subscriber_threads.clone(), broker.broker.metrics.clone());
    let subscription = Subscription::start(Frail::default(), threads, metrics);
    subscription.head.send_replace(1);
    until("it lives", || subscription.told() == [1]).await;
    subscription.ended.cancel();
    until("nobody holds its feed any more", || Arc::strong_count(&subscription.feed) == 1).await;
    broker.stop().await;
}

#[tokio::test]
async fn clients_that_come_and_go_on_a_silent_subject_leave_nothing_behind() {
    let broker = TestBroker::start(&[]).await;
    let holders = || Arc::strong_count(&broker.broker.stores.metadata);
    // All of the broker runs once it has served somebody.
    drop(follow(&broker, "silent").await);
    let before = holders();
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(follow(&broker, "silent").await);
    }
    assert!(holders() > before + 10, "each follower holds the stores");
    drop(streams);
    // Others take and leave the stores meanwhile: a few more or less say nothing.
    until("nobody holds the stores for a client that left", || holders() < before + 5).await;
    let series = "minitoolstream_live_subscriptions";
    assert_eq!(http::metric(broker.http, series).await, 0);
    broker.stop().await;
}
