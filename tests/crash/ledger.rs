//! What the broker has promised so far, and every promise that it broke.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use minitoolstream_client::{Message, Published};

use crate::message::{SUBJECTS, Spec, millis};

/// Publishers number their messages below this bit.
pub(crate) const PUBLISHER_SHIFT: u32 = 40;

/// Publishers that a ledger has room for.
pub(crate) const PUBLISHERS: usize = 8;

/// Faults to report; what follows them is no news.
const FAULTS_MAX: usize = 20;

/// One message at its sequence, acknowledged or read.
#[derive(Clone, Copy, Debug)]
struct Kept {
    id: u64,
    /// It must be there until this moment, in milliseconds.
    lives_until: u64,
    /// The pass in which it became known, and the last one that read it.
    known: u32,
    read: u32,
}

#[derive(Default)]
struct Subject {
    messages: BTreeMap<u64, Kept>,
    acknowledged: u64,
}

#[derive(Default)]
struct State {
    subjects: [Subject; SUBJECTS.len()],
    /// Sequence of each id: no id is stored twice.
    sequences: HashMap<u64, u64>,
    /// Acknowledged messages that carry a message id.
    repeatable: Vec<(u64, u64)>,
    /// Answered and requested position of each durable and subject.
    positions: HashMap<(String, usize), (u64, u64)>,
    acknowledged: u64,
    duplicates: u64,
    uncertain: u64,
    pass: u32,
    faults: Vec<String>,
}

/// See the [module](self).
pub(crate) struct Ledger {
    pub(crate) seed: u64,
    issued: [AtomicU64; PUBLISHERS],
    state: Mutex<State>,
}

impl Ledger {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, issued: Default::default(), state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The next message of a publisher.
    pub(crate) fn issue(&self, publisher: usize) -> Spec {
        let number = self.issued[publisher].fetch_add(1, Ordering::Relaxed) + 1;
        Spec::of(self.seed, (publisher as u64) << PUBLISHER_SHIFT | number)
    }

    /// The next message of a publisher that is as wanted; those before are never sent.
    pub(crate) fn issue_where(&self, publisher: usize, is_wanted: impl Fn(&Spec) -> bool) -> Spec {
        let mut found = (0..1_000_000).map(|_| self.issue(publisher)).filter(is_wanted);
        found.next().expect("there are such messages")
    }

    /// The highest sequence acknowledged in a subject: what is sent from now on comes after it (P2).
    pub(crate) fn floor(&self, subject: usize) -> u64 {
        self.lock().subjects[subject].acknowledged
    }

    /// Messages acknowledged so far, repetitions not counted.
    pub(crate) fn acknowledged_total(&self) -> u64 {
        self.lock().acknowledged
    }

    /// A message has no answer: it may be stored or not.
    pub(crate) fn uncertain(&self) {
        self.lock().uncertain += 1;
    }

    /// The broker acknowledged a message that was sent at `sent_at`, when `floor` was acknowledged.
    pub(crate) fn acknowledged(&self, spec: &Spec, published: Published, sent_at: u64, floor: u64) {
        let mut state = self.lock();
        let Published { sequence, duplicate, .. } = published;
        if sequence <= floor {
            let subject = spec.subject();
            state.fault(format!("'{subject}': {sequence} was acknowledged to a message sent after {floor} was"));
        }
        state.note(spec, sequence, sent_at);
        let subject = &mut state.subjects[spec.subject];
        subject.acknowledged = subject.acknowledged.max(sequence);
        state.acknowledged += 1;
        state.duplicates += u64::from(duplicate);
        if spec.repeatable {
            state.repeatable.push((spec.id, sequence));
        }
    }

    /// Begins to read everything again.
    pub(crate) fn begin_pass(&self) -> u32 {
        let mut state = self.lock();
        state.pass += 1;
        state.pass
    }

    /// The broker delivered a message to a read that began at `begun`.
    pub(crate) fn delivered(&self, subject: usize, message: &Message, begun: u64) {
        let sequence = message.sequence;
        let name = SUBJECTS[subject];
        let read = Spec::read(self.seed, message);
        let mut state = self.lock();
        let spec = match read {
            Ok(spec) if spec.subject == subject => spec,
            Ok(spec) => return state.fault(format!("'{name}' {sequence} is a message of '{}'", spec.subject())),
            Err(problem) => return state.fault(format!("'{name}' {sequence} is damaged: {problem}")),
        };
        let publisher = usize::try_from(spec.id >> PUBLISHER_SHIFT).unwrap();
        let number = spec.id & ((1 << PUBLISHER_SHIFT) - 1);
        if self.issued.get(publisher).is_none_or(|issued| number > issued.load(Ordering::Relaxed)) {
            return state.fault(format!("'{name}' {sequence} was never published: id {:#x}", spec.id));
        }
        let created = millis(message.timestamp);
        if let Some(ttl) = spec.ttl {
            let deadline = created + u64::try_from(ttl.as_millis()).unwrap();
            if deadline <= begun {
                let late = begun - deadline;
                state.fault(format!("'{name}' {sequence} was delivered to a read begun {late} ms after its deadline"));
            }
        }
        state.note(&spec, sequence, created);
        let pass = state.pass;
        if let Some(kept) = state.subjects[subject].messages.get_mut(&sequence) {
            kept.read = pass;
        }
    }

