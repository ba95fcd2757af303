//! A view shows rows as of one moment, whatever is written while it is read.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use minitoolstream::{
    Error,
    block::{PayloadKey, Placement, batch},
    consumer::{Patch, Session, Step, Want},
    store::{
        Ack, Archive, Committed, Group, NewConsumer, NewUpload, View,
        backup::{Head, Row},
        embedded::{self, Embedded},
        tarantool::TarantoolMetadata,
    },
    types::{ConsumerName, Draft, DurableName, MessageId, Subject, SubjectFilter, Timestamp, UploadId},
};
use minitoolstream_testkit::Tarantool;

/// Blocks of a subject at the beginning: together they are more than one page.
const BLOCKS: usize = 400;
const SUBJECTS: usize = 6;
const CONSUMER: &str = "workers";

fn subject(number: usize) -> Subject {
    Subject::parse("subject", &format!("s.{number}")).unwrap()
}

/// A store under test, and its present.
struct World {
    archive: Archive,
    now: Timestamp,
    random: fastrand::Rng,
    ids: u64,
}

impl World {
    async fn new(archive: Archive, seed: u64) -> Self {
        let mut world = Self { archive, now: Timestamp(100_000), random: fastrand::Rng::with_seed(seed), ids: 0 };
        let patch = Patch { filter: Some(SubjectFilter::parse("filter", "s.*").unwrap()), ..Patch::default() };
        let name = ConsumerName::parse("name", CONSUMER).unwrap();
        let (dead_letter_ttl, now) = (Duration::from_secs(60), world.now);
        let new = NewConsumer { name, is_durable: true, patch, dead_letter_ttl, consumers_max: 10, now };
        world.archive.metadata.create_consumer(new).await.unwrap();
        for _ in 0..BLOCKS {
            let drafts = (0..SUBJECTS).map(|number| world.draft(number)).collect();
            world.commit(drafts, vec![]).await;
        }
        for _ in 0..5 {
            world.change().await;
        }
        let (id, header) = (UploadId::parse("id", "under way").unwrap(), Bytes::new());
        let upload = NewUpload { id, header, now: world.now, deadline: Timestamp(u64::MAX / 4), uploads_max: 10 };
        world.archive.metadata.begin_upload(upload).await.unwrap();
        world
    }

    fn draft(&mut self, number: usize) -> Draft {
        self.ids += 1;
        let message_id = self.random.bool().then(|| MessageId::parse("id", &self.ids.to_string()).unwrap());
        let data = vec![self.random.u8(..); self.random.usize(..2000)];
        let later = |millis: u64| Timestamp(self.now.0 + millis);
        Draft {
            subject: subject(number),
            data: data.into(),
            headers: vec![],
            created: self.now,
            expires: self.random.bool().then(|| later(self.random.u64(1..50))),
            message_id,
            expected_last: None,
            deliver_at: (self.random.u8(..) < 40).then(|| later(self.random.u64(1..50))),
            upload: None,
            uploaded: None,
        }
    }

    async fn commit(&self, drafts: Vec<Draft>, steps: Vec<Arc<Step>>) {
        let blocks = batch::form(&drafts, &vec![false; drafts.len()]);
        let placements = blocks.iter().map(|block| Placement::Inline(block.body.clone())).collect();
        let durable = DurableName::parse("durable", "reader").unwrap();
        let acks = (0..SUBJECTS).map(|number| Ack { durable: durable.clone(), subject: subject(number), sequence: 1 });
        let (now, dedup_window) = (self.now, Duration::from_millis(30));
        let group = Group { blocks, placements, acks: acks.collect(), steps, now, dedup_window };
        let committed = self.archive.metadata.commit(group).await.unwrap();
        assert!(matches!(committed, Committed::Stored { .. }));
    }

    /// Changes rows of all kinds.
    async fn change(&mut self) {
        self.now.0 += 5;
        let metadata = self.archive.metadata.clone();
        let drafts = (0..self.random.usize(1..4)).map(|_| self.random.usize(..SUBJECTS)).collect::<Vec<_>>();
        let drafts = drafts.into_iter().map(|number| self.draft(number)).collect();
        let want = Want { messages: 3, bytes: u64::MAX, message_bytes: u64::MAX, first_bytes: u64::MAX };
        let close = self.random.bool();
        let consumer = ConsumerName::parse("name", CONSUMER).unwrap();
        let step = Step { consumer, session: Session(1), settles: vec![], want, close, now: self.now };
        self.commit(drafts, vec![Arc::new(step)]).await;
        metadata.expire(self.now, 5).await.unwrap();
        let purged = subject(self.random.usize(..SUBJECTS));
        let up_to = metadata.subject(&purged).await.unwrap().unwrap().floor + self.random.u64(..20);
        metadata.purge(&purged, up_to, 20, self.now).await.unwrap();
        metadata.deliver_due(self.now, 3).await.unwrap();
        metadata.forget_ids(self.now, 10).await.unwrap();
        let opened = metadata.open_payload(PayloadKey::Segment).await.unwrap();
        metadata.seal_payload(opened, self.now).await.unwrap();
    }

