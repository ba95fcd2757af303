//! Messages in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use minitoolstream::{
    Result,
    block::{Block, Located, Placement, ScanLimits, StreamScan},
    consumer::{Source, Start},
    types::{Subject, SubjectFilter, Timestamp},
};

/// Bytes of a message.
pub(crate) const MESSAGE: u64 = 10;

/// The stream of all subjects.
pub(crate) struct World {
    /// By stream sequence.
    blocks: BTreeMap<u64, (Subject, Block)>,
    /// Last sequence and floor of each subject.
    books: BTreeMap<Subject, (u64, u64)>,
    next: u64,
    chunk: usize,
}

impl World {
    pub(crate) fn new(chunk: usize) -> Self {
        Self { blocks: BTreeMap::new(), books: BTreeMap::new(), next: 1, chunk }
    }

    fn books(&self, subject: &Subject) -> (u64, u64) {
        self.books.get(subject).copied().unwrap_or((0, 1))
    }

    /// Adds a block; gives its first sequence.
    pub(crate) fn insert(&mut self, subject: &Subject, count: u32, expires: Option<Timestamp>, now: Timestamp) -> u64 {
        let (last, floor) = self.books(subject);
        let body = vec![0; usize::try_from(MESSAGE).unwrap() * count as usize];
        let placement = Placement::Inline(Bytes::from(body));
        let block = Block { first: last + 1, stream_first: self.next, count, created: now, expires, crc: 0, placement };
        self.next = block.stream_end();
        self.books.insert(subject.clone(), (block.end() - 1, floor));
        self.blocks.insert(block.stream_first, (subject.clone(), block));
        last + 1
    }

    pub(crate) fn purge(&mut self, subject: &Subject, up_to: u64) -> u64 {
        let (last, floor) = self.books(subject);
        let up_to = up_to.min(last);
        let goes = |at: u64| (floor..=up_to).contains(&at);
        let of_subject = self.blocks.values().filter(|(of, _)| of == subject);
        let messages = of_subject.flat_map(|(_, block)| block.first..block.end()).filter(|at| goes(*at)).count();
        self.blocks.retain(|_, (of, block)| of != subject || block.end() - 1 > up_to);
        self.books.insert(subject.clone(), (last, floor.max(up_to + 1)));
        messages as u64
    }

    pub(crate) fn expire(&mut self, now: Timestamp) -> u64 {
        let is_over = |block: &Block| block.expires.is_some_and(|at| at <= now);
        let mut messages = 0;
        for (subject, block) in self.blocks.values().filter(|(_, block)| is_over(block)) {
            messages += block.end() - block.first.max(self.books[subject].1);
        }
        self.blocks.retain(|_, (_, block)| !is_over(block));
        for (subject, (last, floor)) in &mut self.books {
            let first = self.blocks.values().find(|(of, _)| of == subject).map(|(_, block)| block.first);
            *floor = (*floor).max(first.unwrap_or(*last + 1));
        }
        messages
    }

    /// Takes a message away that is alone in its block.
    pub(crate) fn remove(&mut self, subject: &Subject, sequence: u64) {
        self.blocks.retain(|_, (of, block)| of != subject || block.first != sequence);
    }

    /// The stream sequence and the sequence of its one subject that a consumer begins with.
    pub(crate) fn beginning(&self, filter: &SubjectFilter, start: Start) -> (u64, u64) {
        let matching = || self.blocks.values().filter(|(subject, _)| filter.matches(subject));
        let at = match start {
            Start::All => 1,
            Start::New => self.next,
            Start::StreamSequence(at) => at.clamp(1, self.next),
            Start::Time(time) => {
                let found = matching().find(|(_, block)| block.created.0 >= time);
                found.map_or(self.next, |(_, block)| block.stream_first)
            }
            Start::Sequence(sequence) => {
                let (last, floor) = self.books(&filter.subject().unwrap());
                let sequence = if sequence > last { sequence } else { sequence.max(floor) };
                let found = matching().find(|(_, block)| block.end() > sequence);
                return (found.map_or(self.next, |(_, block)| block.stream_first), sequence);
            }
        };
        let Some(subject) = filter.subject() else { return (at, 0) };
        let (last, floor) = self.books(&subject);
        let first = matching().find(|(_, block)| block.stream_end() > at);
        let sequence = first.map_or(last + 1, |(_, block)| block.first + at.saturating_sub(block.stream_first));
        (at, sequence.max(floor))
    }

    fn located(&self, (subject, block): &(Subject, Block)) -> Located {
        Located { subject: subject.clone(), floor: self.books(subject).1, block: block.clone() }
    }
}

impl Source for &World {
    fn scan(&mut self, filter: &SubjectFilter, from: u64, limits: ScanLimits) -> Result<StreamScan> {
        let one = filter.subject();
        let last = one.as_ref().map(|subject| self.books(subject).0);
        let mut scan = StreamScan { blocks: Vec::new(), next: from.max(self.next), is_end: true, last };
        let (mut rows, mut bytes) = (0, 0);
        for row @ (subject, block) in self.blocks.values().filter(|(_, block)| block.stream_end() > from) {
            let is_match = filter.matches(subject);
            if !is_match && one.is_some() {
                continue;
            }
            rows += 1;
            bytes += if is_match { block.bytes() } else { 0 };
            let is_over = scan.blocks.len() == limits.blocks || (!scan.blocks.is_empty() && bytes > limits.bytes);
            if is_over || rows > limits.rows.min(self.chunk) {
                (scan.next, scan.is_end) = (block.stream_first.max(from), false);
                break;
            }
            if is_match {
                scan.blocks.push(self.located(row));
            }
        }
        Ok(scan)
    }

    fn find(&mut self, at: u64) -> Result<Option<Located>> {
        let row = self.blocks.values().find(|(_, block)| (block.stream_first..block.stream_end()).contains(&at));
        let located = row.map(|row| self.located(row));
        Ok(located.filter(|located| located.sequence_at(at) >= located.floor))
    }
}
