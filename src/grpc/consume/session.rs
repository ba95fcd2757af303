use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use minitoolstream_proto::{ConsumeRequest, ConsumeResponse};
use tokio::sync::{Notify, oneshot, watch};

use super::{
    inbox::Inbox,
    look::{Look, Work},
};
use crate::{
    actors::{
        rings::Ring,
        storage::TakeStep,
        subscriber::{Feed, Progress},
    },
    admission::Permit,
    broker::Broker,
    broker::read::Lessor,
    consumer::{self, Step, Stepped, Want},
    error::{Error, Result},
    grpc::{draining::Draining, outlet::Outlet, status::status},
    types::{ConsumerName, Timestamp},
};

/// How long a look waits for an earlier one, of an actor that was given up.
const TURN: Duration = Duration::from_secs(5);

/// Pause after a store that did not answer, and between two tries for room in memory.
const PAUSE: Duration = Duration::from_millis(50);

/// One worker's stream; outlives the incarnations of its actor.
pub(super) struct Session {
    pub(super) broker: Broker,
    pub(super) id: consumer::Session,
    pub(super) consumer: ConsumerName,
    /// The largest data the client takes in one message.
    pub(super) message_bytes: usize,
    pub(super) outlet: Outlet<ConsumeResponse>,
    pub(super) draining: Draining,
    /// Counts news.
    pub(super) news: watch::Sender<u64>,
    pub(super) inbox: Mutex<Inbox>,
    /// Wakes whoever attends to the stream, when what it waits for has changed.
    pub(super) replan: Notify,
    /// How often the consumer has rung.
    pub(super) rung: AtomicU64,
    /// When something will be due, in milliseconds since 1970.
    pub(super) due: AtomicU64,
    /// There may be something to deliver.
    pub(super) is_hungry: AtomicBool,
    /// A page waits for room in the outlet.
    pub(super) waits_for_room: AtomicBool,
    pub(super) wants_beat: AtomicBool,
    pub(super) is_deleted: AtomicBool,
    pub(super) is_draining: AtomicBool,
    pub(super) is_finished: AtomicBool,
    pub(super) last_sent: Mutex<Instant>,
    pub(super) work: tokio::sync::Mutex<Work>,
}

impl Session {
    pub(super) fn new(
        broker: Broker,
        id: consumer::Session,
        consumer: ConsumerName,
        message_bytes: usize,
        outlet: Outlet<ConsumeResponse>,
        draining: Draining,
        rung: u64,
    ) -> Self {
        Self {
            broker,
            id,
            consumer,
            message_bytes,
            outlet,
            draining,
            news: watch::channel(0).0,
            inbox: Mutex::default(),
            replan: Notify::new(),
            rung: AtomicU64::new(rung),
            due: AtomicU64::new(u64::MAX),
            is_hungry: AtomicBool::new(true),
            waits_for_room: AtomicBool::new(false),
            wants_beat: AtomicBool::new(false),
            is_deleted: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            is_finished: AtomicBool::new(false),
            last_sent: Mutex::new(Instant::now()),
            work: tokio::sync::Mutex::new(Work::new(id)),
        }
    }

    pub(super) fn broker(&self) -> &Broker {
        &self.broker
    }

    pub(super) fn draining(&self) -> &Draining {
        &self.draining
    }

    pub(super) fn consumer(&self) -> &ConsumerName {
        &self.consumer
    }

    /// Changes with every piece of news.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// The client said something.
    pub(super) fn receive(&self, frame: ConsumeRequest, permit: Permit) {
        self.lock_inbox().push(self.broker.clock.now(), frame, permit);
        self.tell();
    }

    /// True if frames of the client may be read.
    pub(super) fn has_room(&self) -> bool {
        self.lock_inbox().has_room()
    }

    /// Completes when [`due`](Self::due), [`has_room`](Self::has_room) or [`waits_for_room`](Self::waits_for_room) may
    /// have changed.
    pub(super) async fn replanned(&self) {
        self.replan.notified().await;
    }

