//! Runs commits, one after another, and raises the heads.
//!
//! ```text
//! waiting commits + acks ─▶ group ─▶ payload durable ─▶ metadata transaction ─▶ heads ─▶ replies ─▶ next group
//!                                          ▲                   │ refused: strip duplicates, try again
//!                                          └───────────────────┘
//! ```
//! While a group is being synced, the next one gathers: the sync is the only clock there is.
//!
//! Transaction and heads go together, one group at a time, whatever becomes of the actor meanwhile: else those who wait
//! for a subject would not learn of its last messages, and a successor could overtake them.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use actix::{Actor, AsyncContext, Context, Handler, Message, WrapFuture, fut::ActorFutureExt};
use tokio::sync::{Mutex, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    Parcel,
    heads::Heads,
    publisher::Results,
    supervise::{Bell, supervised},
};
use crate::{
    admission::Permit,
    block::{
        INLINE_MAX, PayloadKey, Placement,
        batch::{self, NewBlock},
        guard::{RecordAt, Refusal},
    },
    error::{Error, Result},
    metrics::Metrics,
    store::{Ack, Committed, Group, Stores, abandoned},
    types::{Clock, Draft, Published, RequestId, Subject},
};

/// A group takes waiting commits until its blocks have this many bytes.
const GROUP_BYTES_MAX: usize = 16 << 20;

/// Acks of one group; more wait for the next.
const GROUP_ACKS_MAX: usize = 10_000;

/// Messages that may wait in the mailbox; permits bound them earlier.
const MAILBOX: usize = 1 << 20;

/// Stores a batch. One sender has one batch under way, and no two senders share a subject; but the batch of a sender
/// that died may still be under way when its successor sends one.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Commit {
    /// The messages.
    pub drafts: Vec<Draft>,
    /// The same, as blocks.
    pub blocks: Vec<NewBlock>,
    /// Who gets which results. The sender takes them back from a storage that hangs.
    pub tickets: Parcel<Vec<Ticket>>,
    /// Closed when the batch is through: time for the next.
    pub done: oneshot::Sender<()>,
}

/// A caller's share of a batch.
pub struct Ticket {
    /// Who asked.
    pub request: RequestId,
    /// How many of the drafts are this caller's.
    pub drafts: usize,
    /// Where their results go.
    pub reply: oneshot::Sender<Results>,
    /// Released when the answer is given.
    pub permit: Permit,
}

impl Ticket {
    /// Tells the caller that none of the drafts was stored.
    pub fn fail(self, error: &Error) {
        // A caller that went away does not care.
        let _ = self.reply.send(vec![Err(error.clone()); self.drafts]);
    }
}

/// Moves the position of a durable consumer.
#[derive(Message)]
#[rtype(result = "()")]
pub struct MovePosition {
    /// Who asks.
    pub request: RequestId,
    /// What to move.
    pub ack: Ack,
    /// The position afterwards.
    pub reply: oneshot::Sender<Result<u64>>,
}

/// What storage runs on.
#[derive(Clone)]
pub struct Parts {
    /// Where messages are stored.
    pub stores: Stores,
    /// Who is told of them.
    pub heads: Arc<Heads>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How long message ids are remembered.
    pub dedup_window: Duration,
    /// Counts commits.
    pub metrics: Metrics,
    /// Where a transaction runs to its end.
    pub runtime: tokio::runtime::Handle,
    /// Held by the transaction under way, over all incarnations.
    pub turn: Arc<Mutex<()>>,
}

/// See the [module](self).
pub struct Storage {
    parts: Parts,
    commits: VecDeque<Commit>,
    acks: VecDeque<MovePosition>,
    busy: bool,
    /// The segment that this incarnation appends to.
    segment: Option<u64>,
    bell: Bell,
}

impl Storage {
    /// A storage actor with an empty queue.
    pub fn new(parts: Parts, bell: Bell) -> Self {
        Self { parts, commits: VecDeque::new(), acks: VecDeque::new(), busy: false, segment: None, bell }
    }

