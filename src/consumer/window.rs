//! What one worker has, and how much more it takes.

use std::collections::VecDeque;

use crate::types::Timestamp;

/// Bits of a lease id that count the deliveries of a stream; those above tell streams apart.
const COUNT_BITS: u32 = 40;

/// A delivery that is not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Stream sequence of the message.
    pub at: u64,
    /// Which delivery of it.
    pub attempt: u32,
    /// Bytes sent along.
    pub bytes: u64,
    /// From this moment on the lease is over, as far as this side knows.
    pub deadline: Timestamp,
}

/// Credit and leases of one stream. Credit is used on sending and comes back when a lease ends, however it does.
#[derive(Debug)]
pub struct Window {
    base: u64,
    /// Leases from `first` on; settled ones leave a hole until they are the first.
    held: VecDeque<Option<Held>>,
    first: u64,
    count: usize,
    bytes: u64,
    messages_max: usize,
    bytes_max: u64,
    /// No lease is over before this moment.
    earliest: Timestamp,
}

/// What tells a stream apart in the ids of its leases; other streams may share it, rarely.
pub fn stream_of_seed(seed: u64) -> u64 {
    stream_of_lease(seed << COUNT_BITS)
}

/// The same, of the stream that gave a lease.
pub fn stream_of_lease(lease: u64) -> u64 {
    lease >> COUNT_BITS
}

/// Leases given since the oldest that is out: one that is held for very long stops the stream until it ends.
const SPREAD_MAX: usize = 1 << 20;

impl Window {
    /// A window without credit. `seed` makes the lease ids of this stream differ from those of others.
    pub fn new(seed: u64) -> Self {
        let base = seed << COUNT_BITS;
        let (held, earliest) = (VecDeque::new(), Timestamp(u64::MAX));
        Self { base, held, first: 0, count: 0, bytes: 0, messages_max: 0, bytes_max: 0, earliest }
    }

    /// Replaces the credit.
    pub fn set_credit(&mut self, messages: usize, bytes: u64) {
        (self.messages_max, self.bytes_max) = (messages, bytes);
    }

    /// Messages that it takes now.
    pub fn messages_left(&self) -> usize {
        self.messages_max.saturating_sub(self.count).min(SPREAD_MAX.saturating_sub(self.held.len()))
    }

    /// Bytes that it takes now.
    pub fn bytes_left(&self) -> u64 {
        self.bytes_max.saturating_sub(self.bytes)
    }

    /// Leases that are out.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The largest message that passes, in bytes: one that is larger than all credit passes alone.
    pub fn largest(&self) -> u64 {
        if self.count == 0 { u64::MAX } else { self.bytes_left() }
    }

    /// True if a message of so many bytes may be sent.
    pub fn takes(&self, bytes: u64) -> bool {
        self.messages_left() > 0 && self.bytes_max > 0 && bytes <= self.largest()
    }

    /// Counts a delivery, and names it.
    pub fn send(&mut self, held: Held) -> u64 {
        self.count += 1;
        self.bytes += held.bytes;
        self.earliest = self.earliest.min(held.deadline);
        self.held.push_back(Some(held));
        self.base | (self.first + self.held.len() as u64 - 1)
    }

    /// What a lease id stands for; `None` if it is settled, over, or of another stream.
    pub fn get(&self, lease: u64) -> Option<Held> {
        self.held.get(self.index(lease)?).copied().flatten()
    }

    /// Ends a lease, and gives its credit back.
    pub fn end(&mut self, lease: u64) -> Option<Held> {
        let index = self.index(lease)?;
        let held = self.held.get_mut(index)?.take()?;
        self.count -= 1;
        self.bytes -= held.bytes;
        while let Some(None) = self.held.front() {
            self.held.pop_front();
            self.first += 1;
        }
        Some(held)
    }

    /// Moves the end of a lease.
    pub fn extend(&mut self, lease: u64, deadline: Timestamp) {
        if let Some(index) = self.index(lease)
            && let Some(Some(held)) = self.held.get_mut(index)
        {
            held.deadline = deadline;
        }
    }

