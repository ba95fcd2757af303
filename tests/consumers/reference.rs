//! A model of a consumer: one list of messages, each with what became of it.

use std::time::Duration;

use minitoolstream::consumer::{How, Settle, Step};

use crate::operations::{Filter, Setup};

/// What became of a message, as the consumer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not this consumer's.
    Apart,
    Ahead,
    Leased {
        by: u64,
        attempt: u32,
        until: u64,
    },
    Waiting {
        attempt: u32,
        due: u64,
    },
    Acked,
    DeadLettered,
    Dropped,
    Expired,
}

/// A message, or a dead letter.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) subject: String,
    pub(crate) sequence: u64,
    pub(crate) created: u64,
    /// When all of its block is over.
    pub(crate) expires: Option<u64>,
    /// Purged, removed or moved away.
    pub(crate) is_gone: bool,
    pub(crate) state: State,
    pub(crate) letter: Option<Letter>,
}

/// Why a message was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Letter {
    /// Stream sequence of the message.
    pub(crate) at: u64,
    pub(crate) subject: String,
    pub(crate) sequence: u64,
    pub(crate) attempts: u32,
    pub(crate) reason: &'static str,
    pub(crate) detail: String,
}

/// What must come of a step.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// For each answer: whether it is taken.
    pub(crate) settled: Vec<bool>,
    /// Stream sequence, attempt and deadline.
    pub(crate) given: Vec<(u64, u32, u64)>,
    pub(crate) letters: Vec<Letter>,
}

/// See the [module](self).
pub(crate) struct Reference {
    pub(crate) setup: Setup,
    /// In the order of the stream: the first has stream sequence 1.
    pub(crate) messages: Vec<Message>,
    pub(crate) paused: bool,
    pub(crate) deliveries: u64,
    pub(crate) redeliveries: u64,
    /// For a filter of one subject the sequence that it began with, otherwise the stream sequence.
    pub(crate) began: u64,
}

impl Reference {
    pub(crate) fn new(setup: Setup) -> Self {
        Self { setup, messages: Vec::new(), paused: false, deliveries: 0, redeliveries: 0, began: 1 }
    }

    pub(crate) fn is_one(&self) -> bool {
        self.setup.filter == Filter::One
    }

    pub(crate) fn last(&self, subject: &str) -> u64 {
        self.messages.iter().filter(|message| message.subject == subject).count() as u64
    }

    /// Adds a message; gives its sequence.
    pub(crate) fn add(&mut self, subject: &str, created: u64, expires: Option<u64>, letter: Option<Letter>) -> u64 {
        let sequence = self.last(subject) + 1;
        let number = if self.is_one() { sequence } else { self.messages.len() as u64 + 1 };
        let is_its = self.setup.filter.matches(subject) && number >= self.began;
        let state = if is_its { State::Ahead } else { State::Apart };
        let subject = subject.to_owned();
        self.messages.push(Message { subject, sequence, created, expires, is_gone: false, state, letter });
        sequence
    }

    /// Takes those away for which `goes` holds; gives how many.
    pub(crate) fn remove(&mut self, goes: impl Fn(&Message) -> bool) -> u64 {
        let mut removed = 0;
        for message in self.messages.iter_mut().filter(|message| !message.is_gone && goes(message)) {
            message.is_gone = true;
            removed += 1;
        }
        removed
    }

    /// Begins anew with those messages that `wants` names. `began` is the answer of the other side: what lies between it
    /// and what is wanted must be gone.
    pub(crate) fn begin(&mut self, began: u64, wants: impl Fn(u64, &Message) -> bool) {
        self.began = began;
        (self.deliveries, self.redeliveries) = (0, 0);
        let (filter, is_one) = (self.setup.filter, self.is_one());
        for (at, message) in (1..).zip(&mut self.messages) {
            if !filter.matches(&message.subject) {
                continue;
            }
            let is_its = if is_one { message.sequence >= began } else { wants(at, message) };
            if is_one && !message.is_gone {
                assert_eq!(is_its, wants(at, message), "begins with {began}, and message {}", message.sequence);
            }
            message.state = if is_its { State::Ahead } else { State::Apart };
        }
    }

