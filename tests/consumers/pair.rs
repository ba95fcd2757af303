//! A backend and the [reference](crate::reference), side by side.

use std::time::Duration;

use minitoolstream::{
    Error,
    consumer::{Counts, How, Patch, Session, Settings, Settle, Start, Step, Stepped, Want},
    types::{ConsumerName, Subject, SubjectFilter, Timestamp},
};

use crate::{
    backend::{Backend, Found, View},
    operations::{Answer, Begin, Kind, LETTERS, Operation, SUBJECTS, Setup, TICK, Which},
    reference::{Letter, Message, Outcome, Reference, State, millis},
};

const EPOCH: u64 = 100_000;
/// Rounds in which a consumer must have come to its end.
const ROUNDS: usize = 3000;

/// See the [module](self).
pub(crate) struct Pair<B> {
    backend: B,
    reference: Reference,
    start: Start,
    now: Timestamp,
    /// The session that each worker has now.
    sessions: [u64; 3],
    /// Every delivery there ever was: message, attempt, session.
    ever: Vec<(u64, u32, u64)>,
}

pub(crate) fn name() -> ConsumerName {
    ConsumerName::parse("name", "c").unwrap()
}

fn subject(name: &str) -> Subject {
    Subject::parse("subject", name).unwrap()
}

impl<B: Backend> Pair<B> {
    pub(crate) fn new(setup: &Setup) -> Self {
        let now = Timestamp(EPOCH);
        let reference = Reference::new(setup.clone());
        let start = resolve(setup.start, &reference, now);
        let settings = Settings {
            filter: SubjectFilter::parse("filter", setup.filter.pattern()).unwrap(),
            start,
            ack_wait: setup.ack_wait,
            max_deliver: setup.max_deliver,
            max_ack_pending: setup.max_ack_pending,
            back_off: setup.back_off.clone(),
            dead_letters: setup.has_letters.then(|| name().dead_letters()),
            dead_letter_ttl: Duration::from_secs(1_000_000),
        };
        let backend = B::start(&settings, setup.chunk, now);
        let mut pair = Self { backend, reference, start, now, sessions: [1, 2, 3], ever: Vec::new() };
        pair.begin(start);
        pair
    }

    pub(crate) fn run(&mut self, operation: Operation) {
        let now = self.now;
        match operation {
            Operation::Publish { subject: of, ttls } => {
                let expires: Vec<_> =
                    ttls.iter().map(|ttl| ttl.map(|ttl| now.after(Duration::from_millis(ttl)))).collect();
                let name = SUBJECTS[usize::from(of)];
                let of_block = expires.iter().copied().try_fold(0, |latest, at| Some(at?.0.max(latest)));
                let first = self.backend.publish(&subject(name), &expires, now);
                for sequence in first..first + ttls.len() as u64 {
                    assert_eq!(self.reference.add(name, now.0, of_block, None), sequence);
                }
            }
            Operation::Work { worker, answers, messages, halves } => {
                let room = |halves| halves * self.backend.message_bytes() / 2;
                let (bytes, first_bytes) =
                    halves.map_or((u64::MAX, 0), |(bytes, first_bytes)| (room(bytes), room(first_bytes)));
                let session = self.sessions[usize::from(worker)];
                let want = Want { messages, bytes, message_bytes: u64::MAX, first_bytes };
                // One step is one worker's: those who pretend come first.
                for answer in answers.iter().filter(|answer| answer.is_foreign) {
                    let settles = self.settles(session, std::slice::from_ref(answer));
                    self.step(self.sessions[usize::from(worker + 1) % 3], settles, Want::default(), false);
                }
                let own: Vec<_> = answers.into_iter().filter(|answer| !answer.is_foreign).collect();
                let settles = self.settles(session, &own);
                self.step(session, settles, want, false);
            }
            Operation::Close { worker } => {
                let session = &mut self.sessions[usize::from(worker)];
                let closed = std::mem::replace(session, *session + 3);
                self.step(closed, Vec::new(), Want::default(), true);
            }
            Operation::Pass { ticks } => self.now.0 += ticks * TICK,
            Operation::Purge { subject: of, up_to } => {
                let name = SUBJECTS[usize::from(of)];
                let up_to = u64::from(up_to) % (self.reference.last(name) + 1);
                let goes = |message: &Message| message.subject == name && message.sequence <= up_to;
                assert_eq!(self.backend.purge(&subject(name), up_to, now), self.reference.remove(goes));
            }
            Operation::Expire => {
                let removed = self.reference.remove(|message| message.expires.is_some_and(|at| at <= now.0));
                assert_eq!(self.backend.expire(now), removed);
            }
            Operation::Pause(paused) => {
                self.backend.pause(paused);
                self.reference.paused = paused;
            }
            Operation::Reset(begin) => {
                let start = begin.map(|begin| resolve(begin, &self.reference, now));
                self.backend.reset(start);
                self.begin(start.unwrap_or(self.start));
            }
            Operation::Update { max_deliver, max_ack_pending, wait } => {
                let ack_wait = Duration::from_millis(wait);
                self.backend.update(Patch {
                    ack_wait: Some(ack_wait),
                    max_deliver: Some(max_deliver),
                    max_ack_pending: Some(max_ack_pending),
                    ..Patch::default()
                });
                let setup = self.reference.setup.clone();
                self.reference.setup = Setup { ack_wait, max_deliver, max_ack_pending, ..setup };
            }
            Operation::Crash => {
                self.backend.crash();
                self.reference.crash();
            }
            Operation::Redrive { letter } => self.redrive(letter),
        }
    }

