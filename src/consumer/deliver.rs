//! What a worker gets: first what is due again, then what is new.

use super::{Consumer, Given, Reason, Run, Session, Source, Stepped, Want, pending::Entry, state::LETTERS_MAX};
use crate::{
    block::{Located, Placement, ScanLimits},
    error::Result,
    types::Timestamp,
};

/// Scans of one step: a pattern that matches little passes over so much of the stream at a time.
const SCANS_MAX: usize = 4;

/// One scan.
const SCAN: ScanLimits = ScanLimits { blocks: 256, bytes: 4 << 20, rows: 2_000 };

impl Consumer {
    /// Delivers again what is due; gives `true` if there is room for more.
    pub(super) fn redeliver<S: Source>(
        &mut self,
        session: Session,
        room: &mut Room,
        work: &mut Work<'_, S>,
    ) -> Result<bool> {
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
            if work.loaded > SCAN.bytes || !room.take(&located) {
                work.stepped.more = true;
                return Ok(false);
            }
            self.give(session, &located, at, entry.attempt, work);
        }
        Ok(true)
    }

    /// Moves the cursor.
    pub(super) fn deliver<S: Source>(
        &mut self,
        session: Session,
        room: &mut Room,
        work: &mut Work<'_, S>,
    ) -> Result<()> {
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
pub(super) struct Work<'a, S> {
    pub(super) now: Timestamp,
    pub(super) source: &'a mut S,
    pub(super) stepped: Stepped,
    /// The block found last: what is redelivered often lies together.
    pub(super) last: Option<Located>,
    /// Bytes that came along with blocks which were looked up one by one.
    pub(super) loaded: u64,
}

impl<S: Source> Work<'_, S> {
    /// The block of a message that is neither gone nor expired with all of its block.
    pub(super) fn live(&mut self, at: u64) -> Result<Option<Located>> {
        let holds = |located: &Located| (located.block.stream_first..located.block.stream_end()).contains(&at);
        if !self.last.as_ref().is_some_and(holds) {
            self.last = self.source.find(at)?;
            if let Some(Placement::Inline(body)) = self.last.as_ref().map(|located| &located.block.placement) {
                self.loaded += body.len() as u64;
            }
        }
        let is_live = |located: &&Located| {
            located.sequence_at(at) >= located.floor && located.block.expires.is_none_or(|at| at > self.now)
        };
        Ok(self.last.as_ref().filter(is_live).cloned())
    }
}

/// What a worker takes in one step.
pub(super) struct Room {
    pub(super) want: Want,
    pub(super) given: usize,
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
        if bytes > self.want.bytes && (self.given > 0 || bytes > self.want.first_bytes) {
            return false;
        }
        self.given += 1;
        self.want.messages -= 1;
        self.want.bytes = self.want.bytes.saturating_sub(bytes);
        true
    }
}

/// Messages of a block from a stream sequence on that are not purged.
pub(super) fn live_from(located: &Located, cursor: u64) -> u64 {
    located.block.end().saturating_sub(located.sequence_at(cursor).max(located.floor))
}
