//! Takes one group of commits, acks and steps through one transaction, and answers everybody.

use tokio_util::sync::CancellationToken;

use super::{
    queue::{Entry, Refused},
    storage::{MovePosition, Parts, TakeStep},
};
use crate::{
    block::{
        PayloadKey, Placement,
        guard::{RecordAt, Refusal},
    },
    consumer::Stepped,
    error::{Error, Result},
    store::{Committed, Group},
    types::Published,
};

/// One group on its way through the stores.
pub(super) struct Job {
    parts: Parts,
    over: CancellationToken,
    pub(super) work: Work,
}

/// What is stored together.
#[derive(Default)]
pub(super) struct Work {
    pub(super) entries: Vec<Entry>,
    pub(super) acks: Vec<MovePosition>,
    pub(super) steps: Vec<TakeStep>,
}

impl Job {
    pub(super) fn new(parts: Parts, over: CancellationToken, work: Work) -> Self {
        Self { parts, over, work }
    }

    /// Stores the group and answers everybody; gives back what is to be tried again because a part of it was refused.
    pub(super) async fn run(mut self) -> Work {
        let started = std::time::Instant::now();
        let mut outcome = self.store().await;
        self.parts.metrics.committed(started.elapsed(), outcome.is_ok());
        if let Err(error) = &outcome {
            self.fail_commits(error);
            // Acks and steps need no space: they do not share the fate of the blocks. If nobody knows what became of them,
            // they must not be taken twice.
            if matches!(error, Error::Exhausted { .. }) && !(self.work.acks.is_empty() && self.work.steps.is_empty()) {
                outcome = self.store().await;
            }
        }
        match outcome {
            Ok(Outcome::Stored(stored)) => self.answer(stored),
            Ok(Outcome::Refused(owners, refusals)) => {
                self.strip(&owners, refusals);
                return self.work;
            }
            Err(error) => self.fail_acks(&error),
        }
        Work::default()
    }

    async fn store(&mut self) -> Result<Outcome> {
        let (mut blocks, mut placements, mut owners) = (Vec::new(), Vec::new(), Vec::new());
        for (index, entry) in self.work.entries.iter_mut().enumerate() {
            let placed = entry.placed().map(|placed| placed.placements.clone()).unwrap_or_default();
            for (block, placement) in std::mem::take(&mut entry.commit.blocks).into_iter().zip(placed) {
                owners.push((index, block.drafts.clone()));
                blocks.push(block);
                placements.push(placement);
            }
        }
        let group = Group {
            blocks,
            placements,
            acks: self.work.acks.iter().map(|ack| ack.ack.clone()).collect(),
            steps: self.work.steps.iter().map(|step| step.step.clone()).collect(),
            now: self.parts.clock.now(),
            dedup_window: self.parts.dedup_window,
        };
        Ok(match self.parts.commit(group, self.over.clone()).await? {
            Committed::Stored { firsts, positions, steps, .. } => {
                Outcome::Stored(Stored { owners, firsts, positions, steps })
            }
            Committed::Refused(refusals) => Outcome::Refused(owners, refusals),
        })
    }

    /// Leaves refused records out of their commits, and lets what repeats another commit wait for that one.
    fn strip(&mut self, owners: &[Owner], refusals: Vec<(RecordAt, Refusal)>) {
        let mut is_changed = vec![false; self.work.entries.len()];
        for (at, refusal) in refusals {
            let (index, drafts) = &owners[at.block];
            let draft = drafts[at.record];
            let refused = match refusal {
                Refusal::Duplicate(sequence) => {
                    // Stored by a commit whose end this broker may have missed: what is acknowledged can be read.
                    let subject = &self.work.entries[*index].commit.drafts[draft].subject;
                    self.parts.heads.raise(subject, sequence);
                    Refused::Known(Ok(Published { sequence, duplicate: true, object: None }))
                }
                Refusal::Follows(first) => {
                    let (first_index, first_drafts) = &owners[first.block];
                    if first_index != index {
                        self.work.entries[*index].after = Some(self.work.entries[*first_index].number);
                        continue;
                    }
                    Refused::Follows(first_drafts[first.record])
                }
                Refusal::UploadGone => Refused::Known(Err(Error::NotFound(
                    "the upload is no more: its deadline passed, or it was aborted or continued elsewhere; begin a new one"
                        .into(),
                ))),
                Refusal::Expected(last) => Refused::Known(Err(Error::Conflict(format!(
                    "the last sequence of '{}' is {last}, not the expected one: read what came meanwhile and decide \
                     again",
                    self.work.entries[*index].commit.drafts[draft].subject
                )))),
            };
            self.work.entries[*index].refused[draft] = Some(refused);
            is_changed[*index] = true;
        }
        for (entry, is_changed) in self.work.entries.iter_mut().zip(is_changed) {
            // They are written anew: an object belongs to the one group that commits.
            if let Some(placed) = entry.reform(is_changed, self.parts.inline_max.get()) {
                self.parts.discard(placed.objects);
            }
        }
    }