    /// The consumer begins: both sides agree where.
    fn begin(&mut self, start: Start) {
        let next = self.reference.messages.len() as u64 + 1;
        let began = match start {
            _ if self.reference.is_one() => self.backend.view().sequences.0,
            Start::New => next,
            Start::StreamSequence(at) => at.min(next),
            Start::All | Start::Sequence(_) | Start::Time(_) => 1,
        };
        self.reference.begin(began, |at, message| match start {
            Start::All => true,
            Start::New => at >= next,
            Start::Sequence(sequence) => message.sequence >= sequence,
            Start::StreamSequence(from) => at >= from,
            Start::Time(time) => message.created >= time,
        });
    }

    fn settles(&self, session: u64, answers: &[Answer]) -> Vec<Settle> {
        let is_held = |state: &State| matches!(state, State::Leased { by, .. } if *by == session);
        let held: Vec<_> = (1..)
            .zip(&self.reference.messages)
            .filter(|(_, message)| is_held(&message.state))
            .filter_map(|(at, message)| match message.state {
                State::Leased { attempt, .. } => Some((at, attempt)),
                _ => None,
            })
            .collect();
        let ever: Vec<_> = self.ever.iter().map(|(at, attempt, _)| (*at, *attempt)).collect();
        let settle = |answer: &Answer| {
            let (among, number) = match answer.which {
                Which::Held(number) => (&held, number),
                Which::Ever(number) => (&ever, number),
            };
            let (at, attempt) = *among.get(usize::from(number) % among.len().max(1))?;
            let how = match answer.kind {
                Kind::Ack => How::Ack,
                Kind::Nak => How::Nak(None),
                Kind::NakAfter(millis) => How::Nak(Some(Duration::from_millis(millis))),
                Kind::Extend => How::Extend,
                Kind::Terminate => How::Terminate("broken".into()),
                Kind::Release => How::Release,
                Kind::Gone => How::Gone,
                Kind::Damaged => How::Damaged("bits".into()),
            };
            Some(Settle { at, attempt, received: Timestamp(self.now.0 - answer.ago), how })
        };
        answers.iter().filter_map(settle).collect()
    }

