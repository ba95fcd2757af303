//! The books of one stream: which messages wait to be handled, which are out, and what is to be said about them.
//!
//! ```text
//! arrive ─▶ Waiting ─▶ Out ─▶ Answered ─▶ Gone: settled or refused
//!              │        └───▶ Lost ─────▶ Gone: refused before it was answered
//!              └─▶ Released ────────────▶ Gone
//! ```
//! Ids of a stream are consecutive, so a lease is a position in a queue. A message that takes long would make the queue
//! grow with everything that passes it: leases left behind move to a map.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use minitoolstream_proto::{Delivery, LeaseRefused, LeaseRun};

use crate::{
    Error, Result,
    answers::{Answer, Answers},
    lease::{Asker, Slot, State},
};

/// What holds for all leases of a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) ack_wait: Duration,
    /// How long leases are extended; not at all when `None`.
    pub(crate) hold: Option<Duration>,
    /// Most leases at a time.
    pub(crate) window: u32,
}

#[derive(Debug)]
pub(crate) struct Leases {
    terms: Terms,
    /// Messages to be handled, oldest first.
    waiting: VecDeque<Delivery>,
    /// Id of the first slot.
    base: u64,
    slots: VecDeque<Slot>,
    left_behind: BTreeMap<u64, Slot>,
    /// Why leases were lost, until those who ask have heard it.
    refusals: HashMap<u64, Error>,
    pub(crate) answers: Answers,
    /// False once nothing more is handed out.
    is_taking: bool,
    /// Why the stream is over.
    over: Option<String>,
    reader: Option<Waker>,
    /// To be woken without the lock.
    wakers: Vec<Waker>,
}

impl Leases {
    pub(crate) fn new(terms: Terms) -> Self {
        Self {
            terms,
            waiting: VecDeque::new(),
            base: 0,
            slots: VecDeque::new(),
            left_behind: BTreeMap::new(),
            refusals: HashMap::new(),
            answers: Answers::default(),
            is_taking: true,
            over: None,
            reader: None,
            wakers: Vec::new(),
        }
    }

    pub(crate) fn arrive(&mut self, deliveries: Vec<Delivery>, now: Instant) {
        for delivery in deliveries {
            let id = delivery.lease_id;
            if self.slots.len() >= self.terms.window as usize * 2 + 1024 {
                self.leave_behind(self.slots.len() / 2);
            }
            if self.slots.is_empty() {
                self.base = id;
            } else if id != self.base.wrapping_add(self.slots.len() as u64) {
                self.leave_behind(self.slots.len());
                self.base = id;
            }
            let state = if self.is_taking { State::Waiting } else { State::Released };
            self.slots.push_back(Slot { state, arrived: now, asker: Asker::Nobody });
            if self.is_taking {
                self.waiting.push_back(delivery);
            } else {
                self.answers.push(id, Answer::Release);
            }
        }
        self.wakers.extend(self.reader.take());
    }

