//! Who waits for which subject.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::types::Subject;

/// Tells the last durable sequence of subjects to whoever waits for it.
///
/// Only watched subjects take memory: an entry goes with its last watcher.
#[derive(Default)]
pub struct Heads {
    watched: Mutex<HashMap<Subject, watch::Sender<u64>>>,
}

impl Heads {
    /// Follows the head of a subject. The first value is 0, which says nothing: read the store after this call, so that
    /// no commit falls between.
    pub fn watch(&self, subject: &Subject) -> watch::Receiver<u64> {
        let mut watched = self.lock();
        // Watchers come and go with their connections: the ones that went are dropped here, in passing.
        if watched.len() > 16 && watched.len().is_power_of_two() {
            watched.retain(|_, sender| !sender.is_closed());
        }
        watched.entry(subject.clone()).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    /// Raises the head of a subject after a commit is durable. It never goes down.
    pub fn raise(&self, subject: &Subject, last: u64) {
        let mut watched = self.lock();
        let Some(sender) = watched.get(subject) else {
            return;
        };
        if sender.is_closed() {
            watched.remove(subject);
            return;
        }
        sender.send_if_modified(|head| {
            let higher = last > *head;
            *head = last.max(*head);
            higher
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Subject, watch::Sender<u64>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_only_rise_and_leave_with_their_watchers() {
        let heads = Heads::default();
        let subject = Subject::parse("subject", "a").unwrap();
        let watcher = heads.watch(&subject);
        heads.raise(&subject, 5);
        heads.raise(&subject, 3);
        assert_eq!(*watcher.borrow(), 5);
        drop(watcher);
        heads.raise(&subject, 6);
        assert!(heads.lock().is_empty());
    }
}
