//! Consumers of a store under test, and their workers.

use std::{sync::Arc, time::Duration};

use minitoolstream::{
    Result,
    block::letter,
    consumer::{How, Patch, Session, Settle, Start, Step, Stepped, Want},
    store::{Committed, ConsumerChange, ConsumerView, Group, Move, NewConsumer, reader::Stored},
    types::{ConsumerName, Timestamp},
};

use crate::{
    backend::Backend,
    rig::Rig,
    words::{filter, subject},
};

/// How long dead letters live.
pub(crate) const LETTER_TTL: Duration = Duration::from_secs(1000);
/// Most durable consumers.
pub(crate) const CONSUMERS_MAX: usize = 10_000;

pub(crate) fn consumer(name: &str) -> ConsumerName {
    ConsumerName::parse("name", name).unwrap()
}

/// A filter, and defaults.
pub(crate) fn on(pattern: &str) -> Patch {
    Patch { filter: Some(filter(pattern)), ack_wait: Some(Duration::from_millis(100)), ..Patch::default() }
}

pub(crate) fn from(pattern: &str, start: Start) -> Patch {
    Patch { start: Some(start), ..on(pattern) }
}

/// A step without answers that takes so many messages.
pub(crate) fn take(of: &str, session: u64, messages: usize) -> Step {
    let want = Want { messages, bytes: u64::MAX, message_bytes: u64::MAX, first_bytes: u64::MAX };
    let now = Timestamp::default();
    Step { consumer: consumer(of), session: Session(session), settles: vec![], want, close: false, now }
}

/// A step that answers deliveries (stream sequence, attempt), and takes nothing.
pub(crate) fn answer(of: &str, session: u64, deliveries: &[(u64, u32)], how: &How) -> Step {
    let received = Timestamp::default();
    let settle = |&(at, attempt)| Settle { at, attempt, received, how: how.clone() };
    Step { settles: deliveries.iter().map(settle).collect(), ..take(of, session, 0) }
}

pub(crate) fn close(of: &str, session: u64) -> Step {
    Step { close: true, ..take(of, session, 0) }
}

/// Stream sequence and attempt of what a step gives.
pub(crate) fn given(stepped: &Stepped) -> Vec<(u64, u32)> {
    stepped.runs.iter().flat_map(|run| &run.given).map(|given| (given.at, given.attempt)).collect()
}

/// The same, with the sequences of the subject.
pub(crate) fn sequences(stepped: &Stepped) -> Vec<(String, u64)> {
    let of_run = |run: &minitoolstream::consumer::Run| {
        let (subject, block) = (run.subject.to_string(), run.block.clone());
        run.given
            .iter()
            .map(move |given| (subject.clone(), block.first + given.at - block.stream_first))
            .collect::<Vec<_>>()
    };
    stepped.runs.iter().flat_map(of_run).collect()
}

impl<B: Backend + ?Sized> Rig<B> {
    pub(crate) async fn make(&self, name: &str, is_durable: bool, patch: Patch) -> Result<ConsumerView> {
        let (name, dead_letter_ttl, now) = (consumer(name), LETTER_TTL, self.now);
        let new = NewConsumer { name, is_durable, patch, dead_letter_ttl, consumers_max: CONSUMERS_MAX, now };
        self.metadata().create_consumer(new).await
    }

    /// Makes a durable consumer that must be accepted.
    pub(crate) async fn create(&self, name: &str, patch: Patch) -> ConsumerView {
        self.make(name, true, patch).await.unwrap()
    }

    pub(crate) async fn view(&self, name: &str) -> Option<ConsumerView> {
        self.metadata().consumer(&consumer(name)).await.unwrap()
    }

    pub(crate) async fn change(&self, name: &str, change: ConsumerChange) -> Result<ConsumerView> {
        self.metadata().change_consumer(&consumer(name), change).await
    }

    /// Names of the durable consumers.
    pub(crate) async fn names(&self, after: &str, limit: usize) -> Vec<String> {
        let views = self.metadata().consumers(after, limit).await.unwrap();
        views.into_iter().map(|view| view.name.to_string()).collect()
    }

    /// Takes steps in one transaction, now.
    pub(crate) async fn steps<const N: usize>(&self, steps: [Step; N]) -> Vec<Result<Stepped>> {
        let now = |mut step: Step| {
            step.now = self.now;
            step.settles.iter_mut().for_each(|settle| settle.received = self.now);
            Arc::new(step)
        };
        let group = Group { steps: steps.map(now).into(), now: self.now, ..Group::default() };
        match self.metadata().commit(group).await.unwrap() {
            Committed::Stored { steps, .. } => steps,
            Committed::Refused(refused) => panic!("refused: {refused:?}"),
        }
    }

    pub(crate) async fn step(&self, step: Step) -> Stepped {
        self.steps([step]).await.remove(0).unwrap()
    }

    /// Takes so many messages; gives stream sequences and attempts.
    pub(crate) async fn take(&self, of: &str, session: u64, messages: usize) -> Vec<(u64, u32)> {
        given(&self.step(take(of, session, messages)).await)
    }

    /// Answers deliveries that must be taken.
    pub(crate) async fn answer(&self, of: &str, session: u64, deliveries: &[(u64, u32)], how: How) -> Stepped {
        let stepped = self.step(answer(of, session, deliveries, &how)).await;
        assert!(stepped.settled.iter().all(Result::is_ok), "{:?}", stepped.settled);
        stepped
    }

    /// Moves a dead letter; gives its new sequence.
    pub(crate) async fn redrive(&self, from: &str, sequence: u64, to: &str) -> Option<u64> {
        let message = Move { from: subject(from), sequence, to: subject(to), expires: None };
        self.metadata().move_message(message, self.now).await.unwrap()
    }

    /// The only message of a subject.
    pub(crate) async fn only(&self, name: &str) -> Stored {
        let mut messages = self.messages(name).await;
        assert_eq!(messages.len(), 1, "in '{name}'");
        messages.remove(0)
    }
}

pub(crate) fn header<'a>(stored: &'a Stored, name: &str) -> &'a str {
    let found = stored.record.headers.iter().find(|(key, _)| key == name);
    found.map_or("", |(_, value)| value.as_str())
}

/// Subject, sequence, reason, attempts and detail, as a dead letter tells them.
pub(crate) fn story(stored: &Stored) -> [&str; 5] {
    let names = [letter::ORIGINAL_SUBJECT, letter::ORIGINAL_SEQUENCE, letter::REASON, letter::ATTEMPTS, letter::DETAIL];
    names.map(|name| header(stored, name))
}

impl<B: Backend + ?Sized> Rig<B> {
    pub(crate) async fn create_refused(&self, name: &str, patch: Patch) -> minitoolstream::Error {
        self.make(name, true, patch).await.unwrap_err()
    }
}
