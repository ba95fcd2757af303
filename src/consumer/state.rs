use super::{
    Counts, Given, How, Letter, Reason, Run, Session, Settings, Settle, Source, Step, Stepped, Want, backoff,
    pending::{Entry, Pending},
};
use crate::{
    block::{Located, ScanLimits},
    error::{Error, Result},
    types::Timestamp,
};

/// Dead letters that one step makes of what nobody answered; the rest follows with the next step.
const LETTERS_MAX: usize = 500;

/// Scans of one step: a pattern that matches little passes over so much of the stream at a time.
const SCANS_MAX: usize = 8;

/// One scan.
const SCAN: ScanLimits = ScanLimits { blocks: 256, bytes: 4 << 20, rows: 10_000 };

/// Scans of one count of what is not delivered yet.
const LAG_SCANS_MAX: usize = 20;

/// The state of one consumer.
#[derive(Clone, Debug)]
pub struct Consumer {
    /// How it works.
    pub settings: Settings,
    /// When it was made.
    pub created: Timestamp,
    /// True while it delivers nothing.
    pub paused: bool,
    pub(super) counts: Counts,
    /// The next stream sequence to look at.
    pub(super) cursor: u64,
    /// For a filter of one subject: the sequence that it began with, and the next that it has not begun with.
    pub(super) began: u64,
    pub(super) next_sequence: u64,
    pub(super) pending: Pending,
    pub(super) is_changed: bool,
    /// The cursor as it is stored.
    pub(super) stored_cursor: u64,
}

/// How far behind a consumer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Messages not delivered yet; at least so many if `is_exact` is false.
    pub pending: u64,
    /// Delivered and leased.
    pub unacked: u64,
    /// To be delivered again, now or later.
    pub redeliverable: u64,
    /// False while a pattern is so far behind that counting was given up.
    pub is_exact: bool,
}

impl Consumer {
    /// A consumer that begins with the stream sequence `cursor`, which is `sequence` of its subject if it has but one.
    pub fn new(settings: Settings, cursor: u64, sequence: u64, now: Timestamp) -> Self {
        Self {
            settings,
            created: now,
            paused: false,
            counts: Counts::default(),
            cursor,
            began: sequence,
            next_sequence: sequence,
            pending: Pending::default(),
            is_changed: true,
            stored_cursor: cursor,
        }
    }

    /// Begins anew: leases are lost, counts are zero.
    pub fn reset(&mut self, cursor: u64, sequence: u64) {
        self.pending.clear();
        self.counts = Counts::default();
        (self.cursor, self.began, self.next_sequence) = (cursor, sequence, sequence);
        self.is_changed = true;
    }

    /// Stops or resumes deliveries.
    pub fn pause(&mut self, paused: bool) {
        self.paused = paused;
        self.is_changed = true;
    }

    /// What became of its messages.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The next stream sequence that it looks at.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Everything before this stream sequence is settled.
    pub fn ack_floor(&self) -> u64 {
        self.pending.first().unwrap_or(self.cursor)
    }

    /// Messages that were delivered and are not settled.
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// For a filter of one subject: the sequence that it began with and the first that it has not begun with.
    pub fn sequences(&self) -> (u64, u64) {
        (self.began, self.next_sequence)
    }

