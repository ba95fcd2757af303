//! Who waits for which subject.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::types::{Subject, SubjectFilter};

/// Tells the last durable sequence of subjects to whoever waits for it.
///
/// Only watched subjects take memory: an entry goes with its last watcher.
#[derive(Default)]
pub struct Heads {
    watched: Mutex<HashMap<Subject, watch::Sender<u64>>>,
    patterns: Mutex<HashMap<SubjectFilter, watch::Sender<u64>>>,
}

impl Heads {
    /// Follows the head of a subject. The first value is 0, which says nothing: read the store after this call, so that
    /// no commit falls between.
    pub fn watch(&self, subject: &Subject) -> watch::Receiver<u64> {
        subscribe(&mut lock(&self.watched), subject)
    }

    /// Follows all subjects that match: the value counts commits. It says nothing else.
    pub fn watch_all(&self, filter: &SubjectFilter) -> watch::Receiver<u64> {
        match filter.subject() {
            Some(subject) => self.watch(&subject),
            None => subscribe(&mut lock(&self.patterns), filter),
        }
    }

    /// Raises the head of a subject after a commit is durable. It never goes down.
    pub fn raise(&self, subject: &Subject, last: u64) {
        self.raise_one(subject, last);
        let mut patterns = lock(&self.patterns);
        patterns.retain(|_, sender| !sender.is_closed());
        for sender in patterns.iter().filter(|(filter, _)| filter.matches(subject)).map(|(_, sender)| sender) {
            sender.send_modify(|commits| *commits += 1);
        }
    }

    /// The subjects that somebody waits for.
    pub fn watched(&self) -> Vec<Subject> {
        lock(&self.watched).keys().cloned().collect()
    }

    /// Tells all who follow patterns to look: something may have been missed.
    pub fn touch_patterns(&self) {
        for sender in lock(&self.patterns).values() {
            sender.send_modify(|commits| *commits += 1);
        }
    }

    fn raise_one(&self, subject: &Subject, last: u64) {
        let mut watched = lock(&self.watched);
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
}

fn subscribe<K: Clone + Eq + Hash>(watched: &mut HashMap<K, watch::Sender<u64>>, key: &K) -> watch::Receiver<u64> {
    // Watchers come and go with their connections: the ones that went are dropped here, in passing.
    if watched.len() > 16 && watched.len().is_power_of_two() {
        watched.retain(|_, sender| !sender.is_closed());
    }
    watched.entry(key.clone()).or_insert_with(|| watch::channel(0).0).subscribe()
}

fn lock<T>(watched: &Mutex<T>) -> MutexGuard<'_, T> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
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
        assert!(lock(&heads.watched).is_empty());
    }

    #[test]
    fn patterns_are_told_of_every_subject_that_matches() {
        let heads = Heads::default();
        let watcher = heads.watch_all(&SubjectFilter::parse("filter", "a.*").unwrap());
        for subject in ["a.b", "b.b", "a.c", "a"] {
            heads.raise(&Subject::parse("subject", subject).unwrap(), 1);
        }
        assert_eq!(*watcher.borrow(), 2);
        drop(watcher);
        heads.raise(&Subject::parse("subject", "a.b").unwrap(), 2);
        assert!(lock(&heads.patterns).is_empty());
    }
}
