//! Commits, with steps of consumers in them.
//!
//! ```text
//! lock the consumers of the group, by name ─▶ load what is not remembered ─▶ steps, computed ─▶ one transaction
//!                                               ▲                                                  │
//!                                               └── those whose version another broker moved ◀─────┘
//! ```
//! The blocks and acks of a group are stored by its first transaction; only consumers that lost a race are tried again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};

use super::{
    TarantoolMetadata,
    changes::{Applied, Change, CommitAnswer, RefusedRow, read_raised},
    consumers::SlotGuard,
    source::Reads,
    state::{Open, Taken},
    wire,
};
use crate::{
    consumer::{LEASES_MAX, Step, Stepped},
    error::{Error, Result},
    store::{Committed, Group, Raised, consumer::no_consumer},
    types::ConsumerName,
};

/// Transactions that one step is tried in, when other brokers work on the same consumer.
const ATTEMPTS_MAX: u32 = 20;
/// Consumers of a group that are computed at the same time: each waits for its reads.
const CONSUMERS_AT_ONCE: usize = 16;
/// Longest pause before the next attempt.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// One consumer's part of a group.
struct Part {
    slot: SlotGuard,
    /// Steps, by their index in the group.
    steps: Vec<(usize, Arc<Step>)>,
    /// The consumer, after its steps.
    open: Option<Open>,
    stepped: Vec<Result<Stepped>>,
    is_broken: bool,
}

/// What of a group was stored at first.
struct Stored {
    firsts: Vec<u64>,
    positions: Vec<(bool, u64)>,
    raised: Raised,
}

impl TarantoolMetadata {
    pub(super) async fn commit_group(&self, group: Group) -> Result<Committed> {
        let mut parts = self.parts(&group.steps).await;
        let mut results: Vec<Option<Result<Stepped>>> = group.steps.iter().map(|_| None).collect();
        let mut stored: Option<Stored> = None;
        let mut pause = Duration::from_millis(1);
        for _ in 0..ATTEMPTS_MAX {
            if stored.is_some() && parts.is_empty() {
                break;
            }
            let changes = self.take_steps(&mut parts, &mut results).await;
            let answer = self.send(&group, stored.is_none(), &changes).await;
            let answer = match (answer, &stored) {
                (Ok(answer), _) => answer,
                (Err(error), None) => {
                    parts.into_values().for_each(Part::restore);
                    return Err(error);
                }
                (Err(error), Some(_)) => {
                    // What could be stored is; the outcome of these steps is their own.
                    for part in std::mem::take(&mut parts).into_values() {
                        part.steps.iter().for_each(|(at, _)| results[*at] = Some(Err(error.clone())));
                        part.restore();
                    }
                    break;
                }
            };
            match answer {
                CommitAnswer::Refused(rows) => {
                    parts.into_values().for_each(Part::restore);
                    let refused: Option<Vec<_>> = rows.into_iter().map(RefusedRow::read).collect();
                    let unknown = || Error::DataLoss("a refusal of Tarantool cannot be read".into());
                    return refused.map(Committed::Refused).ok_or_else(unknown);
                }
                CommitAnswer::Stored { firsts, positions, applied, raised } => {
                    let more = read_raised(raised)?;
                    match &mut stored {
                        Some(stored) => stored.raised.extend(more),
                        None => stored = Some(Stored { firsts, positions, raised: more }),
                    }
                    self.settle(&mut parts, &changes, &applied, &mut results);
                }
            }
            if !parts.is_empty() {
                tokio::time::sleep(self.link.jittered(pause)).await;
                pause = (2 * pause).min(PAUSE_MAX);
            }
        }
        for (name, part) in parts {
            let what = format!("other brokers work on consumer '{name}' at the same time: repeat");
            part.steps.iter().for_each(|(at, _)| results[*at] = Some(Err(Error::unavailable(what.clone()))));
            part.restore();
        }
        let Some(Stored { firsts, positions, raised }) = stored else {
            return Err(Error::outcome_unknown());
        };
        let positions = positions.into_iter().zip(&group.acks).map(|((is_taken, number), ack)| match is_taken {
            true => Ok(number),
            false => Err(Error::invalid(
                "sequence",
                format!(
                    "{} is beyond the last sequence of '{}': acknowledge sequences from 1 to {number}",
                    ack.sequence, ack.subject
                ),
            )),
        });
        let steps = results.into_iter().map(|result| result.unwrap_or_else(|| Err(Error::outcome_unknown())));
        Ok(Committed::Stored { firsts, positions: positions.collect(), steps: steps.collect(), raised })
    }

    /// The steps of a group by consumer, each locked, in the order of their names: so two groups do not wait for each
    /// other.
    async fn parts(&self, steps: &[Arc<Step>]) -> BTreeMap<ConsumerName, Part> {
        let mut by_name: BTreeMap<ConsumerName, Vec<(usize, Arc<Step>)>> = BTreeMap::new();
        for (at, step) in steps.iter().enumerate() {
            by_name.entry(step.consumer.clone()).or_default().push((at, step.clone()));
        }
        let mut parts = BTreeMap::new();
        for (name, steps) in by_name {
            let slot = self.consumers.lock(&name).await;
            let part = Part { slot, steps, open: None, stepped: Vec::new(), is_broken: false };
            parts.insert(name, part);
        }
        parts
    }

