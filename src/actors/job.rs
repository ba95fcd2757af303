//! Takes one group of batches and acks through the stores, and answers everybody.

use tokio_util::sync::CancellationToken;

use super::storage::{Commit, MovePosition, Parts, TakeStep};
use crate::{
    block::{
        INLINE_MAX, PayloadKey, Placement,
        batch::{self, NewBlock, Source},
        guard::{RecordAt, Refusal},
    },
    consumer::Stepped,
    error::{Error, Result},
    store::{Committed, Group},
    types::{Published, Subject},
};

/// The segment that is being appended to.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    number: u64,
    /// Bytes in it.
    len: u64,
}

/// One group on its way through the stores.
pub(super) struct Job {
    parts: Parts,
    pub(super) commits: Vec<Commit>,
    pub(super) acks: Vec<MovePosition>,
    pub(super) steps: Vec<TakeStep>,
    over: CancellationToken,
    segment: Option<Segment>,
    /// Segments and objects that were begun, and that no block may ever refer to.
    unused: Vec<PayloadKey>,
    /// For each commit and draft: why it is not stored.
    refused: Vec<Vec<Option<Refused>>>,
}

/// Why a draft is not stored.
#[derive(Clone)]
enum Refused {
    Known(Result<Published>),
    /// It repeats this draft of this commit.
    Follows(usize, usize),
}

impl Job {
    pub(super) fn new(parts: Parts, over: CancellationToken, segment: Option<Segment>) -> Self {
        let (commits, acks, steps) = (Vec::new(), Vec::new(), Vec::new());
        Self { parts, commits, acks, steps, over, segment, unused: Vec::new(), refused: Vec::new() }
    }

    /// Stores the group and answers everybody; gives the segment to go on with.
    pub(super) async fn run(mut self) -> Option<Segment> {
        self.refused = self.commits.iter().map(|commit| vec![None; commit.drafts.len()]).collect();
        let started = std::time::Instant::now();
        let mut outcome = self.store().await;
        self.parts.metrics.committed(started.elapsed(), outcome.is_ok());
        if let Err(error) = &outcome
            && !self.commits.is_empty()
        {
            // Acks and steps need no space: they do not share the fate of the blocks (a full disk must not stop consumers).
            self.fail_commits(error);
            outcome = self.store().await;
        }
        self.discard_unused().await;
        let parts = self.parts.clone();
        let segment = match outcome {
            Ok(stored) => self.answer(stored),
            Err(error) => self.fail_acks(&error),
        };
        match segment {
            Some(segment) if parts.stores.metadata.is_shared() => {
                // Shared payload is stored at once and never added to. Nobody waits for its row to say so.
                let runtime = parts.runtime.clone();
                runtime.spawn(async move { parts.seal(segment).await });
                None
            }
            segment => segment,
        }
    }

    async fn store(&mut self) -> Result<Stored> {
        let mut objects = vec![Vec::new(); self.commits.len()];
        loop {
            let mut blocks = Vec::new();
            let mut owners = Vec::new();
            for (index, commit) in self.commits.iter_mut().enumerate() {
                for block in std::mem::take(&mut commit.blocks) {
                    owners.push((index, block.subject.clone(), block.drafts.clone()));
                    blocks.push(block);
                }
            }
            let placements = self.place(&mut blocks).await?;
            for ((commit, _, drafts), placement) in owners.iter().zip(&placements) {
                if let Placement::Object { object, .. } = placement {
                    objects[*commit].push((drafts[0], PayloadKey::Object(*object)));
                }
            }
            let group = Group {
                blocks,
                placements,
                acks: self.acks.iter().map(|ack| ack.ack.clone()).collect(),
                steps: self.steps.iter().map(|step| step.step.clone()).collect(),
                now: self.parts.clock.now(),
                dedup_window: self.parts.dedup_window,
            };
            match self.parts.commit(group, self.over.clone()).await? {
                Committed::Stored { firsts, positions, steps, .. } => {
                    self.unused.retain(|key| !objects.iter().flatten().any(|(_, object)| object == key));
                    return Ok(Stored { owners, firsts, positions, steps, objects });
                }
                Committed::Refused(refusals) => {
                    self.strip(&owners, refusals);
                    // They are written anew: an object belongs to the one group that commits.
                    objects.iter_mut().for_each(Vec::clear);
                }
            }
        }
    }