    fn step(&mut self, session: u64, settles: Vec<Settle>, want: Want, close: bool) {
        let step = Step { consumer: name(), session: Session(session), settles, want, close, now: self.now };
        let stepped = self.backend.step(step.clone()).unwrap();
        // A step does only so much: if there is more, the worker asks again.
        let may_stop = stepped.more && (want.bytes < u64::MAX || self.reference.setup.chunk < usize::MAX);
        let limit = may_stop.then(|| self.backend.view()).map(|view| match self.reference.is_one() {
            true => view.sequences.1,
            false => view.cursor,
        });
        let was_full = self.reference.is_full();
        let expected = self.reference.step(&step, self.backend.message_bytes(), limit);
        assert_eq!(outcome(&stepped), expected, "{step:?}");
        for settled in stepped.settled.iter().filter_map(|settled| settled.as_ref().err()) {
            assert!(matches!(settled, Error::Precondition(_)), "{settled:?}");
        }
        assert_eq!(stepped.next_due.map(|at| at.0), self.reference.out().map(|(due, ..)| due).min());
        self.compare_calls(&stepped, was_full);
        self.ever.extend(expected.given.iter().map(|(at, attempt, _)| (*at, *attempt, session)));
        for letter in expected.letters {
            let expires = self.now.0 + 1_000_000_000;
            self.reference.add(LETTERS, self.now.0, Some(expires), Some(letter));
        }
        if !stepped.letters.is_empty() {
            self.compare_letters();
        }
    }

    /// Nobody sleeps while there is work: a step tells whether this worker or another is to be called.
    fn compare_calls(&self, stepped: &Stepped, was_full: bool) {
        let reference = &self.reference;
        if reference.paused {
            assert!(!stepped.others);
            return;
        }
        let is_due = reference.first_due(self.now.0).is_some();
        let is_ahead = reference.first_ahead().is_some();
        assert!(stepped.more || !is_due && !is_ahead, "there is more for this worker");
        let is_freed = was_full && !reference.is_full() && is_ahead;
        assert!(stepped.others || !is_due && !is_freed, "there is something for others");
    }

    fn redrive(&mut self, number: u16) {
        let letters = || self.reference.messages.iter().filter(|message| !message.is_gone && message.letter.is_some());
        let Some(letter) = letters().nth(usize::from(number) % letters().count().max(1)).cloned() else { return };
        let Letter { subject: to, reason, .. } = letter.letter.unwrap();
        let is_lost = reason == "data-loss";
        let sequence = self.backend.redrive(letter.sequence, is_lost, &subject(&to), self.now);
        assert_eq!(sequence.is_none(), is_lost);
        let Some(sequence) = sequence else { return };
        self.reference.remove(|message| message.subject == LETTERS && message.sequence == letter.sequence);
        assert_eq!(self.reference.add(&to, self.now.0, None, None), sequence);
        self.compare_letters();
    }

    fn compare_letters(&mut self) {
        let Some(found) = self.backend.letters(self.now) else { return };
        let live = self.reference.messages.iter().filter(|message| !message.is_gone);
        let expected = live.filter_map(|message| {
            let Letter { subject, sequence, attempts, reason, detail, .. } = message.letter.clone()?;
            let (original_subject, original_sequence, reason) = (subject, sequence, reason.to_owned());
            Some(Found { sequence: message.sequence, original_subject, original_sequence, reason, detail, attempts })
        });
        assert_eq!(found, expected.collect::<Vec<_>>());
    }

    /// Everything that is shown of the consumer, and P8.
    pub(crate) fn compare(&mut self) {
        let view = self.backend.view();
        let reference = &self.reference;
        let Counts { passed, acked, dead_lettered, dropped, expired, deliveries, redeliveries } = view.counts;
        let count = |state| reference.count(|is| is == state);
        let pending = reference.out().count() as u64;
        assert_eq!(passed, acked + dead_lettered + dropped + expired + pending, "P8: {view:?}");
        let counted = (acked, dead_lettered, dropped, expired);
        let [a, b, c, d] = [State::Acked, State::DeadLettered, State::Dropped, State::Expired].map(count);
        assert_eq!(counted, (a, b, c, d), "acked, dead-lettered, dropped, expired");
        assert_eq!((deliveries, redeliveries), (reference.deliveries, reference.redeliveries));
        assert_eq!(view.paused, reference.paused);
        let leased = reference.count(|is| matches!(is, State::Leased { .. }));
        assert_eq!((view.lag.unacked, view.lag.redeliverable), (leased, pending - leased));
        self.compare_place(&view);
    }