    fn answer(self, stored: Stored) {
        let Work { mut entries, acks, steps } = self.work;
        let mut results: Vec<Vec<Option<Result<Published>>>> =
            entries.iter().map(|entry| vec![None; entry.commit.drafts.len()]).collect();
        for ((index, drafts), first) in stored.owners.iter().zip(&stored.firsts) {
            // One that waits for its time is alone in its block, and its first sequence is 0.
            for (draft, sequence) in drafts.iter().zip(*first..) {
                results[*index][*draft] = Some(Ok(Published { sequence, duplicate: false, object: None }));
            }
        }
        let placements: Vec<_> =
            entries.iter_mut().filter_map(Entry::placed).map(|placed| &placed.placements).collect();
        for ((index, drafts), placement) in stored.owners.iter().zip(placements.into_iter().flatten()) {
            if let (Placement::Object { object, .. }, Some(Ok(published))) =
                (placement, &mut results[*index][drafts[0]])
            {
                published.object = Some(PayloadKey::Object(*object).to_string());
            }
        }
        for (entry, mut results) in entries.into_iter().zip(results) {
            for (draft, refused) in entry.refused.into_iter().enumerate() {
                match refused {
                    Some(Refused::Known(result)) => results[draft] = Some(result),
                    Some(Refused::Follows(first)) => {
                        let result = results[first].clone();
                        results[draft] =
                            result.map(|result| result.map(|published| Published { duplicate: true, ..published }));
                    }
                    None => {}
                }
            }
            let mut results = results.into_iter().map(|result| result.unwrap_or_else(|| Err(Error::outcome_unknown())));
            for ticket in entry.commit.tickets.take().into_iter().flatten() {
                // A caller that went away does not care.
                let _ = ticket.reply.send(results.by_ref().take(ticket.drafts).collect());
                drop(ticket.permit);
            }
        }
        for (ack, position) in acks.into_iter().zip(stored.positions) {
            let _ = ack.reply.send(position);
        }
        for (step, stepped) in steps.into_iter().zip(stored.steps) {
            let _ = step.reply.send(stepped);
        }
    }

    fn fail_commits(&mut self, error: &Error) {
        for entry in self.work.entries.drain(..) {
            entry.fail(&self.parts, error);
        }
    }

    fn fail_acks(self, error: &Error) {
        for ack in self.work.acks {
            tracing::warn!(request = %ack.request, %error, "an ack failed");
            let _ = ack.reply.send(Err(error.clone()));
        }
        for step in self.work.steps {
            let _ = step.reply.send(Err(error.clone()));
        }
    }
}

impl Entry {
    /// Tells everybody that nothing was stored, or that nobody knows.
    pub(super) fn fail(mut self, parts: &Parts, error: &Error) {
        if let Some(placed) = self.placed() {
            parts.discard(std::mem::take(&mut placed.objects));
        }
        for ticket in self.commit.tickets.take().into_iter().flatten() {
            tracing::warn!(request = %ticket.request, messages = ticket.drafts, %error, "a publish failed");
            ticket.fail(error);
        }
    }
}

/// Entry and drafts of a block.
type Owner = (usize, Vec<usize>);

enum Outcome {
    Stored(Stored),
    Refused(Vec<Owner>, Vec<(RecordAt, Refusal)>),
}

struct Stored {
    owners: Vec<Owner>,
    firsts: Vec<u64>,
    positions: Vec<Result<u64>>,
    steps: Vec<Result<Stepped>>,
}