    /// No lease outlives the process.
    pub(crate) fn crash(&mut self) {
        for message in &mut self.messages {
            if let State::Leased { attempt, .. } = message.state {
                message.state = State::Waiting { attempt, due: 0 };
            }
        }
    }

    /// One step. `limit`, if the other side may stop early, is the first number that it did not come to.
    pub(crate) fn step(&mut self, step: &Step, message_bytes: u64, limit: Option<u64>) -> Outcome {
        let (session, now) = (step.session.0, step.now.0);
        let mut outcome = Outcome::default();
        for settle in &step.settles {
            let settled = self.settle(session, settle, now, &mut outcome);
            outcome.settled.push(settled);
        }
        for index in 0..self.messages.len() {
            if let State::Leased { by, attempt, .. } = self.messages[index].state
                && step.close
                && by == session
            {
                self.give_back(index, attempt, now, now, &mut outcome);
            }
        }
        if self.paused {
            return outcome;
        }
        let mut room = step.want;
        let mut take = |is_first: bool| {
            let is_large = message_bytes > room.bytes && (!is_first || message_bytes > room.first_bytes);
            if room.messages == 0 || room.bytes == 0 || is_large {
                return false;
            }
            room.messages -= 1;
            room.bytes = room.bytes.saturating_sub(message_bytes);
            true
        };
        while let Some((index, attempt)) = self.first_due(now) {
            if self.is_last(attempt) {
                self.give_up(index, attempt, "max-deliver", "", now, &mut outcome);
            } else if !self.is_live(index, now) {
                self.messages[index].state = State::Expired;
            } else if take(outcome.given.is_empty()) {
                self.lease(index, session, attempt + 1, now, &mut outcome);
            } else {
                return outcome;
            }
        }
        if step.want.messages == outcome.given.len() || self.is_full() {
            return outcome;
        }
        for index in 0..self.messages.len() {
            let number = if self.is_one() { self.messages[index].sequence } else { index as u64 + 1 };
            if self.messages[index].state != State::Ahead {
                continue;
            }
            if limit.is_some_and(|limit| number >= limit) {
                break;
            }
            if self.messages[index].is_gone {
                self.messages[index].state = if self.is_one() { State::Expired } else { State::Apart };
            } else if !self.is_live(index, now) {
                self.messages[index].state = State::Expired;
            } else if self.is_full() || !take(outcome.given.is_empty()) {
                break;
            } else {
                self.lease(index, session, 1, now, &mut outcome);
            }
        }
        outcome
    }

    fn settle(&mut self, session: u64, settle: &Settle, now: u64, outcome: &mut Outcome) -> bool {
        let Some(index) = usize::try_from(settle.at - 1).ok().filter(|index| *index < self.messages.len()) else {
            return false;
        };
        let State::Leased { by, attempt, until } = self.messages[index].state else { return false };
        if by != session || attempt != settle.attempt {
            return false;
        }
        let is_late = settle.received.0 >= until;
        if is_late && matches!(settle.how, How::Ack | How::Nak(_) | How::Extend | How::Terminate(_)) {
            return false;
        }
        match &settle.how {
            How::Ack => self.messages[index].state = State::Acked,
            How::Nak(Some(delay)) => self.give_back(index, attempt, now + millis(*delay), now, outcome),
            How::Nak(None) => {
                let delay = self.back_off(settle.at, attempt);
                self.give_back(index, attempt, now + delay, now, outcome);
            }
            How::Extend => {
                let until = now + millis(self.setup.ack_wait);
                self.messages[index].state = State::Leased { by, attempt, until };
            }
            How::Release => self.messages[index].state = State::Waiting { attempt: attempt - 1, due: now },
            How::Gone => self.messages[index].state = State::Expired,
            How::Terminate(why) => self.give_up(index, attempt, "terminated", why, now, outcome),
            How::Damaged(what) => self.give_up(index, attempt, "data-loss", what, now, outcome),
        }
        true
    }

