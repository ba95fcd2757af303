//! What one worker has, and how much more it takes.

use std::collections::{BTreeMap, VecDeque};

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
    /// The newest leases, from number `first` on; settled ones leave a hole until they are the first.
    held: VecDeque<Option<Held>>,
    first: u64,
    /// Leases before `first`: those that are held while many others pass. They take no room among the newest.
    old: BTreeMap<u64, Held>,
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

/// Among so many of the newest leases, holes do not matter.
const DENSE_MIN: usize = 1024;

impl Window {
    /// A window without credit. `seed` makes the lease ids of this stream differ from those of others.
    pub fn new(seed: u64) -> Self {
        let base = seed << COUNT_BITS;
        Self {
            base,
            held: VecDeque::new(),
            first: 0,
            old: BTreeMap::new(),
            count: 0,
            bytes: 0,
            messages_max: 0,
            bytes_max: 0,
            earliest: Timestamp(u64::MAX),
        }
    }

    /// Replaces the credit.
    pub fn set_credit(&mut self, messages: usize, bytes: u64) {
        (self.messages_max, self.bytes_max) = (messages, bytes);
    }

    /// Messages that it takes now.
    pub fn messages_left(&self) -> usize {
        self.messages_max.saturating_sub(self.count)
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
        let number = self.number_of(lease)?;
        match number.checked_sub(self.first) {
            Some(index) => self.held.get(usize::try_from(index).ok()?).copied().flatten(),
            None => self.old.get(&number).copied(),
        }
    }

    /// Ends a lease, and gives its credit back.
    pub fn end(&mut self, lease: u64) -> Option<Held> {
        let number = self.number_of(lease)?;
        let held = match number.checked_sub(self.first) {
            Some(index) => self.held.get_mut(usize::try_from(index).ok()?)?.take()?,
            None => self.old.remove(&number)?,
        };
        self.count -= 1;
        self.bytes -= held.bytes;
        self.close_up();
        Some(held)
    }

    /// Moves the front on: beyond holes, and beyond leases that are held while most of those behind them have ended. Each
    /// lease is moved at most once.
    fn close_up(&mut self) {
        loop {
            let is_sparse = self.held.len() > DENSE_MIN && self.held.len() / 4 > self.count - self.old.len();
            match self.held.front() {
                Some(Some(held)) if is_sparse => drop(self.old.insert(self.first, *held)),
                Some(None) => {}
                _ => return,
            }
            self.held.pop_front();
            self.first += 1;
        }
    }

    /// Moves the end of a lease.
    pub fn extend(&mut self, lease: u64, deadline: Timestamp) {
        let Some(number) = self.number_of(lease) else { return };
        let held = match number.checked_sub(self.first) {
            Some(index) => usize::try_from(index).ok().and_then(|index| self.held.get_mut(index)?.as_mut()),
            None => self.old.get_mut(&number),
        };
        if let Some(held) = held {
            held.deadline = deadline;
        }
    }

    /// Leases that are out up to and including this one, in order; `None` if it was never given on this stream.
    pub fn up_to(&self, lease: u64) -> Option<Vec<u64>> {
        let number = self.number_of(lease)?;
        if number >= self.first + self.held.len() as u64 {
            return None;
        }
        let numbers = self.all().map(|(number, _)| number).take_while(|at| *at <= number);
        Some(numbers.map(|number| self.base | number).collect())
    }

    /// Leases whose time is over.
    pub fn overdue(&mut self, now: Timestamp) -> Vec<u64> {
        if now < self.earliest {
            return Vec::new();
        }
        // Those that are over count until they are ended.
        self.earliest = self.all().map(|(_, held)| held.deadline).min().unwrap_or(Timestamp(u64::MAX));
        let over = self.all().filter(|(_, held)| held.deadline <= now);
        over.map(|(number, _)| self.base | number).collect()
    }

    /// Every lease that is out, in the order in which they were given.
    fn all(&self) -> impl Iterator<Item = (u64, &Held)> {
        let newest = (self.first..).zip(&self.held).filter_map(|(number, held)| Some((number, held.as_ref()?)));
        self.old.iter().map(|(number, held)| (*number, held)).chain(newest)
    }

    fn number_of(&self, lease: u64) -> Option<u64> {
        (lease >> COUNT_BITS == self.base >> COUNT_BITS).then_some(lease & ((1 << COUNT_BITS) - 1))
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

    #[test]
    fn p6_one_long_lease_stalls_nothing_and_takes_no_memory() {
        let mut window = Window::new(5);
        window.set_credit(100, 1 << 20);
        let first = window.send(held(0, 7));
        for at in 1..=1 << 21 {
            assert!(window.takes(10), "at {at}");
            let lease = window.send(held(at, 10));
            assert!(window.end(lease).is_some());
        }
        assert!(window.held.capacity() <= 8 * DENSE_MIN, "{}", window.held.capacity());
        assert_eq!((window.count(), window.bytes_left(), window.get(first)), (1, (1 << 20) - 7, Some(held(0, 7))));
        window.extend(first, Timestamp(99));
        assert!(window.overdue(Timestamp(50)).is_empty());
        assert_eq!(window.overdue(Timestamp(99)), [first]);
        let last = window.send(held(1, 0));
        assert_eq!(window.up_to(last), Some(vec![first, last]));
        assert_eq!(window.end(first).map(|held| held.at), Some(0));
        assert!(window.get(first).is_none() && window.end(first).is_none());
    }
}