    fn run_next(&mut self, ctx: &mut Context<Self>) {
        if self.bell.over().is_cancelled() {
            // It hung, and its successor is at work: senders have given up what waits here.
            self.commits.clear();
            self.acks.clear();
            return;
        }
        if self.busy || (self.commits.is_empty() && self.acks.is_empty()) {
            return;
        }
        self.busy = true;
        let mut job = Job::new(self.parts.clone(), self.bell.over().clone(), self.segment);
        let mut bytes = 0;
        while bytes < GROUP_BYTES_MAX
            && let Some(commit) = self.commits.pop_front()
        {
            bytes += commit.blocks.iter().map(block_bytes).sum::<usize>();
            job.commits.push(commit);
        }
        job.acks.extend(self.acks.drain(..self.acks.len().min(GROUP_ACKS_MAX)));
        let next = job.run().into_actor(self).map(|segment, storage, ctx| {
            storage.segment = segment;
            storage.busy = false;
            storage.run_next(ctx);
        });
        ctx.spawn(next);
    }
}

impl Actor for Storage {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.busy = true;
        let parts = self.parts.clone();
        let tidy = async move { parts.close_abandoned().await }.into_actor(self).map(|(), storage, ctx| {
            storage.busy = false;
            storage.run_next(ctx);
        });
        ctx.spawn(tidy);
    }
}

impl Parts {
    /// Seals what an earlier incarnation wrote to, once its last transaction has ended.
    async fn close_abandoned(&self) {
        let _turn = self.turn.lock().await;
        if let Err(error) = abandoned::close(&self.stores, self.clock.now()).await {
            tracing::warn!(%error, "what an earlier storage actor left open stays so until the next start");
        }
    }

    /// Commits a group and raises the heads.
    async fn commit(&self, group: Group, over: CancellationToken) -> Result<Committed> {
        let parts = self.clone();
        let commit = self.runtime.spawn(async move {
            let _turn = parts.turn.lock().await;
            if over.is_cancelled() {
                return Err(Error::outcome_unknown());
            }
            let blocks: Vec<_> = group.blocks.iter().map(|block| (block.subject.clone(), block.drafts.len())).collect();
            let committed = parts.stores.metadata.commit(group).await;
            match &committed {
                Ok(Committed::Stored { firsts, .. }) => {
                    for ((subject, len), first) in blocks.iter().zip(firsts) {
                        parts.heads.raise(subject, first + *len as u64 - 1);
                    }
                }
                Ok(Committed::Refused(_)) => {}
                Err(_) => parts.raise_to_what_is_stored(&blocks).await,
            }
            committed
        });
        commit.await.unwrap_or_else(|_| Err(Error::outcome_unknown()))
    }

    /// After a failed transaction, which may be durable all the same.
    async fn raise_to_what_is_stored(&self, blocks: &[(Subject, usize)]) {
        for (subject, _) in blocks {
            // A store that does not answer now will be asked by the subscribers themselves, at the next commit.
            if let Ok(Some(row)) = self.stores.metadata.subject(subject).await {
                self.heads.raise(subject, row.last);
            }
        }
    }
}

impl Handler<Commit> for Storage {
    type Result = ();

    fn handle(&mut self, commit: Commit, ctx: &mut Self::Context) {
        self.commits.push_back(commit);
        self.run_next(ctx);
    }
}

impl Handler<MovePosition> for Storage {
    type Result = ();

    fn handle(&mut self, ack: MovePosition, ctx: &mut Self::Context) {
        self.acks.push_back(ack);
        self.run_next(ctx);
    }
}

supervised!(Storage);

fn block_bytes(block: &NewBlock) -> usize {
    block.body.len() + block.object.as_ref().map_or(0, |object| object.data.len())
}

/// One group on its way through the stores.
struct Job {
    parts: Parts,
    commits: Vec<Commit>,
    acks: Vec<MovePosition>,
    over: CancellationToken,
    segment: Option<u64>,
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
    fn new(parts: Parts, over: CancellationToken, segment: Option<u64>) -> Self {
        let (commits, acks, unused, refused) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { parts, commits, acks, over, segment, unused, refused }
    }

