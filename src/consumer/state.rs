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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        block::{Block, Located, Placement, ScanLimits, StreamScan},
        consumer::{Given, Patch},
        types::{ConsumerName, Subject, SubjectFilter},
    };

    /// A subject that never ends, in blocks of a hundred messages.
    struct Endless;

    const BLOCK: u64 = 100;

    fn located(at: u64) -> Located {
        let first = (at - 1) / BLOCK * BLOCK + 1;
        let block = Block {
            first,
            stream_first: first,
            count: u32::try_from(BLOCK).unwrap(),
            created: Timestamp(1),
            expires: None,
            crc: 0,
            placement: Placement::Inline(Bytes::new()),
        };
        Located { subject: Subject::parse("subject", "a").unwrap(), floor: 1, block }
    }

    impl Source for Endless {
        fn scan(&mut self, _: &SubjectFilter, from: u64, _: ScanLimits) -> Result<StreamScan> {
            let block = located(from);
            let next = block.block.stream_end();
            Ok(StreamScan { blocks: vec![block], next, is_end: false, last: None })
        }

        fn find(&mut self, at: u64) -> Result<Option<Located>> {
            Ok(Some(located(at)))
        }
    }

    fn consumer() -> Consumer {
        let patch = Patch { filter: SubjectFilter::parse("filter", "a").ok(), ..Default::default() };
        Consumer::new(Settings::complete(None, patch, Duration::from_secs(9)).unwrap(), 1, 1, Timestamp(1))
    }

    fn step(settles: Vec<Settle>, messages: usize, now: u64) -> Step {
        let want = Want { messages, bytes: 1 << 20, message_bytes: 1 << 20, first_bytes: u64::MAX };
        Step {
            consumer: ConsumerName::parse("name", "c").unwrap(),
            session: Session(1),
            settles,
            want,
            close: false,
            now: Timestamp(now),
        }
    }

    fn resident() -> u64 {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }

    #[test]
    fn p6_an_ephemeral_consumer_takes_no_more_memory_after_five_million_steps() {
        let mut consumer = consumer();
        let mut settles = Vec::new();
        let mut resident_early = 0;
        for number in 0..5_000_000_u64 {
            consumer.mark();
            let stepped = consumer.step(&step(std::mem::take(&mut settles), 1, 2), 10, &mut Endless).unwrap();
            consumer.keep();
            consumer.forget_changes();
            let given = stepped.runs[0].given[0];
            let received = Timestamp(2);
            settles.push(Settle { at: given.at, attempt: given.attempt, received, how: How::Ack });
            if number == 100_000 {
                resident_early = resident();
            }
        }
        assert_eq!((consumer.counts().acked, consumer.pending_len()), (4_999_999, 1));
        let grown = resident().saturating_sub(resident_early);
        eprintln!("{grown} bytes more after 4.9 million steps");
        assert!(grown < 4 << 20, "{grown}");
    }

    proptest! {
        #[test]
        fn steps_since_a_mark_are_taken_back(before in 0_usize..30, after in 0_usize..30, ways in prop::collection::vec(0_u8..4, 60)) {
            let mut consumer = consumer();
            let mut out = Vec::new();
            let mut ways = ways.into_iter();
            let mut work = |consumer: &mut Consumer, out: &mut Vec<Given>, steps: usize| {
                for now in 0..steps as u64 {
                    let how = match ways.next() {
                        Some(0) => How::Ack,
                        Some(1) => How::Nak(None),
                        Some(2) => How::Extend,
                        _ => How::Release,
                    };
                    let settle = |given: Given| Settle { at: given.at, attempt: given.attempt, received: Timestamp(now), how };
                    let settles = out.pop().map(settle).into_iter().collect();
                    let stepped = consumer.step(&step(settles, 2, now), 100, &mut Endless).unwrap();
                    out.extend(stepped.runs.into_iter().flat_map(|run| run.given));
                }
            };
            work(&mut consumer, &mut out, before);
            let look = |consumer: &Consumer| {
                let entries: Vec<_> = (0..1000).filter_map(|at| Some((at, *consumer.pending.get(at)?))).collect();
                (consumer.counts(), consumer.cursor(), consumer.sequences(), entries, consumer.pending.leased())
            };
            let earlier = look(&consumer);
            consumer.mark();
            work(&mut consumer, &mut out, after);
            consumer.roll_back();
            prop_assert_eq!(look(&consumer), earlier);
            prop_assert!(consumer.pending.is_consistent());
        }
    }
}