    /// Lets the reaper have what was written for nothing: objects of refused messages, segments whose append failed.
    async fn discard_unused(&mut self) {
        let Parts { stores, clock, .. } = &self.parts;
        // What the store has in hand yet would come after the reaper.
        let since = clock.now().after(stores.payload.late_writes());
        for key in std::mem::take(&mut self.unused) {
            if let Err(error) = stores.metadata.seal_payload(key, since).await {
                tracing::warn!(%error, %key, "an unused payload stays until the next start");
            }
        }
    }

    /// Makes the bodies durable. Small blocks stay in their rows, the others share one append.
    async fn place(&mut self, blocks: &mut [NewBlock]) -> Result<Vec<Placement>> {
        let is_slice = |block: &NewBlock| block.object.is_none() && block.body.len() > INLINE_MAX;
        let slices: Vec<_> = blocks.iter().filter(|block| is_slice(block)).map(|block| block.body.clone()).collect();
        let (segment, mut offset) = if slices.is_empty() { (0, 0) } else { self.append(slices).await? };
        let mut placements = Vec::with_capacity(blocks.len());
        for block in blocks {
            placements.push(if let Some(object) = &block.object {
                let number = match &object.source {
                    Source::Stored { object, .. } => *object,
                    Source::Data(data) => self.put_object(data.clone()).await?,
                };
                Placement::Object {
                    object: number,
                    size: object.size,
                    sha256: object.sha256,
                    part_crcs: object.part_crcs.clone(),
                    record: block.body.clone(),
                }
            } else if is_slice(block) {
                let len = block.body.len() as u64;
                offset += len;
                Placement::Slice { segment, offset: offset - len, len }
            } else {
                Placement::Inline(block.body.clone())
            });
        }
        Ok(placements)
    }

    async fn put_object(&mut self, data: bytes::Bytes) -> Result<u64> {
        let key = self.parts.stores.metadata.open_payload(PayloadKey::Object).await?;
        self.unused.push(key);
        self.parts.stores.payload.put_object(key.number(), data).await?;
        Ok(key.number())
    }

    async fn append(&mut self, bodies: Vec<bytes::Bytes>) -> Result<(u64, u64)> {
        if let Some(full) = self.segment {
            if let Some(offset) = self.append_to(full.number, bodies.clone()).await? {
                return Ok((full.number, offset));
            }
            let Parts { stores, clock, .. } = &self.parts;
            stores.payload.seal(full.number, full.len).await?;
            stores.metadata.seal_payload(PayloadKey::Segment(full.number), clock.now()).await?;
        }
        let number = self.parts.stores.metadata.open_payload(PayloadKey::Segment).await?.number();
        let offset = self.append_to(number, bodies).await?;
        let offset = offset.ok_or_else(|| Error::unavailable("a new segment refused its first block"))?;
        Ok((number, offset))
    }

    async fn append_to(&mut self, number: u64, bodies: Vec<bytes::Bytes>) -> Result<Option<u64>> {
        // After a failure the segment is not written to again.
        self.segment = None;
        let len: u64 = bodies.iter().map(|body| body.len() as u64).sum();
        let appended = self.parts.stores.payload.append(number, bodies).await;
        match &appended {
            Ok(Some(offset)) => self.segment = Some(Segment { number, len: offset + len }),
            Ok(None) => {}
            Err(_) => self.unused.push(PayloadKey::Segment(number)),
        }
        appended
    }