    /// There may be something to deliver.
    pub(super) fn look(&self) {
        self.is_hungry.store(true, Ordering::Release);
        self.tell();
    }

    /// The consumer was changed, or has something, now or later.
    pub(super) fn ring(&self, ring: Ring) {
        self.look_at(ring.due);
        self.is_deleted.fetch_or(ring.is_over, Ordering::AcqRel);
        // What is only due some day needs no look now: most leases end long before.
        if self.rung.swap(ring.count, Ordering::AcqRel) != ring.count || ring.is_over {
            self.look();
        }
    }

    /// When something will be due.
    pub(super) fn due(&self) -> Timestamp {
        Timestamp(self.due.load(Ordering::Acquire))
    }

    pub(super) fn look_if_due(&self) {
        if self.due() <= self.broker.clock.now() {
            self.due.store(u64::MAX, Ordering::Release);
            self.look();
        }
    }

    pub(super) fn waits_for_room(&self) -> bool {
        self.waits_for_room.load(Ordering::Acquire)
    }

    pub(super) fn room(&self) {
        self.waits_for_room.store(false, Ordering::Release);
        self.tell();
    }

    /// The client asks nothing more.
    pub(super) fn finish(&self) {
        self.is_finished.store(true, Ordering::Release);
        self.tell();
    }

    pub(super) fn drain(&self) {
        self.is_draining.store(true, Ordering::Release);
        self.tell();
    }

    /// Asks for an empty frame after so much silence.
    pub(super) fn beat(&self, silence: Duration) {
        if lock(&self.last_sent).elapsed() >= silence {
            self.wants_beat.store(true, Ordering::Release);
            self.tell();
        }
    }

    /// Gives what the worker had to others.
    pub(super) async fn close(&self) -> Result<()> {
        let step = Step {
            consumer: self.consumer.clone(),
            session: self.id,
            settles: Vec::new(),
            want: Want::default(),
            close: true,
            now: self.broker.clock.now(),
        };
        self.take(step).await.map(drop)
    }

    /// Has a step carried out.
    pub(super) async fn take(&self, step: Step) -> Result<Stepped> {
        let (reply, answer) = oneshot::channel();
        let delivered = self.broker.storage.tell(TakeStep { step: Arc::new(step), reply })?;
        delivered.answer(answer).await.unwrap_or_else(|| Err(Error::outcome_unknown()))
    }

    /// Looks again after a while.
    pub(super) fn pause(&self) {
        self.look_at(self.broker.clock.now().after(PAUSE));
    }

    pub(super) fn look_at(&self, due: Timestamp) {
        if self.due.fetch_min(due.0, Ordering::AcqRel) > due.0 {
            self.replan.notify_one();
        }
    }

    fn tell(&self) {
        self.news.send_modify(|news| *news += 1);
    }

    pub(super) fn lock_inbox(&self) -> MutexGuard<'_, Inbox> {
        lock(&self.inbox)
    }
}

#[async_trait]
impl Lessor for Session {
    async fn leased(&self, lease: u64) -> Option<u64> {
        let held = self.work.lock().await.held(lease)?;
        (held.deadline > self.broker.clock.now()).then_some(held.at)
    }
}

#[async_trait]
impl Feed for Session {
    async fn advance(&self) -> Option<Progress> {
        let seen = *self.news.borrow();
        let look = match tokio::time::timeout(TURN, self.work.lock()).await {
            Ok(mut work) => self.step(&mut work).await,
            Err(_) => Err(Error::unavailable("an earlier step of this stream hangs: open another")),
        };
        match look {
            Ok(Look::Go(more)) => Some(Progress { seen, more }),
            Ok(Look::End) => {
                let is_draining = self.is_draining.load(Ordering::Acquire);
                self.outlet.end(is_draining.then(|| status(&self.draining.reason())));
                None
            }
            Err(error) => {
                // What was leased in a step whose outcome is unknown is not known here: the stream ends, and all its
                // leases with it.
                self.outlet.end(Some(status(&error)));
                None
            }
        }
    }
}

pub(super) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
