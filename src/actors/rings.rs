//! Who works for which consumer.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::types::{ConsumerName, Timestamp};

/// Nothing is due.
const NEVER: Timestamp = Timestamp(u64::MAX);

/// What the workers of a consumer are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Counts up when something may be had now, or the consumer was changed.
    pub count: u64,
    /// Not before this moment will anything be due.
    pub due: Timestamp,
    /// True if the consumer is no more.
    pub is_over: bool,
}

/// Wakes the workers of a consumer.
///
/// Only consumers with workers take memory: an entry goes with its last watcher.
#[derive(Default)]
pub struct Rings {
    watched: Mutex<HashMap<ConsumerName, watch::Sender<Ring>>>,
}

impl Rings {
    /// Follows a consumer.
    pub fn watch(&self, consumer: &ConsumerName) -> watch::Receiver<Ring> {
        let mut watched = self.lock();
        // Watchers come and go with their connections: the ones that went are dropped here, in passing.
        if watched.len() > 16 && watched.len().is_power_of_two() {
            watched.retain(|_, sender| !sender.is_closed());
        }
        let silent = Ring { count: 0, due: NEVER, is_over: false };
        watched.entry(consumer.clone()).or_insert_with(|| watch::channel(silent).0).subscribe()
    }

    /// Tells what a step at `now` left behind. Workers are woken if something is there for `others`, or is `due` earlier
    /// than they know; a time that moved away is let stand, and costs them one look that finds nothing.
    pub fn ring(&self, consumer: &ConsumerName, others: bool, due: Option<Timestamp>, now: Timestamp) {
        let mut watched = self.lock();
        let Some(sender) = watched.get(consumer) else {
            return;
        };
        if sender.is_closed() {
            watched.remove(consumer);
            return;
        }
        let due = due.unwrap_or(NEVER);
        sender.send_if_modified(|ring| {
            let is_news = due < ring.due || (ring.due <= now && due < NEVER);
            if is_news || ring.due <= now {
                ring.due = due;
            }
            ring.count += u64::from(others);
            others || is_news
        });
    }

    /// Tells all workers to look: something may have been missed.
    pub fn ring_all(&self) {
        for sender in self.lock().values() {
            sender.send_modify(|ring| ring.count += 1);
        }
    }

    /// Tells the workers of a consumer that it is no more.
    pub fn end(&self, consumer: &ConsumerName) {
        if let Some(sender) = self.lock().remove(consumer) {
            sender.send_modify(|ring| ring.is_over = true);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConsumerName, watch::Sender<Ring>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_woken_for_what_is_new_and_for_what_is_earlier() {
        let rings = Rings::default();
        let consumer = ConsumerName::parse("name", "a").unwrap();
        let mut worker = rings.watch(&consumer);
        let mut woken = |others, due: u64, now: u64| {
            rings.ring(&consumer, others, Some(Timestamp(due)), Timestamp(now));
            let woken = worker.has_changed().unwrap();
            worker.mark_unchanged();
            woken
        };
        assert!(woken(false, 50, 0));
        assert!(!woken(false, 80, 10), "they look at 50, and learn it then");
        assert!(woken(true, 90, 20));
        assert!(woken(false, 40, 30));
        assert!(!woken(false, 60, 30));
        assert!(woken(false, 60, 40), "what they knew has passed");
        drop(worker);
        rings.ring(&consumer, true, None, Timestamp(0));
        assert!(rings.lock().is_empty());
    }
}
