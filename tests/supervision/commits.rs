//! A storage actor that dies over a commit which is durable already.

use std::{sync::Arc, time::Duration};

use minitoolstream::{
    actors::{
        Parcel,
        handle::Handle,
        heads::Heads,
        publisher::Results,
        storage::{Commit, InlineMax, Parts, Storage, Ticket},
        supervise::{Fault, Policy, Supervision, supervise},
        threads::{ThreadMaker, Threads},
    },
    admission::Permit,
    block::{INLINE_MAX, batch},
    metrics::Metrics,
    types::{Clock, Draft, MessageId, RequestId, Subject, SystemClock},
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::gated::Gated;

struct Stage {
    gated: Gated,
    heads: Arc<Heads>,
    storage: Handle<Storage>,
    metrics: Metrics,
}

impl Stage {
    async fn set() -> Self {
        let gated = Gated::open().await;
        let (heads, metrics) = (Arc::new(Heads::default()), Metrics::new(0).unwrap());
        let parts = Parts {
            stores: gated.stores.clone(),
            heads: heads.clone(),
            rings: Arc::default(),
            clock: Arc::new(SystemClock::new()),
            dedup_window: Duration::from_secs(60),
            inline_max: InlineMax::new(INLINE_MAX),
            metrics: metrics.clone(),
            runtime: tokio::runtime::Handle::current(),
            turn: Arc::default(),
        };
        let supervision = Supervision {
            name: "storage",
            policy: Policy::default(),
            threads: Threads::Own(ThreadMaker::of_this_system()),
            shutdown: CancellationToken::new(),
            metrics: metrics.clone(),
        };
        let (storage, alive) = supervise(supervision, move |bell| Storage::new(parts.clone(), bell));
        tokio::spawn(alive);
        let stage = Self { gated, heads, storage, metrics };
        stage.storage_is_up().await;
        stage
    }

    async fn storage_is_up(&self) {
        until("the storage is up", || self.storage.is_up()).await;
    }

    /// Sends a commit of one message to the subject `a`.
    fn send(&self, id: Option<&str>) -> oneshot::Receiver<Results> {
        let drafts = vec![Draft {
            subject: subject(),
            data: "x".into(),
            headers: vec![],
            created: SystemClock::new().now(),
            expires: None,
            message_id: id.map(|id| MessageId::parse("message_id", id).unwrap()),
            expected_last: None,
            deliver_at: None,
            upload: None,
            uploaded: None,
        }];
        let blocks = batch::form(&drafts, &[false]);
        let (reply, results) = oneshot::channel();
        let ticket = Ticket { request: RequestId::next(), drafts: 1, reply, permit: Permit::default() };
        let commit =
            Commit { sender: 0, drafts, blocks, tickets: Parcel::new(vec![ticket]), done: oneshot::channel().0 };
        self.storage.tell(commit).unwrap();
        results
    }

    async fn panic(&self) {
        self.storage.tell(Fault::Panic).unwrap();
        until("the panic is seen", || self.metrics.render().contains(r#"{actor="storage",cause="panic"} 1"#)).await;
        self.storage_is_up().await;
    }
}

fn subject() -> Subject {
    Subject::parse("subject", "a").unwrap()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not in 5 s: {what}");
}

#[actix::test]
async fn who_waits_for_the_subject_learns_of_the_message() {
    let stage = Stage::set().await;
    let mut head = stage.heads.watch(&subject());
    let results = stage.send(None);
    stage.gated.commit_is_durable().await;
    stage.panic().await;
    assert!(results.await.is_err(), "the outcome is unknown");
    stage.gated.gate.add_permits(1);
    tokio::time::timeout(Duration::from_secs(5), head.changed()).await.expect("the head is raised").unwrap();
    assert_eq!(*head.borrow(), 1);
}

#[actix::test]
async fn a_successor_does_not_overtake() {
    let stage = Stage::set().await;
    let _lost = stage.send(None);
    stage.gated.commit_is_durable().await;
    stage.panic().await;
    let results = stage.send(None);
    let early = tokio::time::timeout(Duration::from_millis(200), stage.gated.commit_is_durable()).await;
    assert!(early.is_err(), "the second commit waits for the end of the first");
    stage.gated.gate.add_permits(2);
    assert_eq!(results.await.unwrap()[0].as_ref().unwrap().sequence, 2);
}

#[actix::test]
async fn a_message_repeated_through_a_new_publisher_is_stored_once() {
    let stage = Stage::set().await;
    // Two commits with one subject wait for a third: the first of them is that of a publisher that died.
    let _busy = stage.send(None);
    stage.gated.commit_is_durable().await;
    let (first, other, again) = (stage.send(Some("x")), stage.send(None), stage.send(Some("x")));
    stage.gated.gate.add_permits(10);
    let published = |results: Results| {
        let published = results.into_iter().next().unwrap().unwrap();
        (published.sequence, published.duplicate)
    };
    assert_eq!(published(first.await.unwrap()), (2, false));
    assert_eq!(published(other.await.unwrap()), (3, false));
    assert_eq!(published(again.await.unwrap()), (2, true));
}