    /// Hands out the next message; `None` when no more will come.
    pub(crate) fn poll_take(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        // What was held for longer belongs to another worker by now.
        let hold = self.terms.hold.unwrap_or_default() + self.terms.ack_wait;
        while let Some(delivery) = self.waiting.pop_front() {
            let Some(slot) = self.slot(delivery.lease_id).filter(|slot| slot.state == State::Waiting) else {
                continue;
            };
            if now.saturating_duration_since(slot.arrived) < hold {
                slot.state = State::Out;
                return Poll::Ready(Some(delivery));
            }
            slot.state = State::Gone;
            self.forget_gone();
        }
        if !self.is_taking {
            return Poll::Ready(None);
        }
        self.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Notes an answer to a message that is out. With `asks`, its outcome is kept for [`poll_settled`](Self::poll_settled).
    pub(crate) fn answer(&mut self, id: u64, answer: Answer, asks: bool) {
        let is_ack = matches!(answer, Answer::Ack | Answer::AckUpTo);
        let asker = if asks { Asker::Somebody } else { Asker::Nobody };
        let over = self.over.clone();
        match self.slot(id) {
            Some(slot) if slot.state == State::Out => {
                slot.asker = asker;
                slot.state = if answer == Answer::AckUpTo { State::AnsweredUpTo } else { State::Answered };
                if answer == Answer::AckUpTo {
                    self.up_to(id, |_, slot| {
                        if slot.state == State::Out {
                            slot.state = State::Covered;
                        }
                    });
                }
                self.answers.push(id, answer);
            }
            Some(slot) if slot.state == State::Lost => {
                slot.state = State::Gone;
                if !asks {
                    self.refusals.remove(&id);
                }
                self.forget_gone();
            }
            Some(slot) if slot.state == State::Covered && is_ack => slot.asker = asker,
            _ => {
                let why = over.or_else(|| {
                    (!is_ack).then(|| "the message was acknowledged already, together with a later one".into())
                });
                if let (Some(why), true) = (why, asks) {
                    self.refusals.insert(id, Error::LeaseLost(why));
                }
            }
        }
    }

    /// The message was let go of without an answer: whoever handled it failed.
    pub(crate) fn dropped(&mut self, id: u64) {
        if self.slot(id).is_some_and(|slot| matches!(slot.state, State::Out | State::Lost)) {
            self.answer(id, Answer::Nak(None), false);
        }
    }

    /// Asks for more time.
    pub(crate) fn extend(&mut self, id: u64) -> Result<()> {
        if let Some(why) = self.refusal(id) {
            return Err(why);
        }
        self.answers.extend(id);
        Ok(())
    }

    /// Why a message that is out is no longer this worker's.
    pub(crate) fn refusal(&self, id: u64) -> Option<Error> {
        self.over.clone().map(Error::LeaseLost).or_else(|| self.refusals.get(&id).cloned())
    }

    /// Extends what was held for a third of the ack wait; called as often as that, no lease comes near its end.
    pub(crate) fn extend_held(&mut self, now: Instant) {
        let Some(hold) = self.terms.hold else {
            return;
        };
        let (at_least, ids) = (self.terms.ack_wait / 3, ids_from(self.base));
        let slots = self.left_behind.iter().map(|(id, slot)| (*id, slot)).chain(ids.zip(&self.slots));
        for (id, slot) in slots {
            let held = now.saturating_duration_since(slot.arrived);
            if slot.state.is_held() && held >= at_least && held < hold {
                self.answers.extend(id);
            }
        }
    }

    /// Notes that what was asked of these leases is done.
    pub(crate) fn settled(&mut self, run: LeaseRun) {
        let end = run.first_id.saturating_add(u64::from(run.count));
        let first = run.first_id.max(self.base);
        for id in first..end.min(self.base.saturating_add(self.slots.len() as u64)) {
            self.settle(id);
        }
        let behind: Vec<u64> = self.left_behind.range(run.first_id..end.max(run.first_id)).map(|(id, _)| *id).collect();
        behind.into_iter().for_each(|id| self.settle(id));
        self.forget_gone();
    }

    fn settle(&mut self, id: u64) {
        let Some(slot) = self.slot(id) else {
            return;
        };
        match slot.state {
            State::Answered | State::Covered | State::Released => {
                let asker = slot.leave();
                self.wake(asker);
            }
            State::AnsweredUpTo => {
                let mut askers = Vec::new();
                self.up_to(id, |_, slot| {
                    if matches!(slot.state, State::Covered | State::AnsweredUpTo) {
                        askers.push(slot.leave());
                    }
                });
                askers.into_iter().for_each(|asker| self.wake(asker));
            }
            // An extension was done.
            State::Waiting | State::Out | State::Lost | State::Gone => {}
        }
    }

    /// Notes that what was asked of a lease was not done: it is over.
    pub(crate) fn refused(&mut self, refused: LeaseRefused) {
        let LeaseRefused { lease_id: id, code, message } = refused;
        let error = Error::of_lease(code, message);
        match self.slot(id).map(|slot| slot.state) {
            Some(State::Out) => self.lose(id, State::Lost, error),
            Some(State::AnsweredUpTo) => {
                let mut ids = vec![id];
                self.up_to(id, |id, slot| {
                    if slot.state == State::Covered {
                        ids.push(id);
                    }
                });
                ids.into_iter().for_each(|id| self.lose(id, State::Gone, error.clone()));
            }
            Some(State::Waiting | State::Answered | State::Covered | State::Released) => {
                self.lose(id, State::Gone, error);
            }
            Some(State::Lost | State::Gone) | None => {}
        }
        self.forget_gone();
    }

    fn lose(&mut self, id: u64, state: State, error: Error) {
        let Some(slot) = self.slot(id) else {
            return;
        };
        let asker = slot.leave();
        slot.state = state;
        if state == State::Lost || !matches!(asker, Asker::Nobody) {
            self.refusals.insert(id, error);
        }
        self.wake(asker);
    }

    /// What became of an answer.
    pub(crate) fn poll_settled(&mut self, id: u64, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if let Some(error) = self.refusals.remove(&id) {
            return Poll::Ready(Err(error));
        }
        match self.slot(id) {
            Some(slot) if slot.state.is_answered() => {
                slot.asker = Asker::Waiting(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Nobody wants to know what became of an answer any more.
    pub(crate) fn ask_no_more(&mut self, id: u64) {
        self.refusals.remove(&id);
        if let Some(slot) = self.slot(id) {
            slot.asker = Asker::Nobody;
        }
    }

    /// Hands out nothing more, and gives back what waits.
    pub(crate) fn stop_taking(&mut self) {
        self.is_taking = false;
        while let Some(Delivery { lease_id, .. }) = self.waiting.pop_front() {
            if let Some(slot) = self.slot(lease_id).filter(|slot| slot.state == State::Waiting) {
                slot.state = State::Released;
                self.answers.push(lease_id, Answer::Release);
            }
        }
        self.answers.hurry();
        self.wakers.extend(self.reader.take());
    }

    /// True if no message is out, and what was said of those that were is settled.
    pub(crate) fn is_settled(&self) -> bool {
        let is_busy = |slot: &Slot| slot.state == State::Out || slot.state.is_answered();
        !self.slots.iter().chain(self.left_behind.values()).any(is_busy)
    }

    /// The same, and nothing else is to be said.
    pub(crate) fn is_quiet(&self) -> bool {
        self.answers.is_empty() && self.is_settled()
    }

    /// The stream is over: what is not settled is lost.
    pub(crate) fn end(&mut self, why: &str) {
        if self.over.is_some() {
            return;
        }
        self.over = Some(why.into());
        self.is_taking = false;
        self.waiting.clear();
        self.answers.clear();
        let behind = std::mem::take(&mut self.left_behind);
        let slots = std::mem::take(&mut self.slots);
        for (id, slot) in behind.into_iter().chain(ids_from(self.base).zip(slots)) {
            if slot.state == State::Lost {
                self.refusals.remove(&id);
            } else if slot.state.is_answered() && !matches!(slot.asker, Asker::Nobody) {
                self.refusals.insert(id, Error::LeaseLost(why.into()));
            }
            self.wake(slot.asker);
        }
        self.wakers.extend(self.reader.take());
    }

    /// Those to be woken, once the lock is free.
    pub(crate) fn take_wakers(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.wakers)
    }

    fn wake(&mut self, asker: Asker) {
        if let Asker::Waiting(waker) = asker {
            self.wakers.push(waker);
        }
    }

    fn slot(&mut self, id: u64) -> Option<&mut Slot> {
        let position = id.checked_sub(self.base).and_then(|position| usize::try_from(position).ok());
        match position.filter(|position| *position < self.slots.len()) {
            Some(position) => self.slots.get_mut(position),
            None => self.left_behind.get_mut(&id),
        }
    }

    /// Visits the leases up to and including one.
    fn up_to(&mut self, id: u64, mut visit: impl FnMut(u64, &mut Slot)) {
        self.left_behind.range_mut(..=id).for_each(|(id, slot)| visit(*id, slot));
        (self.base..=id).zip(&mut self.slots).for_each(|(id, slot)| visit(id, slot));
    }

    fn leave_behind(&mut self, count: usize) {
        for (id, slot) in ids_from(self.base).zip(self.slots.drain(..count)) {
            if slot.state != State::Gone {
                self.left_behind.insert(id, slot);
            }
        }
        self.base = self.base.wrapping_add(count as u64);
    }

    fn forget_gone(&mut self) {
        while self.slots.front().is_some_and(|slot| slot.state == State::Gone) {
            self.slots.pop_front();
            self.base = self.base.wrapping_add(1);
        }
        if !self.left_behind.is_empty() {
            self.left_behind.retain(|_, slot| slot.state != State::Gone);
        }
    }
}

/// Consecutive ids; those of a broker never get near the end.
fn ids_from(first: u64) -> impl Iterator<Item = u64> {
    (0..).map(move |offset| first.wrapping_add(offset))
}

#[cfg(test)]
mod tests;
