use std::collections::{BTreeMap, BTreeSet};

use super::Session;
use crate::types::Timestamp;

/// Entries are stored in pages of this many stream sequences, so that a change writes a few bytes and not all of them.
pub(super) const PAGE_BITS: u32 = 12;

/// A message that was delivered and is not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Deliveries so far.
    pub(super) attempt: u32,
    /// Who has it; `None` while it waits.
    pub(super) owner: Option<Session>,
    /// When the lease is over, or when it is to be delivered again.
    pub(super) due: Timestamp,
}

impl Entry {
    /// What is stored of it. Where no lease outlives the broker that gave it, a leased message is due after a restart.
    pub(super) fn stored(&self, keeps_leases: bool) -> Self {
        match self.owner {
            Some(_) if !keeps_leases => Self { owner: None, due: Timestamp(0), ..*self },
            _ => *self,
        }
    }
}

/// Every entry, by stream sequence and by time.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    entries: BTreeMap<u64, Entry>,
    by_time: BTreeSet<(Timestamp, u64)>,
    leased: usize,
    /// Pages that differ from what is stored.
    dirty: Vec<u64>,
    /// What entries were before each change since [`mark`](Self::mark), in order; `None` if there is no mark.
    undo: Option<Vec<(u64, Option<Entry>)>>,
    /// True where leases are stored: several brokers share the consumer, and one may outlive another.
    pub(super) keeps_leases: bool,
}

impl Pending {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn leased(&self) -> usize {
        self.leased
    }

    pub(super) fn get(&self, at: u64) -> Option<&Entry> {
        self.entries.get(&at)
    }

    /// The lowest stream sequence that is not settled.
    pub(super) fn first(&self) -> Option<u64> {
        self.entries.keys().next().copied()
    }

    /// What has its time next.
    pub(super) fn next_due(&self) -> Option<(Timestamp, u64)> {
        self.by_time.first().copied()
    }

    pub(super) fn put(&mut self, at: u64, entry: Entry) {
        let before = self.entries.insert(at, entry);
        if let Some(undo) = &mut self.undo {
            undo.push((at, before));
        }
        if let Some(before) = before {
            self.forget(at, before);
        }
        self.leased += usize::from(entry.owner.is_some());
        self.by_time.insert((entry.due, at));
        if before.is_none_or(|before| before.stored(self.keeps_leases) != entry.stored(self.keeps_leases)) {
            self.touch(at);
        }
    }

    pub(super) fn remove(&mut self, at: u64) -> Option<Entry> {
        let before = self.entries.remove(&at)?;
        if let Some(undo) = &mut self.undo {
            undo.push((at, Some(before)));
        }
        self.forget(at, before);
        self.touch(at);
        Some(before)
    }

    /// Remembers changes from now on, until [`keep`](Self::keep) or [`roll_back`](Self::roll_back).
    pub(super) fn mark(&mut self) {
        self.undo = Some(Vec::new());
    }

    /// What was changed since the mark stays.
    pub(super) fn keep(&mut self) {
        self.undo = None;
    }

    /// Takes back what was changed since the mark: as much work as the changes were.
    pub(super) fn roll_back(&mut self) {
        for (at, before) in self.undo.take().into_iter().flatten().rev() {
            match before {
                Some(entry) => self.put(at, entry),
                None => drop(self.remove(at)),
            }
        }
    }

    /// Nothing of it is stored, so nothing differs from what is.
    pub(super) fn forget_dirty(&mut self) {
        self.dirty.clear();
    }

    pub(super) fn clear(&mut self) {
        let pages: Vec<u64> = self.entries.keys().map(|at| at >> PAGE_BITS).collect();
        self.dirty.extend(pages);
        if let Some(undo) = &mut self.undo {
            undo.extend(self.entries.iter().map(|(at, entry)| (*at, Some(*entry))));
        }
        (self.entries, self.by_time, self.leased) = (BTreeMap::new(), BTreeSet::new(), 0);
    }

    /// Stream sequences leased to a session.
    pub(super) fn of(&self, session: Session) -> Vec<u64> {
        let is_its = |(at, entry): (&u64, &Entry)| (entry.owner == Some(session)).then_some(*at);
        self.entries.iter().filter_map(is_its).collect()
    }

    /// Lets messages be due again whose workers are no more.
    pub(super) fn orphan(&mut self, is_alive: impl Fn(Session) -> bool) {
        let is_lost = |entry: &Entry| entry.owner.is_some_and(|owner| !is_alive(owner));
        let lost: Vec<_> = self.entries.iter().filter(|(_, entry)| is_lost(entry)).map(|(at, _)| *at).collect();
        for at in lost {
            if let Some(entry) = self.entries.get(&at).copied() {
                self.put(at, Entry { owner: None, due: Timestamp(0), ..entry });
            }
        }
    }

    /// Pages that differ from what is stored, each once; they count as stored from now on.
    pub(super) fn take_dirty(&mut self) -> Vec<u64> {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_unstable();
        dirty.dedup();
        dirty
    }

    /// Entries of one page.
    pub(super) fn page(&self, page: u64) -> impl Iterator<Item = (u64, &Entry)> {
        let start = page << PAGE_BITS;
        self.entries.range(start..=start | ((1 << PAGE_BITS) - 1)).map(|(at, entry)| (*at, entry))
    }

    /// True if every index tells the same.
    #[cfg(test)]
    pub(super) fn is_consistent(&self) -> bool {
        self.by_time.len() == self.entries.len()
            && self.entries.iter().all(|(at, entry)| self.by_time.contains(&(entry.due, *at)))
            && self.entries.values().filter(|entry| entry.owner.is_some()).count() == self.leased
    }

    fn forget(&mut self, at: u64, before: Entry) {
        self.by_time.remove(&(before.due, at));
        self.leased -= usize::from(before.owner.is_some());
    }

    fn touch(&mut self, at: u64) {
        let page = at >> PAGE_BITS;
        if self.dirty.last() != Some(&page) {
            self.dirty.push(page);
        }
    }
}