    /// Carries out one step, and gives at most `messages_max` messages. After an error the state is not to be used any more: read what is stored.
    ///
    /// # Errors
    /// Those of the source.
    pub fn step(&mut self, step: &Step, messages_max: usize, source: &mut impl Source) -> Result<Stepped> {
        let was_full = self.is_full();
        let mut work = Work { now: step.now, source, stepped: Stepped::default(), last: None };
        for settle in &step.settles {
            let settled = self.settle(step.session, settle, &mut work)?;
            work.stepped.settled.push(settled);
        }
        if step.close {
            for at in self.pending.of(step.session) {
                if let Some(entry) = self.pending.get(at).copied() {
                    self.give_back(at, entry, step.now, &mut work)?;
                }
            }
        }
        if !self.paused {
            let want = Want { messages: step.want.messages.min(messages_max), ..step.want };
            let mut room = Room { want, given: 0 };
            if self.redeliver(step.session, &mut room, &mut work)? {
                self.deliver(step.session, &mut room, &mut work)?;
            }
        }
        let mut stepped = work.stepped;
        stepped.backlog += (self.pending.len() - self.pending.leased()) as u64;
        stepped.ack_wait = self.settings.ack_wait;
        stepped.next_due = self.pending.next_due().map(|(due, _)| due);
        let is_due = stepped.next_due.is_some_and(|due| due <= step.now);
        stepped.others = !self.paused && (is_due || (was_full && !self.is_full()));
        Ok(stepped)
    }

    /// How far behind it is.
    ///
    /// # Errors
    /// Those of the source.
    pub fn lag(&self, source: &mut impl Source) -> Result<Lag> {
        let leased = self.pending.leased();
        let mut lag = Lag {
            pending: 0,
            unacked: leased as u64,
            redeliverable: (self.pending.len() - leased) as u64,
            is_exact: true,
        };
        let mut cursor = self.cursor;
        for _ in 0..LAG_SCANS_MAX {
            let scan = source.scan(&self.settings.filter, cursor, ScanLimits { bytes: u64::MAX, ..SCAN })?;
            if let Some(last) = scan.last {
                // Blocks that lie before the sequence that it began with say nothing.
                let first = scan.blocks.iter().find(|located| located.block.end() > self.next_sequence);
                if first.is_some() || scan.is_end {
                    let floor = first.map_or(last + 1, |located| located.floor.max(located.block.first));
                    lag.pending = (last + 1).saturating_sub(self.next_sequence.max(floor));
                    return Ok(lag);
                }
            } else {
                lag.pending += scan.blocks.iter().map(|located| live_from(located, cursor)).sum::<u64>();
                if scan.is_end {
                    return Ok(lag);
                }
            }
            cursor = scan.next;
        }
        lag.is_exact = false;
        Ok(lag)
    }

    fn is_full(&self) -> bool {
        self.pending.len() >= self.settings.max_ack_pending
    }

    fn is_last_attempt(&self, entry: Entry) -> bool {
        self.settings.max_deliver > 0 && entry.attempt >= self.settings.max_deliver
    }

    /// Carries out one answer; the inner result is the worker's.
    fn settle<S: Source>(&mut self, session: Session, settle: &Settle, work: &mut Work<'_, S>) -> Result<Result<()>> {
        let at = settle.at;
        let entry = match self.pending.get(at) {
            Some(entry) if entry.owner == Some(session) && entry.attempt == settle.attempt => *entry,
            _ => return Ok(Err(lost("it was given to another worker, or was settled, reset or expired meanwhile"))),
        };
        let is_answer = !matches!(settle.how, How::Gone | How::Damaged(_) | How::Release);
        if is_answer && settle.received >= entry.due {
            return Ok(Err(lost("its ack wait is over: extend leases while you work")));
        }
        match &settle.how {
            How::Ack => {
                self.finish(at);
                self.counts.acked += 1;
            }
            How::Nak(delay) => {
                let delay = delay.unwrap_or_else(|| {
                    backoff::delay(&self.settings.back_off, entry.attempt, at ^ u64::from(entry.attempt) << 48)
                });
                self.give_back(at, entry, work.now.after(delay), work)?;
            }
            How::Extend => {
                let due = work.now.after(self.settings.ack_wait);
                self.pending.put(at, Entry { due, ..entry });
            }
            How::Terminate(reason) => self.give_up(at, entry, Reason::Terminated, reason, work)?,
            How::Release => {
                let attempt = entry.attempt.saturating_sub(1);
                self.pending.put(at, Entry { attempt, owner: None, due: work.now });
            }
            How::Gone => {
                self.finish(at);
                self.counts.expired += 1;
            }
            How::Damaged(what) => self.give_up(at, entry, Reason::DataLoss, what, work)?,
        }
        Ok(Ok(()))
    }

