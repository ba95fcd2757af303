//! A storage actor that dies over a commit which is durable already.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
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
    block::{INLINE_MAX, Placement, batch},
    metrics::Metrics,
    store::{Group, reader},
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
        self.send_data(0, id, "x".into())
    }

    /// The same, of so many bytes.
    fn send_large(&self, sender: usize, len: usize) -> oneshot::Receiver<Results> {
        self.send_data(sender, None, vec![u8::try_from(sender).unwrap(); len].into())
    }

    fn draft(&self, sender: usize, id: Option<&str>, data: Bytes) -> Draft {
        Draft {
            subject: Subject::parse("subject", ["a", "b", "c"][sender]).unwrap(),
            data,
            headers: vec![],
            created: SystemClock::new().now(),
            expires: None,
            message_id: id.map(|id| MessageId::parse("message_id", id).unwrap()),
            expected_last: None,
            deliver_at: None,
            upload: None,
            uploaded: None,
        }
    }

    fn send_data(&self, sender: usize, id: Option<&str>, data: Bytes) -> oneshot::Receiver<Results> {
        let drafts = vec![self.draft(sender, id, data)];
        let blocks = batch::form(&drafts, &[false]);
        let (reply, results) = oneshot::channel();
        let ticket = Ticket { request: RequestId::next(), drafts: 1, reply, permit: Permit::default() };
        let commit = Commit { sender, drafts, blocks, tickets: Parcel::new(vec![ticket]), done: oneshot::channel().0 };
        self.storage.tell(commit).unwrap();
        results
    }

    /// Every message that is stored can be read.
    async fn all_are_readable(&self) {
        for name in ["a", "b", "c"] {
            let subject = Subject::parse("subject", name).unwrap();
            let (mut from, mut is_end) = (1, false);
            while !is_end {
                let now = SystemClock::new().now();
                let page = reader::read(&self.gated.stores, &subject, from, 1000, now).await.unwrap();
                assert!(page.damage.is_none() && (page.is_end || page.next > from), "{name}: {:?}", page.damage);
                for object in page.messages.iter().filter_map(|message| message.object.as_ref()) {
                    object.read_all(&self.gated.stores).await.unwrap();
                }
                (from, is_end) = (page.next, page.is_end);
            }
        }
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

/// Data that goes into a segment, and into an object.
const SLICE: usize = 100 << 10;
const OBJECT: usize = (1 << 20) + 1;

/// The storage fails while a transaction is under way; slices and objects come meanwhile, and all are stored.
async fn fails_with_payload_on_its_way(fault: Fault) {
    let stage = Stage::set().await;
    // A segment that is open, and a transaction that has not ended.
    let _lost = stage.send_large(0, SLICE);
    stage.gated.commit_is_durable().await;
    let cause = if matches!(fault, Fault::Panic) { "panic" } else { "hang" };
    stage.storage.tell(fault).unwrap();
    let series = format!(r#"{{actor="storage",cause="{cause}"}} 1"#);
    until("the failure is seen", || stage.metrics.render().contains(&series)).await;
    stage.storage_is_up().await;
    let mut sent: Vec<_> = [(0, SLICE), (1, SLICE), (2, OBJECT), (1, 10)]
        .into_iter()
        .map(|(sender, len)| stage.send_large(sender, len))
        .collect();
    // Time for the successor to place them, if it does not wait for what its predecessor left.
    tokio::time::sleep(Duration::from_millis(200)).await;
    stage.gated.gate.add_permits(1000);
    sent.extend([(0, SLICE), (1, SLICE), (2, SLICE), (0, OBJECT)].map(|(sender, len)| stage.send_large(sender, len)));
    for results in sent {
        let results = tokio::time::timeout(Duration::from_secs(20), results).await.expect("it is answered").unwrap();
        assert!(results[0].is_ok(), "after a {cause}: {:?}", results[0]);
    }
    stage.all_are_readable().await;
}

#[actix::test]
async fn p1_p3_a_storage_that_panics_keeps_the_segment_of_its_successor() {
    fails_with_payload_on_its_way(Fault::Panic).await;
}

#[actix::test]
async fn p1_p3_a_storage_that_hangs_keeps_the_segment_of_its_successor() {
    fails_with_payload_on_its_way(Fault::Hang(Duration::from_secs(4))).await;
}

#[actix::test]
async fn p2_a_duplicate_that_is_acknowledged_raises_the_head() {
    let stage = Stage::set().await;
    stage.gated.gate.add_permits(10);
    // Stored by a commit whose end nothing in this process has seen.
    let drafts = vec![stage.draft(0, Some("x"), "x".into())];
    let blocks = batch::form(&drafts, &[false]);
    let placements = vec![Placement::Inline(blocks[0].body.clone())];
    let now = SystemClock::new().now();
    let group = Group { blocks, placements, now, dedup_window: Duration::from_secs(60), ..Group::default() };
    stage.gated.stores.metadata.commit(group).await.unwrap();
    let mut head = stage.heads.watch(&subject());
    let published = stage.send(Some("x")).await.unwrap()[0].clone().unwrap();
    assert_eq!((published.sequence, published.duplicate), (1, true));
    tokio::time::timeout(Duration::from_secs(5), head.changed()).await.expect("the head is raised").unwrap();
    assert_eq!(*head.borrow(), 1);
}