    /// Takes the steps of each consumer; those that cannot be taken have their results, and are left out.
    async fn take_steps(
        &self,
        parts: &mut BTreeMap<ConsumerName, Part>,
        results: &mut [Option<Result<Stepped>>],
    ) -> BTreeMap<ConsumerName, Change> {
        let mut changes = BTreeMap::new();
        let taking = std::mem::take(parts).into_iter().map(|(name, mut part)| {
            let store = self.clone();
            async move {
                let change = store.take(&name, &mut part).await;
                (name, part, change)
            }
        });
        let taken: Vec<_> = stream::iter(taking).buffer_unordered(CONSUMERS_AT_ONCE).collect().await;
        for (name, part, change) in taken {
            match change {
                Ok(change) => {
                    changes.insert(name.clone(), change);
                    parts.insert(name, part);
                }
                Err(error) => {
                    part.steps.iter().for_each(|(at, _)| results[*at] = Some(Err(error.clone())));
                    part.restore();
                }
            }
        }
        changes
    }

    async fn take(&self, name: &ConsumerName, part: &mut Part) -> Result<Change> {
        let remembered = part.slot.take();
        let mut open = match remembered {
            Some(open) => open,
            None => Open::load(&self.link, name).await?.ok_or_else(|| no_consumer(name))?,
        };
        let mut broker = 0;
        if open.is_durable() {
            broker = self.life.number().await?;
        } else {
            open.mark();
        }
        let leases_left = LEASES_MAX.saturating_sub(self.consumers.leases());
        let mut reads = Reads::new(self.link.clone());
        let (name, steps) = (name.clone(), part.steps.iter().map(|(_, step)| step.clone()).collect::<Vec<_>>());
        let taking = self.link.runtime.spawn_blocking(move || {
            let taken = open.take(&name, &steps, (broker, leases_left), &mut reads);
            (open, taken)
        });
        let (open, Taken { change, stepped, is_broken }) = taking.await.map_err(|_| Error::outcome_unknown())?;
        (part.open, part.stepped, part.is_broken) = (Some(open), stepped, is_broken);
        Ok(change)
    }

    async fn send(
        &self,
        group: &Group,
        is_first: bool,
        changes: &BTreeMap<ConsumerName, Change>,
    ) -> Result<CommitAnswer> {
        let (mut blocks, mut acks) = (Vec::new(), Vec::new());
        if is_first {
            blocks = wire::blocks(group);
            let ack = |ack: &crate::store::Ack| (ack.durable.to_string(), ack.subject.to_string(), ack.sequence);
            acks = group.acks.iter().map(ack).collect();
        }
        let changes: Vec<_> = changes.values().filter(|change| !change.is_nothing()).collect();
        if blocks.is_empty() && acks.is_empty() && changes.is_empty() {
            return Ok(CommitAnswer::Stored { firsts: vec![], positions: vec![], applied: vec![], raised: vec![] });
        }
        let forget_at = group.now.after(group.dedup_window);
        self.link.call("commit", &(self.link.id(), blocks, acks, changes, group.now.0, forget_at.0)).await
    }

    /// Gives results to the steps that are stored, and keeps the others for another attempt.
    fn settle(
        &self,
        parts: &mut BTreeMap<ConsumerName, Part>,
        changes: &BTreeMap<ConsumerName, Change>,
        applied: &[Applied],
        results: &mut [Option<Result<Stepped>>],
    ) {
        let mut applied = applied.iter();
        for (name, mut part) in std::mem::take(parts) {
            let is_sent = changes.get(&name).is_some_and(|change| !change.is_nothing());
            let broker = changes.get(&name).map_or(0, |change| change.broker);
            match is_sent.then(|| applied.next()).flatten().map(|applied| (applied.word.as_str(), applied.version)) {
                Some(("unknown", _)) => {
                    part.steps.iter().for_each(|(at, _)| results[*at] = Some(Err(no_consumer(&name))));
                }
                Some((word @ ("conflict" | "dead"), _)) => {
                    if word == "dead" {
                        self.life.is_over(broker);
                    }
                    // A consumer that is not stored is tried again from what it was.
                    if let Some(before) = part.before() {
                        part.slot.put(before);
                    }
                    parts.insert(name, part);
                }
                done => {
                    let version = done.map_or(0, |(_, version)| version);
                    part.keep(version, broker, results);
                }
            }
        }
    }
}

impl Part {
    /// Gives out what came of the steps, and remembers the state while somebody works here.
    fn keep(mut self, version: u64, broker: u64, results: &mut [Option<Result<Stepped>>]) {
        for ((at, _), stepped) in self.steps.iter().zip(self.stepped.drain(..)) {
            results[*at] = Some(stepped);
        }
        let Some(mut open) = self.open.take() else { return };
        open.version = version;
        if !self.is_broken {
            open.keep();
            if !open.is_idle(broker) {
                self.slot.put(open);
            }
        } else if !open.is_durable() {
            open.roll_back();
            self.slot.put(open);
        }
    }

    /// A consumer that is not stored, as it was before its steps.
    fn before(&mut self) -> Option<Open> {
        let mut open = self.open.take().filter(|open| !open.is_durable())?;
        open.roll_back();
        Some(open)
    }

    /// Nothing was stored, or nobody knows: what is stored is read again, and what is not is as before.
    fn restore(mut self) {
        if let Some(before) = self.before() {
            self.slot.put(before);
        }
    }
}
