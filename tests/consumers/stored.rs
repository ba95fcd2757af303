//! Real stores: what they keep of a consumer are rows.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use minitoolstream::{
    Result,
    block::{Placement, batch, letter},
    consumer::{Patch, Session, Settings, Start, Step, Stepped},
    store::{
        Committed, ConsumerChange, Group, MetadataStore, Move, NewConsumer, Stores, embedded, reader,
        tarantool::TarantoolMetadata,
    },
    types::{Draft, Headers, Subject, Timestamp},
};
use minitoolstream_testkit::Tarantool;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{
    backend::{Backend, Found, View},
    operations::LETTERS,
    pair::name,
};

/// Stores, and how they come to be and to their end.
pub(crate) trait Home: Sized {
    /// Empty stores.
    async fn start() -> Self;

    /// The stores as they are now.
    fn stores(&self) -> &Stores;

    /// The stores of the broker that has a worker.
    fn of(&self, session: Session) -> &Stores {
        let _ = session;
        self.stores()
    }

    /// Ends the broker that has the stores, and begins another.
    async fn crash(&mut self);
}

/// The embedded stores, in a directory of their own.
pub(crate) struct InDir {
    // Dropped in this order.
    open: Option<embedded::Embedded>,
    dir: TempDir,
}

impl Home for InDir {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let open = Some(embedded::Embedded::open(dir.path(), embedded::Limits::default()).await.unwrap());
        Self { open, dir }
    }

    fn stores(&self) -> &Stores {
        &self.open.as_ref().unwrap().stores
    }

    async fn crash(&mut self) {
        self.open = None;
        self.open = Some(embedded::Embedded::open(self.dir.path(), embedded::Limits::default()).await.unwrap());
    }
}

/// Metadata in Tarantool, one server for all sequences of a test, and two brokers that share the workers. There is no
/// payload but what is in the rows.
pub(crate) struct InTarantool {
    brokers: [TarantoolMetadata; 2],
    stores: [Stores; 2],
    files: InDir,
}

fn server() -> &'static Tarantool {
    static SERVER: OnceLock<Tarantool> = OnceLock::new();
    // It ends with this process.
    SERVER.get_or_init(|| Tarantool::start(&[]))
}

impl InTarantool {
    async fn connect(files: &InDir) -> ([TarantoolMetadata; 2], [Stores; 2]) {
        let connect = || async { TarantoolMetadata::connect(server().config()).await.unwrap() };
        let brokers = [connect().await, connect().await];
        let stores = brokers
            .clone()
            .map(|broker| Stores { metadata: Arc::new(broker), payload: files.stores().payload.clone() });
        (brokers, stores)
    }
}

impl Home for InTarantool {
    async fn start() -> Self {
        server().reset().await;
        let files = InDir::start().await;
        let (brokers, stores) = Self::connect(&files).await;
        Self { brokers, stores, files }
    }

    fn stores(&self) -> &Stores {
        &self.stores[0]
    }

    fn of(&self, session: Session) -> &Stores {
        &self.stores[usize::try_from(session.0 % 2).unwrap()]
    }

    /// Both end. The others learn of it at once: the wait for the silence is a test of its own.
    async fn crash(&mut self) {
        for broker in &self.brokers {
            broker.leave().await.unwrap();
        }
        (self.brokers, self.stores) = Self::connect(&self.files).await;
    }
}

/// One consumer in a store.
pub(crate) struct Stored<H> {
    // Dropped in this order.
    home: H,
    runtime: Runtime,
}

const DATA: &str = "data";

impl<H: Home> Stored<H> {
    fn stores(&self) -> &Stores {
        self.home.stores()
    }

    fn metadata(&self) -> &dyn MetadataStore {
        &*self.stores().metadata
    }

    fn commit(&self, group: Group) -> Result<(Vec<u64>, Vec<Result<Stepped>>)> {
        self.commit_at(self.stores(), group)
    }

    fn commit_at(&self, stores: &Stores, group: Group) -> Result<(Vec<u64>, Vec<Result<Stepped>>)> {
        match self.runtime.block_on(stores.metadata.commit(group))? {
            Committed::Stored { firsts, steps, .. } => Ok((firsts, steps)),
            Committed::Refused(refused) => panic!("refused: {refused:?}"),
        }
    }

    fn change(&self, change: ConsumerChange) {
        self.runtime.block_on(self.metadata().change_consumer(&name(), change)).unwrap();
    }
}

fn draft(subject: &Subject, now: Timestamp, expires: Option<Timestamp>) -> Draft {
    Draft {
        subject: subject.clone(),
        data: Bytes::from_static(DATA.as_bytes()),
        headers: vec![("kind".into(), "test".into())],
        created: now,
        expires,
        message_id: None,
        expected_last: None,
        deliver_at: None,
        upload: None,
        uploaded: None,
    }
}

fn header(headers: &Headers, name: &str) -> String {
    headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).unwrap_or_default()
}

