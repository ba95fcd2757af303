use super::{
    Counts, How, Letter, Reason, Session, Settings, Settle, Source, Standing, Step, Stepped, Want, backoff,
    deliver::{Room, Work},
    pending::{Entry, Pending},
};
use crate::{
    error::{Error, Result},
    types::Timestamp,
};

/// Dead letters that one step makes of what nobody answered; the rest follows with the next step.
pub(super) const LETTERS_MAX: usize = 500;

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
    /// What it was at the last mark, but for pending entries, which have their own.
    marked: Option<Marked>,
}

/// The part of a consumer's state that has a fixed size.
#[derive(Clone, Copy, Debug)]
struct Marked {
    counts: Counts,
    cursor: u64,
    began: u64,
    next_sequence: u64,
    is_changed: bool,
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
            marked: None,
        }
    }

    /// Begins anew: leases are lost, counts are zero.
    pub fn reset(&mut self, cursor: u64, sequence: u64) {
        self.pending.clear();
        self.counts = Counts::default();
        (self.cursor, self.began, self.next_sequence) = (cursor, sequence, sequence);
        self.is_changed = true;
    }

    /// Remembers the state, so that steps from now on can be taken back.
    pub fn mark(&mut self) {
        let Self { counts, cursor, began, next_sequence, is_changed, .. } = *self;
        self.marked = Some(Marked { counts, cursor, began, next_sequence, is_changed });
        self.pending.mark();
    }

    /// Keeps the steps since the mark.
    pub fn keep(&mut self) {
        self.marked = None;
        self.pending.keep();
    }

    /// Takes back the steps since the mark, at the cost of what they changed. Without a mark nothing changes.
    pub fn roll_back(&mut self) {
        let Some(Marked { counts, cursor, began, next_sequence, is_changed }) = self.marked.take() else { return };
        (self.counts, self.cursor, self.began) = (counts, cursor, began);
        (self.next_sequence, self.is_changed) = (next_sequence, is_changed);
        self.pending.roll_back();
    }

    /// Records that nothing of it is stored: a consumer that lives in memory alone has no changes to write.
    pub fn forget_changes(&mut self) {
        self.is_changed = false;
        self.pending.forget_dirty();
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
        let mut work = Work { now: step.now, source, stepped: Stepped::default(), last: None, loaded: 0 };
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

    /// What says how far behind it is.
    pub fn standing(&self) -> Standing {
        let unacked = self.pending.leased();
        Standing {
            filter: self.settings.filter.clone(),
            cursor: self.cursor,
            next_sequence: self.next_sequence,
            unacked: unacked as u64,
            redeliverable: (self.pending.len() - unacked) as u64,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= self.settings.max_ack_pending
    }

    pub(super) fn is_last_attempt(&self, entry: Entry) -> bool {
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

    pub(super) fn give_up<S: Source>(
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

    pub(super) fn finish(&mut self, at: u64) {
        self.pending.remove(at);
        self.is_changed = true;
    }
}

fn lost(why: &str) -> Error {
    Error::Precondition(format!(
        "the lease is lost: {why}; the message is, or will be, delivered again unless it is settled"
    ))
}