    /// Everything, without a change in between.
    async fn rows(&self) -> (Head, BTreeSet<Bytes>) {
        let mut view = self.archive.metadata.view().await.unwrap();
        let mut rows = BTreeSet::new();
        while read(&mut *view, &mut rows).await {}
        let head = view.head();
        view.close().await.unwrap();
        (head, rows)
    }
}

/// Reads a page; false if that was the end.
async fn read(view: &mut dyn View, rows: &mut BTreeSet<Bytes>) -> bool {
    let page = view.next().await.unwrap();
    for row in &page {
        let mut bytes = BytesMut::new();
        row.encode(&mut bytes);
        assert!(rows.insert(bytes.freeze()), "read twice: {row:?}");
    }
    !page.is_empty()
}

async fn shows_one_moment(archive: Archive, seed: u64) {
    eprintln!("seed {seed}");
    let mut world = World::new(archive, seed).await;
    for _ in 0..3 {
        let before = world.rows().await;
        let kinds: BTreeSet<u8> = before.1.iter().map(|row| row[0]).collect();
        assert!([1, 2, 3, 4, 6, 7, 8].iter().all(|kind| kinds.contains(kind)), "rows of all kinds: {kinds:?}");
        let mut view = world.archive.metadata.view().await.unwrap();
        let mut found = BTreeSet::new();
        let mut pages = 0;
        loop {
            for _ in 0..world.random.usize(..6) {
                world.change().await;
            }
            if !read(&mut *view, &mut found).await {
                break;
            }
            pages += 1;
        }
        assert!(pages >= 8, "changes came between pages: {pages}");
        assert_eq!(view.head(), before.0);
        let differs: Vec<_> = before.1.symmetric_difference(&found).map(|row| Row::decode(row.clone())).collect();
        assert!(
            differs.is_empty(),
            "{} of {} rows: {:?}",
            differs.len(),
            before.1.len(),
            &differs[..5.min(differs.len())]
        );
        assert_ne!(world.rows_meanwhile().await, before.1, "there was something to hide");
        view.close().await.unwrap();
    }
}

impl World {
    /// What a look at the stores shows while a view is open.
    async fn rows_meanwhile(&self) -> BTreeSet<Bytes> {
        let subjects = self.archive.metadata.subjects(&SubjectFilter::all(), "", 100).await.unwrap();
        let rows = subjects.into_iter().map(|row| {
            let mut bytes = BytesMut::new();
            Row::Subject(row).encode(&mut bytes);
            bytes.freeze()
        });
        rows.collect()
    }
}

async fn on_tarantool(server: &Tarantool) -> Archive {
    let metadata = TarantoolMetadata::connect(server.config()).await.unwrap();
    // Payload of no interest.
    let dir = tempfile::tempdir().unwrap();
    let files = Embedded::open(dir.path(), embedded::Limits::default()).await.unwrap();
    Archive { metadata: Arc::new(metadata), payload: files.archive.payload.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_tarantool_a_view_shows_one_moment() {
    let server = Tarantool::start(&[]);
    shows_one_moment(on_tarantool(&server).await, fastrand::u64(..)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_embedded_stores_a_view_shows_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = Embedded::open(dir.path(), embedded::Limits::default()).await.unwrap();
    shows_one_moment(embedded.archive.clone(), fastrand::u64(..)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_one_and_holds_payload() {
    let server = Tarantool::start(&[]);
    let archive = on_tarantool(&server).await;
    let dir = tempfile::tempdir().unwrap();
    let embedded = Embedded::open(dir.path(), embedded::Limits::default()).await.unwrap();
    for archive in [&archive, &embedded.archive] {
        assert!(!archive.metadata.is_held().await.unwrap());
        let view = archive.metadata.view().await.unwrap();
        assert!(archive.metadata.is_held().await.unwrap());
        view.keep().await.unwrap();
        view.close().await.unwrap();
        assert!(!archive.metadata.is_held().await.unwrap());
    }
    let mut first = archive.metadata.view().await.unwrap();
    let second = archive.metadata.view().await.map(drop);
    assert!(matches!(second, Err(Error::Precondition(_))), "{second:?}");
    assert!(first.next().await.unwrap().is_empty());
    first.close().await.unwrap();
    archive.metadata.view().await.unwrap();
}