fn found(stored: &reader::Stored) -> Found {
    let headers = &stored.record.headers;
    assert_eq!(header(headers, letter::CONSUMER), "c");
    let reason = header(headers, letter::REASON);
    // What cannot be read is reported without its bytes.
    let (data, kind) = if reason == "data-loss" { ("", "") } else { (DATA, "test") };
    assert_eq!((&*stored.record.data, &*header(headers, "kind")), (data.as_bytes(), kind));
    Found {
        sequence: stored.sequence,
        original_subject: header(headers, letter::ORIGINAL_SUBJECT),
        original_sequence: header(headers, letter::ORIGINAL_SEQUENCE).parse().unwrap(),
        reason,
        detail: header(headers, letter::DETAIL),
        attempts: header(headers, letter::ATTEMPTS).parse().unwrap(),
    }
}

impl<H: Home> Backend for Stored<H> {
    fn start(settings: &Settings, _chunk: usize, now: Timestamp) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let home = runtime.block_on(H::start());
        let store = Self { home, runtime };
        let patch = Patch {
            filter: Some(settings.filter.clone()),
            start: Some(settings.start),
            ack_wait: Some(settings.ack_wait),
            max_deliver: Some(settings.max_deliver),
            max_ack_pending: Some(settings.max_ack_pending),
            back_off: Some(settings.back_off.clone()),
            dead_letters: None,
            dead_letter_ttl: None,
        };
        let dead_letter_ttl = settings.dead_letter_ttl;
        let new = NewConsumer { name: name(), is_durable: true, patch, dead_letter_ttl, consumers_max: 1, now };
        let view = store.runtime.block_on(store.metadata().create_consumer(new)).unwrap();
        assert_eq!(view.settings, *settings);
        store
    }

    fn publish(&mut self, subject: &Subject, expires: &[Option<Timestamp>], now: Timestamp) -> u64 {
        let drafts: Vec<_> = expires.iter().map(|expires| draft(subject, now, *expires)).collect();
        let blocks = batch::form(&drafts, &vec![false; drafts.len()]);
        let placements = blocks.iter().map(|block| Placement::Inline(block.body.clone())).collect();
        let (firsts, _) = self.commit(Group { blocks, placements, now, ..Group::default() }).unwrap();
        firsts[0]
    }

    fn message_bytes(&self) -> u64 {
        let subject = Subject::parse("subject", "a").unwrap();
        batch::form(&[draft(&subject, Timestamp(0), None)], &[false])[0].body.len() as u64
    }

    fn step(&mut self, step: Step) -> Result<Stepped> {
        let (now, session) = (step.now, step.session);
        let (_, mut steps) =
            self.commit_at(self.home.of(session), Group { steps: vec![Arc::new(step)], now, ..Group::default() })?;
        steps.remove(0)
    }

    fn purge(&mut self, subject: &Subject, up_to: u64, now: Timestamp) -> u64 {
        let purged = self.runtime.block_on(self.metadata().purge(subject, up_to, usize::MAX, now)).unwrap();
        assert!(purged.done);
        purged.messages
    }

    fn expire(&mut self, now: Timestamp) -> u64 {
        self.runtime.block_on(self.metadata().expire(now, usize::MAX)).unwrap().messages
    }

    fn pause(&mut self, paused: bool) {
        self.change(ConsumerChange::Pause(paused));
    }

    fn update(&mut self, patch: Patch) {
        self.change(ConsumerChange::Update(patch));
    }

    fn reset(&mut self, start: Option<Start>) {
        self.change(ConsumerChange::Reset(start));
    }

    fn redrive(&mut self, letter: u64, _is_lost: bool, to: &Subject, now: Timestamp) -> Option<u64> {
        let from = Subject::parse("subject", LETTERS).unwrap();
        let message = Move { from, sequence: letter, to: to.clone(), expires: None };
        self.runtime.block_on(self.metadata().move_message(message, now)).unwrap()
    }

    fn crash(&mut self) {
        self.runtime.block_on(self.home.crash());
    }

    fn view(&mut self) -> View {
        let view = self.runtime.block_on(self.metadata().consumer(&name())).unwrap().unwrap();
        View {
            paused: view.paused,
            cursor: view.cursor,
            ack_floor: view.ack_floor,
            sequences: view.sequences,
            counts: view.counts,
            lag: view.lag,
        }
    }

    fn letters(&mut self, now: Timestamp) -> Option<Vec<Found>> {
        let subject = Subject::parse("subject", LETTERS).unwrap();
        let (mut letters, mut from) = (Vec::new(), 1);
        loop {
            let page = self.runtime.block_on(reader::read(self.stores(), &subject, from, 100, now)).unwrap();
            assert_eq!(page.damage, None);
            letters.extend(page.messages.iter().map(found));
            from = page.next;
            if page.is_end {
                return Some(letters);
            }
        }
    }
}