    /// Where it stands, and how much lies ahead.
    fn compare_place(&self, view: &View) {
        let reference = &self.reference;
        let numbered = || (1_u64..).zip(&reference.messages);
        let first_live = reference.first_ahead();
        match reference.out().map(|(_, index, _)| index as u64 + 1).min() {
            Some(first) => assert_eq!(view.ack_floor, first),
            None => {
                let passed = numbered().filter(|(_, message)| !matches!(message.state, State::Apart | State::Ahead));
                assert!(passed.map(|(at, _)| at).max().is_none_or(|at| view.ack_floor > at), "{view:?}");
                assert!(first_live.is_none_or(|(at, _)| view.ack_floor <= at), "{view:?}");
            }
        }
        if reference.is_one() {
            let last = reference.last("a.x");
            let ahead = numbered().find(|(_, message)| message.state == State::Ahead);
            let next = ahead.map_or((last + 1).max(reference.began), |(_, message)| message.sequence);
            assert_eq!(view.sequences, (reference.began, next));
            let published = (last + 1).saturating_sub(reference.began);
            assert_eq!(published, view.counts.passed + (last + 1).saturating_sub(next), "P8: {view:?}");
            let lag = first_live.map_or(0, |(_, message)| last + 1 - message.sequence);
            assert!(view.lag.pending == lag || !view.lag.is_exact, "{view:?}, not {lag}");
        } else {
            let lag =
                numbered().filter(|(_, message)| message.state == State::Ahead && !message.is_gone).count() as u64;
            assert!(view.lag.pending == lag || (!view.lag.is_exact && view.lag.pending < lag), "{view:?}, not {lag}");
        }
    }

    /// Whatever happened, a worker that does its work comes to the end.
    pub(crate) fn finish(&mut self) {
        self.run(Operation::Pause(false));
        let want = Want { messages: 10, bytes: u64::MAX, message_bytes: u64::MAX, first_bytes: u64::MAX };
        for _ in 0..ROUNDS {
            self.step(1000, Vec::new(), want, false);
            let of = |message: &Message| matches!(message.state, State::Leased { by: 1000, .. });
            let held = (1..).zip(&self.reference.messages).filter(|(_, message)| of(message));
            let settles = held.filter_map(|(at, message)| match message.state {
                State::Leased { attempt, .. } => Some(Settle { at, attempt, received: self.now, how: How::Ack }),
                _ => None,
            });
            let settles = settles.collect();
            self.step(1000, settles, Want::default(), false);
            self.compare();
            let is_left = |message: &Message| message.state == State::Ahead && !message.is_gone;
            if self.reference.out().count() == 0 && !self.reference.messages.iter().any(is_left) {
                return;
            }
            self.now.0 += millis(self.reference.setup.ack_wait);
        }
        panic!("it does not come to an end");
    }
}

fn resolve(begin: Begin, reference: &Reference, now: Timestamp) -> Start {
    let modulo = |number: u16, count: u64| u64::from(number) % count;
    match begin {
        Begin::All => Start::All,
        Begin::New => Start::New,
        Begin::Sequence(number) => Start::Sequence(1 + modulo(number, reference.last("a.x") + 4)),
        Begin::StreamSequence(number) => Start::StreamSequence(modulo(number, reference.messages.len() as u64 + 4)),
        Begin::Time(number) => Start::Time(EPOCH + modulo(number, (now.0 - EPOCH) / TICK + 1) * TICK),
    }
}

fn outcome(stepped: &Stepped) -> Outcome {
    let given = stepped.runs.iter().flat_map(|run| &run.given);
    let letters = stepped.letters.iter().map(|letter| Letter {
        at: letter.at,
        subject: letter.located.subject.to_string(),
        sequence: letter.located.sequence_at(letter.at),
        attempts: letter.attempts,
        reason: letter.reason.as_str(),
        detail: letter.detail.clone(),
    });
    Outcome {
        settled: stepped.settled.iter().map(Result::is_ok).collect(),
        given: given.map(|given| (given.at, given.attempt, given.deadline.0)).collect(),
        letters: letters.collect(),
    }
}