    fn give_back(&mut self, index: usize, attempt: u32, due: u64, now: u64, outcome: &mut Outcome) {
        if self.is_last(attempt) {
            self.give_up(index, attempt, "max-deliver", "", now, outcome);
        } else {
            self.messages[index].state = State::Waiting { attempt, due };
        }
    }

    fn give_up(&mut self, index: usize, attempts: u32, reason: &'static str, why: &str, now: u64, out: &mut Outcome) {
        let is_live = self.is_live(index, now);
        let message = &mut self.messages[index];
        message.state = match (self.setup.has_letters, is_live) {
            (false, _) => State::Dropped,
            (true, false) => State::Expired,
            (true, true) => State::DeadLettered,
        };
        if message.state == State::DeadLettered {
            let (subject, sequence, detail) = (message.subject.clone(), message.sequence, why.to_owned());
            out.letters.push(Letter { at: index as u64 + 1, subject, sequence, attempts, reason, detail });
        }
    }

    fn lease(&mut self, index: usize, by: u64, attempt: u32, now: u64, outcome: &mut Outcome) {
        let until = now + millis(self.setup.ack_wait);
        self.messages[index].state = State::Leased { by, attempt, until };
        self.deliveries += 1;
        self.redeliveries += u64::from(attempt > 1);
        outcome.given.push((index as u64 + 1, attempt, until));
    }

    pub(crate) fn first_due(&self, now: u64) -> Option<(usize, u32)> {
        let due = self.out().filter(|(due, ..)| *due <= now).min();
        due.map(|(_, index, attempt)| (index, attempt))
    }

    /// The first message that it has not begun with and that was not removed, with its stream sequence.
    pub(crate) fn first_ahead(&self) -> Option<(u64, &Message)> {
        (1..).zip(&self.messages).find(|(_, message)| message.state == State::Ahead && !message.is_gone)
    }

    /// Messages that were delivered and are not settled: when they are due, which, and how often they were delivered.
    pub(crate) fn out(&self) -> impl Iterator<Item = (u64, usize, u32)> {
        self.messages.iter().enumerate().filter_map(|(index, message)| match message.state {
            State::Leased { attempt, until, .. } => Some((until, index, attempt)),
            State::Waiting { attempt, due } => Some((due, index, attempt)),
            _ => None,
        })
    }

    pub(crate) fn count(&self, is: impl Fn(State) -> bool) -> u64 {
        self.messages.iter().filter(|message| is(message.state)).count() as u64
    }

    pub(crate) fn is_full(&self) -> bool {
        self.out().count() >= self.setup.max_ack_pending
    }

    fn is_last(&self, attempt: u32) -> bool {
        self.setup.max_deliver != 0 && attempt >= self.setup.max_deliver
    }

    fn is_live(&self, index: usize, now: u64) -> bool {
        let message = &self.messages[index];
        !message.is_gone && message.expires.is_none_or(|at| at > now)
    }

    /// The entry of the list for this attempt, less what spreads those that were refused together: up to half.
    fn back_off(&self, at: u64, attempt: u32) -> u64 {
        let list = &self.setup.back_off;
        let Some(delay) = list.get(attempt as usize - 1).or(list.last()) else { return 0 };
        let full = millis(*delay);
        let mut bits = (at ^ (u64::from(attempt) << 48)).wrapping_add(0x9E37_79B9_7F4A_7C15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let delay = full - (bits ^ (bits >> 31)) % (full / 2 + 1);
        assert!((full / 2..=full).contains(&delay));
        delay
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}