    /// Lets a message wait for its next delivery, unless this was its last.
    fn give_back<S: Source>(&mut self, at: u64, entry: Entry, due: Timestamp, work: &mut Work<'_, S>) -> Result<()> {
        if self.is_last_attempt(entry) && work.stepped.letters.len() < LETTERS_MAX {
            return self.give_up(at, entry, Reason::MaxDeliver, "", work);
        }
        self.pending.put(at, Entry { owner: None, due, ..entry });
        Ok(())
    }

    fn give_up<S: Source>(
        &mut self,
        at: u64,
        entry: Entry,
        reason: Reason,
        detail: &str,
        work: &mut Work<'_, S>,
    ) -> Result<()> {
        self.finish(at);
        if self.settings.dead_letters.is_none() {
            self.counts.dropped += 1;
            return Ok(());
        }
        let Some(located) = work.live(at)? else {
            self.counts.expired += 1;
            return Ok(());
        };
        self.counts.dead_lettered += 1;
        work.stepped.letters.push(Letter { at, located, attempts: entry.attempt, reason, detail: detail.into() });
        Ok(())
    }

    fn finish(&mut self, at: u64) {
        self.pending.remove(at);
        self.is_changed = true;
    }

    /// Delivers again what is due; gives `true` if there is room for more.
    fn redeliver<S: Source>(&mut self, session: Session, room: &mut Room, work: &mut Work<'_, S>) -> Result<bool> {
        while let Some((due, at)) = self.pending.next_due()
            && due <= work.now
        {
            let Some(entry) = self.pending.get(at).copied() else { break };
            if self.is_last_attempt(entry) {
                if work.stepped.letters.len() >= LETTERS_MAX {
                    work.stepped.more = true;
                    return Ok(false);
                }
                self.give_up(at, entry, Reason::MaxDeliver, "", work)?;
                continue;
            }
            let Some(located) = work.live(at)? else {
                self.finish(at);
                self.counts.expired += 1;
                continue;
            };
            if !room.take(&located) {
                work.stepped.more = true;
                return Ok(false);
            }
            self.give(session, &located, at, entry.attempt, work);
        }
        Ok(true)
    }

    /// Moves the cursor.
    fn deliver<S: Source>(&mut self, session: Session, room: &mut Room, work: &mut Work<'_, S>) -> Result<()> {
        if room.want.is_nothing() || self.is_full() {
            work.stepped.more = true;
            return Ok(());
        }
        for _ in 0..SCANS_MAX {
            let limits = ScanLimits { bytes: SCAN.bytes.min(room.want.bytes), ..SCAN };
            let scan = work.source.scan(&self.settings.filter, self.cursor, limits)?;
            let stopped = self.deliver_blocks(session, &scan.blocks, room, work);
            if let Some(last) = scan.last {
                if scan.is_end && !stopped {
                    self.pass_to(last + 1);
                }
                work.stepped.backlog = (last + 1).saturating_sub(self.next_sequence);
            } else {
                work.stepped.backlog = scan.blocks.iter().map(|located| live_from(located, self.cursor)).sum();
            }
            if stopped {
                work.stepped.more = true;
                return Ok(());
            }
            self.cursor = self.cursor.max(scan.next);
            if scan.is_end {
                return Ok(());
            }
        }
        work.stepped.more = true;
        Ok(())
    }