    /// Leaves refused records out and forms the blocks of their commits anew.
    fn strip(&mut self, owners: &[Owner], refusals: Vec<(RecordAt, Refusal)>) {
        for (at, refusal) in refusals {
            let (commit, _, drafts) = &owners[at.block];
            let draft = drafts[at.record];
            let refused = match refusal {
                Refusal::Duplicate(sequence) => {
                    Refused::Known(Ok(Published { sequence, duplicate: true, object: None }))
                }
                Refusal::Follows(first) => {
                    let (commit, _, drafts) = &owners[first.block];
                    Refused::Follows(*commit, drafts[first.record])
                }
                Refusal::UploadGone => Refused::Known(Err(Error::NotFound(
                    "the upload is no more: its deadline passed, or it was aborted or continued elsewhere; begin a new one"
                        .into(),
                ))),
                Refusal::Expected(last) => Refused::Known(Err(Error::Conflict(format!(
                    "the last sequence of '{}' is {last}, not the expected one: read what came meanwhile and decide \
                     again",
                    self.commits[*commit].drafts[draft].subject
                )))),
            };
            self.refused[*commit][draft] = Some(refused);
        }
        for (commit, refused) in self.commits.iter_mut().zip(&self.refused) {
            let skip: Vec<_> = refused.iter().map(Option::is_some).collect();
            commit.blocks = batch::form(&commit.drafts, &skip);
        }
    }

    fn answer(mut self, stored: Stored) -> Option<Segment> {
        let mut results: Vec<Vec<Option<Result<Published>>>> =
            self.commits.iter().map(|commit| vec![None; commit.drafts.len()]).collect();
        for ((commit, _, drafts), first) in stored.owners.iter().zip(&stored.firsts) {
            // One that waits for its time is alone in its block, and its first sequence is 0.
            for (draft, sequence) in drafts.iter().zip(*first..) {
                results[*commit][*draft] = Some(Ok(Published { sequence, duplicate: false, object: None }));
            }
        }
        for (commit, objects) in stored.objects.into_iter().enumerate() {
            for (draft, object) in objects {
                if let Some(Ok(published)) = &mut results[commit][draft] {
                    published.object = Some(object.to_string());
                }
            }
        }
        for (commit, refused) in std::mem::take(&mut self.refused).into_iter().enumerate() {
            for (draft, refused) in refused.into_iter().enumerate() {
                match refused {
                    Some(Refused::Known(result)) => results[commit][draft] = Some(result),
                    Some(Refused::Follows(first_commit, first)) => {
                        results[commit][draft] = results[first_commit][first]
                            .clone()
                            .map(|result| result.map(|published| Published { duplicate: true, ..published }));
                    }
                    None => {}
                }
            }
        }
        for (commit, results) in self.commits.into_iter().zip(results) {
            let mut results = results.into_iter().map(|result| result.unwrap_or_else(|| Err(Error::outcome_unknown())));
            for ticket in commit.tickets.take().into_iter().flatten() {
                // A caller that went away does not care.
                let _ = ticket.reply.send(results.by_ref().take(ticket.drafts).collect());
                drop(ticket.permit);
            }
        }
        for (ack, position) in self.acks.into_iter().zip(stored.positions) {
            let _ = ack.reply.send(position);
        }
        for (step, stepped) in self.steps.into_iter().zip(stored.steps) {
            let _ = step.reply.send(stepped);
        }
        self.segment
    }

    fn fail_commits(&mut self, error: &Error) {
        self.refused.clear();
        for ticket in self.commits.drain(..).filter_map(|commit| commit.tickets.take()).flatten() {
            tracing::warn!(request = %ticket.request, messages = ticket.drafts, %error, "messages were not stored");
            ticket.fail(error);
        }
    }

    fn fail_acks(self, error: &Error) -> Option<Segment> {
        for ack in self.acks {
            tracing::warn!(request = %ack.request, %error, "a position was not moved");
            let _ = ack.reply.send(Err(error.clone()));
        }
        for step in self.steps {
            let _ = step.reply.send(Err(error.clone()));
        }
        self.segment
    }
}

impl Parts {
    /// Closes the row of a segment; if that fails, the reaper will.
    async fn seal(&self, segment: Segment) {
        let key = PayloadKey::Segment(segment.number);
        if let Err(error) = self.stores.metadata.seal_payload(key, self.clock.now()).await {
            tracing::debug!(%error, %key, "a segment stays open until the reaper closes it");
        }
    }
}

/// Commit, subject and drafts of a block.
type Owner = (usize, Subject, Vec<usize>);

struct Stored {
    owners: Vec<Owner>,
    firsts: Vec<u64>,
    positions: Vec<Result<u64>>,
    steps: Vec<Result<Stepped>>,
    /// For each commit: the objects that drafts became.
    objects: Vec<Vec<(usize, PayloadKey)>>,
}
