use std::{
    collections::VecDeque,
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
    inbox::{Answers, Inbox, refusal, runs},
    page::{Page, Source},
};
use crate::{
    actors::{
        rings::Ring,
        storage::TakeStep,
        subscriber::{Feed, Progress},
    },
    admission::Permit,
    consumer::{self, How, Run, Settle, Step, Stepped, Want, window::Window},
    error::{Error, Result},
    grpc::{
        Broker,
        fetch::{PAGE_BYTES, PAGE_MESSAGES},
        outlet::Outlet,
        status::status,
    },
    types::{ConsumerName, Timestamp},
};

/// Answers of one step.
const ANSWERS_MAX: usize = 4096;

/// How long a look waits for an earlier one, of an actor that was given up.
const TURN: Duration = Duration::from_secs(5);

/// Pause after a store that did not answer, and between two tries for room in memory.
const PAUSE: Duration = Duration::from_millis(50);

/// One worker's stream; outlives the incarnations of its actor.
pub(super) struct Session {
    broker: Broker,
    id: consumer::Session,
    consumer: ConsumerName,
    /// The largest data the client takes in one message.
    message_bytes: usize,
    outlet: Outlet<ConsumeResponse>,
    /// Counts news.
    news: watch::Sender<u64>,
    inbox: Mutex<Inbox>,
    /// Wakes whoever attends to the stream, when what it waits for has changed.
    replan: Notify,
    /// When something will be due, in milliseconds since 1970.
    due: AtomicU64,
    /// There may be something to deliver.
    is_hungry: AtomicBool,
    /// A page waits for room in the outlet.
    waits_for_room: AtomicBool,
    wants_beat: AtomicBool,
    is_deleted: AtomicBool,
    is_draining: AtomicBool,
    is_finished: AtomicBool,
    last_sent: Mutex<Instant>,
    work: tokio::sync::Mutex<Work>,
}

/// What only the look under way touches.
struct Work {
    window: Window,
    /// Leased, and not sent yet.
    ready: VecDeque<Run>,
    backlog: u64,
    /// Answers of the broker's own.
    settles: Vec<Settle>,
    /// What the client is to be told of its answers.
    told: ConsumeResponse,
    is_drain_told: bool,
}

impl Session {
    pub(super) fn new(
        broker: Broker,
        id: consumer::Session,
        consumer: ConsumerName,
        message_bytes: usize,
        outlet: Outlet<ConsumeResponse>,
    ) -> Self {
        let work = Work {
            window: Window::new(id.0),
            ready: VecDeque::new(),
            backlog: 0,
            settles: Vec::new(),
            told: ConsumeResponse::default(),
            is_drain_told: false,
        };
        Self {
            broker,
            id,
            consumer,
            message_bytes,
            outlet,
            news: watch::channel(0).0,
            inbox: Mutex::default(),
            replan: Notify::new(),
            due: AtomicU64::new(u64::MAX),
            is_hungry: AtomicBool::new(true),
            waits_for_room: AtomicBool::new(false),
            wants_beat: AtomicBool::new(false),
            is_deleted: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            is_finished: AtomicBool::new(false),
            last_sent: Mutex::new(Instant::now()),
            work: tokio::sync::Mutex::new(work),
        }
    }