    /// Gives `true` if it stopped before the end of the blocks.
    fn deliver_blocks<S: Source>(
        &mut self,
        session: Session,
        blocks: &[Located],
        room: &mut Room,
        work: &mut Work<'_, S>,
    ) -> bool {
        let is_one_subject = self.settings.filter.subject().is_some();
        for located in blocks {
            let block = &located.block;
            let mut from = located.sequence_at(self.cursor).max(located.floor);
            if is_one_subject {
                from = from.max(self.next_sequence).min(block.end());
                self.pass_to(from);
            }
            if block.expires.is_some_and(|at| at <= work.now) {
                let gone = block.end().saturating_sub(from);
                self.counts.passed += gone;
                self.counts.expired += gone;
                self.is_changed |= gone > 0;
                from = block.end();
                // Not backwards: the block may lie before the sequence that it began with.
                self.next_sequence = if is_one_subject { self.next_sequence.max(from) } else { 0 };
            }
            for sequence in from..block.end() {
                let at = block.stream_first + (sequence - block.first);
                self.cursor = at;
                if self.is_full() || !room.take(located) {
                    return true;
                }
                self.counts.passed += 1;
                self.next_sequence = if is_one_subject { sequence + 1 } else { 0 };
                self.give(session, located, at, 0, work);
            }
            self.cursor = block.stream_end();
        }
        false
    }

    /// Sequences of its one subject before this one were removed before it came to them.
    fn pass_to(&mut self, sequence: u64) {
        let gone = sequence.saturating_sub(self.next_sequence);
        self.counts.passed += gone;
        self.counts.expired += gone;
        self.next_sequence += gone;
        self.is_changed |= gone > 0;
    }

    fn give<S: Source>(&mut self, session: Session, located: &Located, at: u64, attempts: u32, work: &mut Work<'_, S>) {
        let attempt = attempts.saturating_add(1);
        let deadline = work.now.after(self.settings.ack_wait);
        self.pending.put(at, Entry { attempt, owner: Some(session), due: deadline });
        self.counts.deliveries += 1;
        self.counts.redeliveries += u64::from(attempt > 1);
        self.is_changed = true;
        let given = Given { at, attempt, deadline };
        match work.stepped.runs.last_mut() {
            Some(run)
                if run.block.stream_first == located.block.stream_first
                    && run.given.last().is_some_and(|last| last.at < at) =>
            {
                run.given.push(given);
            }
            _ => work.stepped.runs.push(Run {
                subject: located.subject.clone(),
                block: located.block.clone(),
                given: vec![given],
            }),
        }
    }
}

/// One step under way.
struct Work<'a, S> {
    now: Timestamp,
    source: &'a mut S,
    stepped: Stepped,
    /// The block found last: what is redelivered often lies together.
    last: Option<Located>,
}

impl<S: Source> Work<'_, S> {
    /// The block of a message that is neither gone nor expired with all of its block.
    fn live(&mut self, at: u64) -> Result<Option<Located>> {
        let holds = |located: &Located| (located.block.stream_first..located.block.stream_end()).contains(&at);
        if !self.last.as_ref().is_some_and(holds) {
            self.last = self.source.find(at)?;
        }
        let is_live = |located: &&Located| {
            located.sequence_at(at) >= located.floor && located.block.expires.is_none_or(|at| at > self.now)
        };
        Ok(self.last.as_ref().filter(is_live).cloned())
    }
}

/// What a worker takes in one step.
struct Room {
    want: Want,
    given: usize,
}

impl Room {
    /// Takes one message of a block, by the average size of its messages.
    fn take(&mut self, located: &Located) -> bool {
        if self.want.is_nothing() {
            return false;
        }
        let block = &located.block;
        let average = block.bytes() / u64::from(block.count.max(1));
        let bytes = if average > self.want.message_bytes { 0 } else { average };
        if bytes > self.want.bytes && (self.given > 0 || !self.want.is_idle) {
            return false;
        }
        self.given += 1;
        self.want.messages -= 1;
        self.want.bytes = self.want.bytes.saturating_sub(bytes);
        true
    }
}

/// Messages of a block from a stream sequence on that are not purged.
fn live_from(located: &Located, cursor: u64) -> u64 {
    located.block.end().saturating_sub(located.sequence_at(cursor).max(located.floor))
}

fn lost(why: &str) -> Error {
    Error::Precondition(format!(
        "the lease is lost: {why}; the message is, or will be, delivered again unless it is settled"
    ))
}
