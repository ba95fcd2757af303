//! One look of a session at what there is to do.

use std::{
    collections::VecDeque,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use minitoolstream_proto::ConsumeResponse;

use super::{
    inbox::{Answers, refusal, runs},
    page::{Page, Source},
    session::{Session, lock},
};
use crate::{
    broker::read::PAGE_BYTES,
    consumer::{
        self, How, Run, Settle, Step, Stepped, Want,
        window::{Held, Window},
    },
    error::{Error, Result},
    grpc::fetch::PAGE_MESSAGES,
    types::Timestamp,
};

/// How long acks wait for company.
const GATHER: Duration = Duration::from_millis(2);

/// Answers of one step.
const ANSWERS_MAX: usize = 4096;

/// What only the look under way touches.
pub(super) struct Work {
    window: Window,
    /// Leased, and not sent yet.
    ready: VecDeque<Run>,
    backlog: u64,
    /// Room in bytes without which nothing more is leased: what did not fit would be leased and released for ever.
    needs: u64,
    /// Answers of the broker's own.
    settles: Vec<Settle>,
    /// What the client is to be told of its answers.
    told: ConsumeResponse,
    is_drain_told: bool,
}

/// What a look came to.
pub(super) enum Look {
    /// Go on; `true`: at once.
    Go(bool),
    /// Nothing is left to do, and nothing will come.
    End,
}

impl Session {
    /// One look: carries out answers, leases what the worker takes, and sends it.
    pub(super) async fn step(&self, work: &mut Work) -> Result<Look> {
        if self.is_deleted.load(Ordering::Acquire) {
            return Err(Error::NotFound(format!("consumer '{}' was deleted", self.consumer)));
        }
        let now = self.broker.clock.now();
        // Read first: the last frame was received before it was set.
        let is_finished = self.is_finished.load(Ordering::Acquire);
        let is_draining = self.is_draining.load(Ordering::Acquire);
        if !is_finished && !is_draining && self.may_gather(work, now) {
            return Ok(Look::Go(false));
        }
        let (had_room, mut answers) = {
            let mut inbox = self.lock_inbox();
            (inbox.has_room(), inbox.take(&mut work.window, ANSWERS_MAX))
        };
        if !had_room {
            self.replan.notify_one();
        }
        work.told.refused.append(&mut answers.refused);
        let has_room = self.outlet.has_room();
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
            Some(_) if work.ready.is_empty() && work.window.takes(work.needs) => work.want(self.message_bytes),
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

    /// True if there is nothing to do but a few acks that came just now. They wait a moment: while messages trickle in,
    /// they go along with the next lease, which saves every second commit of a worker that keeps up.
    fn may_gather(&self, work: &Work, now: Timestamp) -> bool {
        if self.is_hungry.load(Ordering::Acquire) || work.has_news() || !work.settles.is_empty() {
            return false;
        }
        let Some(since) = self.lock_inbox().acks_since() else { return false };
        let until = since.after(GATHER);
        if now >= until {
            return false;
        }
        self.look_at(until);
        true
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
        let Page { mut frames, permit, settles, failed, needs, .. } = page;
        let mut more = !settles.is_empty() || !work.ready.is_empty();
        if needs > 0 || frames.iter().any(|frame| !frame.deliveries.is_empty()) {
            work.needs = needs;
        }
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
}

impl Work {
    pub(super) fn new(id: consumer::Session) -> Self {
        Self {
            window: Window::new(id.0),
            ready: VecDeque::new(),
            backlog: 0,
            needs: 0,
            settles: Vec::new(),
            told: ConsumeResponse::default(),
            is_drain_told: false,
        }
    }

    /// What a lease stands for, while it is out.
    pub(super) fn held(&self, lease: u64) -> Option<Held> {
        self.window.get(lease)
    }

    fn want(&self, message_bytes: usize) -> Want {
        Want {
            messages: self.window.messages_left().min(PAGE_MESSAGES),
            bytes: self.window.bytes_left().clamp(1, PAGE_BYTES as u64),
            message_bytes: message_bytes as u64,
            first_bytes: self.window.largest(),
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