    pub(super) fn broker(&self) -> &Broker {
        &self.broker
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
        self.look();
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

    async fn take(&self, step: Step) -> Result<Stepped> {
        let (reply, answer) = oneshot::channel();
        let delivered = self.broker.storage.tell(TakeStep { step: Arc::new(step), reply })?;
        delivered.answer(answer).await.unwrap_or_else(|| Err(Error::outcome_unknown()))
    }

    /// One look: carries out answers, leases what the worker takes, and sends it.
    async fn step(&self, work: &mut Work) -> Result<Look> {
        if self.is_deleted.load(Ordering::Acquire) {
            return Err(Error::NotFound(format!("consumer '{}' was deleted", self.consumer)));
        }
        let now = self.broker.clock.now();
        // Read first: the last frame was received before it was set.
        let is_finished = self.is_finished.load(Ordering::Acquire);
        let mut answers = self.lock_inbox().take(&mut work.window, ANSWERS_MAX);
        self.replan.notify_one();
        work.told.refused.append(&mut answers.refused);
        let has_room = self.outlet.has_room();
        let is_draining = self.is_draining.load(Ordering::Acquire);
        if is_draining && !work.ready.is_empty() {
            work.release_ready(now);
        }
        let mut permit = None;
        if has_room && !is_draining && (self.is_hungry.load(Ordering::Acquire) || !work.ready.is_empty()) {
            permit = self.broker.admission.try_read(PAGE_BYTES);
            if permit.is_none() {
                self.pause();
            }
        }
        let want = match permit {
            Some(_) if work.ready.is_empty() && work.window.takes(0) => work.want(self.message_bytes),
            _ => Want::default(),
        };
        let mut more = !self.lock_inbox().is_empty();
        if !want.is_nothing() || !answers.settles.is_empty() || !work.settles.is_empty() {
            if !want.is_nothing() {
                self.is_hungry.store(false, Ordering::Release);
            }
            let own = std::mem::take(&mut work.settles);
            let own_count = own.len();
            let settles = own.into_iter().chain(std::mem::take(&mut answers.settles)).collect();
            let step = Step { consumer: self.consumer.clone(), session: self.id, settles, want, close: false, now };
            let stepped = self.take(step).await?;
            more |= self.learn(work, &answers, stepped, own_count, want, now);
        }
        for lease in work.window.overdue(now) {
            work.window.end(lease);
        }
        if has_room {
            let page = match permit {
                Some(permit) => {
                    let source = Source {
                        broker: &self.broker,
                        message_bytes: self.message_bytes,
                        now: self.broker.clock.now(),
                        backlog: work.backlog,
                    };
                    source.page(&mut work.ready, &mut work.window, permit).await
                }
                None => Page::default(),
            };
            more |= self.hand_over(work, page, is_draining);
        } else if work.has_news() || self.is_hungry.load(Ordering::Acquire) {
            self.waits_for_room.store(true, Ordering::Release);
            self.replan.notify_one();
        }
        let is_idle = work.settles.is_empty() && !work.has_news() && !more;
        let is_drained = is_draining && work.window.count() == 0;
        let ends = is_idle && (is_drained || is_finished);
        Ok(if ends { Look::End } else { Look::Go(more) })
    }

    /// Takes in what came of a step; gives `true` if another should follow at once.
    fn learn(
        &self,
        work: &mut Work,
        answers: &Answers,
        stepped: Stepped,
        own_count: usize,
        want: Want,
        now: Timestamp,
    ) -> bool {
        let Stepped { settled, runs: got, backlog, more, next_due, letters, ack_wait, .. } = stepped;
        let (mut done, mut extended) = (Vec::with_capacity(answers.leases.len()), Vec::new());
        for (lease, result) in answers.leases.iter().zip(settled.into_iter().skip(own_count)) {
            match result {
                Ok(()) if work.window.get(*lease).is_some() => extended.push(*lease),
                Ok(()) => done.push(*lease),
                Err(error) => {
                    work.window.end(*lease);
                    work.told.refused.push(refusal(*lease, &error));
                }
            }
        }
        for lease in &extended {
            work.window.extend(*lease, now.after(ack_wait));
        }
        work.told.extended.extend(runs(extended));
        work.told.settled.extend(runs(done));
        self.broker.metrics.dead_letters(letters.len() as u64);
        if let Some(due) = next_due {
            self.look_at(due);
        }
        let got_some = !got.is_empty();
        work.ready.extend(got);
        if !want.is_nothing() {
            work.backlog = backlog;
            if more {
                self.is_hungry.store(true, Ordering::Release);
            }
        }
        more && got_some
    }

    /// Puts a page into the outlet; gives `true` if another look should follow at once.
    fn hand_over(&self, work: &mut Work, page: Page, is_draining: bool) -> bool {
        let Page { mut frames, permit, settles, failed, .. } = page;
        let mut more = !settles.is_empty() || !work.ready.is_empty();
        work.settles.extend(settles);
        if let Some(error) = failed {
            tracing::warn!(consumer = %self.consumer, %error, "messages could not be read, and will be tried again");
            more = false;
            self.pause();
        }
        let mut told = std::mem::take(&mut work.told);
        if is_draining && !work.is_drain_told {
            told.draining = true;
            work.is_drain_told = true;
        }
        if told != ConsumeResponse::default() {
            match frames.first_mut() {
                Some(first) => {
                    first.settled = told.settled;
                    first.extended = told.extended;
                    first.refused = told.refused;
                    first.draining = told.draining;
                }
                None => frames.push(told),
            }
        }
        if self.wants_beat.swap(false, Ordering::AcqRel) && frames.is_empty() {
            frames.push(ConsumeResponse::default());
        }
        if !frames.is_empty() {
            *lock(&self.last_sent) = Instant::now();
            // Whoever is gone misses nothing.
            let _ = self.outlet.push(frames, permit);
        }
        more
    }

    /// Looks again after a while.
    fn pause(&self) {
        self.look_at(self.broker.clock.now().after(PAUSE));
    }

    fn look_at(&self, due: Timestamp) {
        if self.due.fetch_min(due.0, Ordering::AcqRel) > due.0 {
            self.replan.notify_one();
        }
    }

    fn tell(&self) {
        self.news.send_modify(|news| *news += 1);
    }

    fn lock_inbox(&self) -> MutexGuard<'_, Inbox> {
        lock(&self.inbox)
    }
}

/// What a look came to.
enum Look {
    /// Go on; `true`: at once.
    Go(bool),
    /// Nothing is left to do, and nothing will come.
    End,
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
                self.outlet.end(is_draining.then(|| status(&Error::draining())));
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

impl Work {
    fn want(&self, message_bytes: usize) -> Want {
        Want {
            messages: self.window.messages_left().min(PAGE_MESSAGES),
            bytes: self.window.bytes_left().clamp(1, PAGE_BYTES as u64),
            message_bytes: message_bytes as u64,
            is_idle: self.window.count() == 0,
        }
    }

    fn has_news(&self) -> bool {
        !self.ready.is_empty() || self.told != ConsumeResponse::default()
    }

    fn release_ready(&mut self, now: Timestamp) {
        let release =
            |given: consumer::Given| Settle { at: given.at, attempt: given.attempt, received: now, how: How::Release };
        self.settles.extend(self.ready.drain(..).flat_map(|run| run.given).map(release));
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