    /// Everything known of a subject from `from` on must have been read in this pass, unless it expired before `now`.
    pub(crate) fn expect_all_read(&self, subject: usize, from: u64, now: u64) {
        let mut state = self.lock();
        let pass = state.pass;
        let missing: Vec<_> = state.subjects[subject]
            .messages
            .range(from..)
            .filter(|(_, kept)| kept.known < pass && kept.read != pass && kept.lives_until > now)
            .map(|(sequence, kept)| (*sequence, kept.id))
            .collect();
        if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
            let (name, count) = (SUBJECTS[subject], missing.len());
            state.fault(format!("'{name}': {count} messages are lost, from {first:x?} to {last:x?} (sequence, id)"));
        }
    }

    /// Some acknowledged messages that carry an id, old and new ones.
    pub(crate) fn some_repeatable(&self, count: usize, rng: &mut fastrand::Rng) -> Vec<(Spec, u64)> {
        let state = self.lock();
        let known = &state.repeatable;
        let recent = known.iter().rev().take(count / 2).copied();
        let old = (0..if known.is_empty() { 0 } else { count / 2 }).map(|_| known[rng.usize(0..known.len())]);
        recent.chain(old).map(|(id, sequence)| (Spec::of(self.seed, id), sequence)).collect()
    }

    /// A consumer is about to acknowledge up to `sequence`; gives what was answered before.
    pub(crate) fn will_move(&self, durable: &str, subject: usize, sequence: u64) -> u64 {
        let mut state = self.lock();
        let (answered, requested) = state.positions.entry((durable.into(), subject)).or_default();
        *requested = sequence.max(*requested);
        *answered
    }

    /// The broker answered with a position; `before` is from [`will_move`](Self::will_move) with the same sequence.
    pub(crate) fn moved(&self, durable: &str, subject: usize, sequence: u64, before: u64, position: u64) {
        let mut state = self.lock();
        let (answered, requested) = state.positions.entry((durable.into(), subject)).or_default();
        let requested = *requested;
        *answered = position.max(*answered);
        let name = SUBJECTS[subject];
        if position < before.max(sequence) {
            state.fault(format!("'{durable}' of '{name}' moved back from {} to {position}", before.max(sequence)));
        }
        if position > requested {
            state.fault(format!("'{durable}' of '{name}' stands at {position}, and nobody asked beyond {requested}"));
        }
    }

    /// The consumers that have a position.
    pub(crate) fn consumers(&self) -> Vec<(String, usize)> {
        self.lock().positions.keys().cloned().collect()
    }

    /// Something that must not be.
    pub(crate) fn fault(&self, fault: String) {
        self.lock().fault(fault);
    }

    /// The promises that were broken.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.lock().faults.clone()
    }

    /// Panics if a promise was broken.
    pub(crate) fn assert_kept(&self, when: &str) {
        let faults = self.faults();
        assert!(faults.is_empty(), "seed {}, {when}:\n  {}", self.seed, faults.join("\n  "));
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State { acknowledged, duplicates, uncertain, .. } = &*self.lock();
        write!(f, "{acknowledged} acknowledged ({duplicates} as repetitions), {uncertain} uncertain")
    }
}

impl State {
    fn fault(&mut self, fault: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }

    /// A message stands at a sequence: nothing else ever does, and it never stands elsewhere. It was sent or accepted
    /// at `since`.
    fn note(&mut self, spec: &Spec, sequence: u64, since: u64) {
        let name = spec.subject();
        let ttl = spec.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap());
        let kept =
            Kept { id: spec.id, lives_until: ttl.map_or(u64::MAX, |ttl| since + ttl), known: self.pass, read: 0 };
        let kept = *self.subjects[spec.subject].messages.entry(sequence).or_insert(kept);
        if kept.id != spec.id {
            self.fault(format!("'{name}' {sequence} is id {:#x}, and was id {:#x}", spec.id, kept.id));
        }
        let first = *self.sequences.entry(spec.id).or_insert(sequence);
        if first != sequence {
            self.fault(format!("'{name}': id {:#x} is stored twice, at {first} and {sequence}", spec.id));
        }
    }
}