    /// Leases that are out up to and including this one, in order; `None` if it was never given on this stream.
    pub fn up_to(&self, lease: u64) -> Option<Vec<u64>> {
        let count = self.count_of(lease)?;
        if count >= self.first + self.held.len() as u64 {
            return None;
        }
        let upper = (count + 1).saturating_sub(self.first);
        let leases = (self.first..).zip(&self.held).take(usize::try_from(upper).unwrap_or(usize::MAX));
        Some(leases.filter(|(_, held)| held.is_some()).map(|(count, _)| self.base | count).collect())
    }

    /// Leases whose time is over.
    pub fn overdue(&mut self, now: Timestamp) -> Vec<u64> {
        if now < self.earliest {
            return Vec::new();
        }
        // Those that are over count until they are ended.
        self.earliest = self.held.iter().flatten().map(|held| held.deadline).min().unwrap_or(Timestamp(u64::MAX));
        let is_over = |held: &Option<Held>| held.is_some_and(|held| held.deadline <= now);
        (self.first..).zip(&self.held).filter(|(_, held)| is_over(held)).map(|(count, _)| self.base | count).collect()
    }

    fn count_of(&self, lease: u64) -> Option<u64> {
        (lease >> COUNT_BITS == self.base >> COUNT_BITS).then_some(lease & ((1 << COUNT_BITS) - 1))
    }

    fn index(&self, lease: u64) -> Option<usize> {
        usize::try_from(self.count_of(lease)?.checked_sub(self.first)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held(at: u64, bytes: u64) -> Held {
        Held { at, attempt: 1, bytes, deadline: Timestamp(at) }
    }

    proptest! {
        #[test]
        fn credit_is_what_is_not_out(ops in prop::collection::vec((0_u64..30, 0_u64..50), 1..200)) {
            let mut window = Window::new(3);
            window.set_credit(10, 200);
            let mut out: Vec<(u64, u64)> = Vec::new();
            for (op, bytes) in ops {
                if op < 15 && window.takes(bytes) {
                    out.push((window.send(held(op, bytes)), bytes));
                } else if !out.is_empty() {
                    let index = usize::try_from(op).unwrap() % out.len();
                    let (lease, _) = out.swap_remove(index);
                    prop_assert!(window.get(lease).is_some());
                    prop_assert!(window.end(lease).is_some());
                    prop_assert!(window.end(lease).is_none(), "a lease ends once");
                }
                prop_assert_eq!(window.messages_left(), 10 - out.len());
                prop_assert_eq!(window.bytes_left(), 200 - out.iter().map(|(_, bytes)| bytes).sum::<u64>());
                let mut leases: Vec<_> = out.iter().map(|(lease, _)| *lease).collect();
                leases.sort_unstable();
                if let Some(&last) = leases.last() {
                    prop_assert_eq!(window.up_to(last), Some(leases));
                }
            }
        }
    }

    #[test]
    fn leases_of_other_streams_are_unknown() {
        let (mut mine, mut other) = (Window::new(1), Window::new(2));
        mine.set_credit(9, 9);
        let (lease, foreign) = (mine.send(held(1, 1)), other.send(held(1, 1)));
        assert!(mine.get(lease).is_some() && mine.get(foreign).is_none() && mine.up_to(foreign).is_none());
        assert!(mine.get(lease + 1).is_none() && mine.up_to(lease + 1).is_none() && mine.get(0).is_none());
    }

    #[test]
    fn a_message_larger_than_all_credit_passes_alone() {
        let mut window = Window::new(1);
        assert!(!window.takes(0), "no credit");
        window.set_credit(2, 10);
        assert!(window.takes(1000));
        let lease = window.send(held(1, 1000));
        assert!(!window.takes(0) || window.bytes_left() == 0);
        assert!(!window.takes(1));
        assert_eq!(window.largest(), 0);
        window.end(lease);
        assert_eq!(window.bytes_left(), 10);
    }

    #[test]
    fn leases_end_by_time() {
        let mut window = Window::new(1);
        let leases: Vec<_> = (1..=3).map(|at| window.send(held(at, 0))).collect();
        window.extend(leases[0], Timestamp(9));
        for (now, over) in [(1, None), (2, Some(leases[1])), (8, Some(leases[2])), (9, Some(leases[0]))] {
            let overdue = window.overdue(Timestamp(now));
            assert_eq!(overdue, over.into_iter().collect::<Vec<_>>(), "at {now}");
            assert!(overdue.into_iter().all(|lease| window.end(lease).is_some()));
        }
        assert_eq!(window.count(), 0);
    }
}