    /// Stores the group and answers everybody; gives the segment to go on with.
    async fn run(mut self) -> Option<u64> {
        self.refused = self.commits.iter().map(|commit| vec![None; commit.drafts.len()]).collect();
        let started = std::time::Instant::now();
        let mut outcome = self.store().await;
        self.parts.metrics.committed(started.elapsed(), outcome.is_ok());
        if let Err(error) = &outcome
            && !self.commits.is_empty()
        {
            // Acks need no space: they do not share the fate of the blocks (a full disk must not stop consumers).
            self.fail_commits(error);
            outcome = self.store().await;
        }
        self.discard_unused().await;
        match outcome {
            Ok(stored) => self.answer(stored),
            Err(error) => self.fail_acks(&error),
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
                now: self.parts.clock.now(),
                dedup_window: self.parts.dedup_window,
            };
            match self.parts.commit(group, self.over.clone()).await? {
                Committed::Stored { firsts, positions } => {
                    self.unused.retain(|key| !objects.iter().flatten().any(|(_, object)| object == key));
                    return Ok(Stored { owners, firsts, positions, objects });
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
        for key in std::mem::take(&mut self.unused) {
            if let Err(error) = self.parts.stores.metadata.seal_payload(key, self.parts.clock.now()).await {
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
                let key = self.parts.stores.metadata.open_payload(PayloadKey::Object).await?;
                self.unused.push(key);
                self.parts.stores.payload.put_object(key.number(), object.data.clone()).await?;
                Placement::Object {
                    object: key.number(),
                    size: object.data.len() as u64,
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

    async fn append(&mut self, bodies: Vec<bytes::Bytes>) -> Result<(u64, u64)> {
        if let Some(segment) = self.segment {
            if let Some(offset) = self.append_to(segment, bodies.clone()).await? {
                return Ok((segment, offset));
            }
            let Parts { stores, clock, .. } = &self.parts;
            stores.metadata.seal_payload(PayloadKey::Segment(segment), clock.now()).await?;
        }
        let segment = self.parts.stores.metadata.open_payload(PayloadKey::Segment).await?.number();
        let offset = self.append_to(segment, bodies).await?;
        let offset = offset.ok_or_else(|| Error::unavailable("a new segment refused its first block"))?;
        Ok((segment, offset))
    }

    async fn append_to(&mut self, segment: u64, bodies: Vec<bytes::Bytes>) -> Result<Option<u64>> {
        // After a failure the segment is not written to again.
        self.segment = None;
        let appended = self.parts.stores.payload.append(segment, bodies).await;
        match &appended {
            Ok(Some(_)) => self.segment = Some(segment),
            Ok(None) => {}
            Err(_) => self.unused.push(PayloadKey::Segment(segment)),
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

    fn answer(mut self, stored: Stored) -> Option<u64> {
        let mut results: Vec<Vec<Option<Result<Published>>>> =
            self.commits.iter().map(|commit| vec![None; commit.drafts.len()]).collect();
        for ((commit, _, drafts), first) in stored.owners.iter().zip(&stored.firsts) {
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
        self.segment
    }

    fn fail_commits(&mut self, error: &Error) {
        self.refused.clear();
        for ticket in self.commits.drain(..).filter_map(|commit| commit.tickets.take()).flatten() {
            tracing::warn!(request = %ticket.request, messages = ticket.drafts, %error, "messages were not stored");
            ticket.fail(error);
        }
    }

    fn fail_acks(self, error: &Error) -> Option<u64> {
        for ack in self.acks {
            tracing::warn!(request = %ack.request, %error, "a position was not moved");
            let _ = ack.reply.send(Err(error.clone()));
        }
        self.segment
    }
}

/// Commit, subject and drafts of a block.
type Owner = (usize, Subject, Vec<usize>);

struct Stored {
    owners: Vec<Owner>,
    firsts: Vec<u64>,
    positions: Vec<Result<u64>>,
    /// For each commit: the objects that drafts became.
    objects: Vec<Vec<(usize, PayloadKey)>>,
}
