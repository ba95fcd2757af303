//! Runs commits, one transaction after another, and raises the heads.
//!
//! ```text
//! waiting commits ─▶ payload durable ─┐
//!   │ small: in the row ──────────────┼▶ group ─▶ metadata transaction ─▶ heads ─▶ replies ─▶ next group
//! acks, steps ────────────────────────┘             │ refused: strip duplicates, try again
//!                         ▲─────────────────────────┘
//! ```
//! While a group is being synced, the next one gathers, and payload of later ones is written: who needs none does not wait
//! for a slow payload store.
//!
//! Transaction and heads go together, one group at a time, whatever becomes of the actor meanwhile: else those who wait
//! for a subject would not learn of its last messages, and a successor could overtake them.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix::{Actor, AsyncContext, Context, Handler, Message, WrapFuture, fut::ActorFutureExt};
use tokio::sync::{Mutex, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    Parcel,
    heads::Heads,
    job::{Job, Work},
    placing::{Placing, Segment},
    publisher::Results,
    queue::Queue,
    rings::Rings,
    supervise::{Bell, supervised},
};
use crate::{
    admission::Permit,
    block::batch::NewBlock,
    consumer::{Step, Stepped},
    error::{Error, Result},
    metrics::Metrics,
    store::{Ack, Committed, Group, Stores, abandoned},
    types::{Clock, Draft, RequestId, Subject},
};

/// A group takes waiting commits until its blocks have this many bytes.
const GROUP_BYTES_MAX: usize = 16 << 20;

/// Acks of one group; more wait for the next.
const GROUP_ACKS_MAX: usize = 10_000;

/// Steps of consumers in one group; more wait for the next.
const GROUP_STEPS_MAX: usize = 1_000;

/// Writes of payload under way. Segments of the embedded store are written front to back.
const PLACINGS_SHARED: usize = 4;
const PLACINGS_EMBEDDED: usize = 1;

/// What a row takes while memory is scarce: a request to S3 would cost more than so few bytes.
const INLINE_SCARCE: usize = 4 << 10;

/// Messages that may wait in the mailbox; permits bound them earlier.
const MAILBOX: usize = 1 << 20;

/// Stores a batch. Batches of one sender are stored in the order in which they came, and no two senders share a subject.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Commit {
    /// Whose batch it is. A sender's successor has the same number.
    pub sender: usize,
    /// The messages.
    pub drafts: Vec<Draft>,
    /// The same, as blocks.
    pub blocks: Vec<NewBlock>,
    /// Who gets which results. The sender takes them back from a storage that hangs.
    pub tickets: Parcel<Vec<Ticket>>,
    /// Closed when the batch is through.
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

/// Takes a step of a consumer.
#[derive(Message)]
#[rtype(result = "()")]
pub struct TakeStep {
    /// What the worker says and asks.
    pub step: Arc<Step>,
    /// What came of it.
    pub reply: oneshot::Sender<Result<Stepped>>,
}

/// What storage runs on.
#[derive(Clone)]
pub struct Parts {
    /// Where messages are stored.
    pub stores: Stores,
    /// Who is told of them.
    pub heads: Arc<Heads>,
    /// Who is told of consumers.
    pub rings: Arc<Rings>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How long message ids are remembered.
    pub dedup_window: Duration,
    /// Blocks of at most so many bytes are stored in their rows.
    pub inline_max: InlineMax,
    /// Counts commits.
    pub metrics: Metrics,
    /// Where a transaction runs to its end.
    pub runtime: tokio::runtime::Handle,
    /// Held by the transaction under way, over all incarnations.
    pub turn: Arc<Mutex<()>>,
}

/// Blocks of at most so many bytes are stored in their rows; fewer while the memory for rows is scarce. Clones share it.
#[derive(Clone, Debug)]
pub struct InlineMax {
    most: usize,
    now: Arc<AtomicUsize>,
}

impl InlineMax {
    /// The limit while memory is plenty.
    pub fn new(most: usize) -> Self {
        Self { most, now: Arc::new(AtomicUsize::new(most)) }
    }

    /// Takes note of how memory is.
    pub fn follow(&self, is_scarce: bool) {
        let now = if is_scarce { self.most.min(INLINE_SCARCE) } else { self.most };
        self.now.store(now, Ordering::Relaxed);
    }

    /// The limit now.
    pub fn get(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }
}

/// See the [module](self).
pub struct Storage {
    parts: Parts,
    queue: Queue,
    acks: VecDeque<MovePosition>,
    steps: VecDeque<TakeStep>,
    /// Writes of payload under way.
    placings: usize,
    /// Whether what an earlier incarnation left open is closed. Until then nothing is placed: a segment that is begun
    /// before would be closed along with it.
    is_tidy: bool,
    /// Whether a transaction is under way.
    busy: bool,
    /// The segment that this incarnation appends to.
    segment: Option<Arc<Segment>>,
    bell: Bell,
}

impl Storage {
    /// A storage actor with an empty queue.
    pub fn new(parts: Parts, bell: Bell) -> Self {
        let (acks, steps, queue) = (VecDeque::new(), VecDeque::new(), Queue::new(parts.inline_max.clone()));
        Self { parts, queue, acks, steps, placings: 0, is_tidy: false, busy: false, segment: None, bell }
    }

    fn run_next(&mut self, ctx: &mut Context<Self>) {
        if self.bell.over().is_cancelled() {
            // It hung, and its successor is at work: senders have given up what waits here.
            self.queue.clear();
            self.acks.clear();
            self.steps.clear();
            return;
        }
        self.place(ctx);
        self.store(ctx);
    }

    fn place(&mut self, ctx: &mut Context<Self>) {
        if !self.is_tidy {
            return;
        }
        let most = if self.parts.stores.metadata.is_shared() { PLACINGS_SHARED } else { PLACINGS_EMBEDDED };
        while self.placings < most {
            let commits = self.queue.begin_placing(GROUP_BYTES_MAX);
            if commits.is_empty() {
                return;
            }
            self.placings += 1;
            let numbers: Vec<_> = commits.iter().map(|(number, _)| *number).collect();
            let placing = Placing::new(self.parts.clone(), self.segment.take()).run(commits);
            ctx.spawn(placing.into_actor(self).map(move |(segment, placed), storage, ctx| {
                storage.placings -= 1;
                storage.segment = segment;
                match placed {
                    Ok(placed) => placed.into_iter().for_each(|(number, placed)| storage.queue.placed(number, placed)),
                    Err(error) => {
                        let failed = storage.queue.remove(&numbers);
                        failed.into_iter().for_each(|entry| entry.fail(&storage.parts, &error));
                    }
                }
                storage.run_next(ctx);
            }));
        }
    }

    fn store(&mut self, ctx: &mut Context<Self>) {
        if self.busy {
            return;
        }
        let work = Work {
            entries: self.queue.ready(GROUP_BYTES_MAX),
            acks: self.acks.drain(..self.acks.len().min(GROUP_ACKS_MAX)).collect(),
            steps: self.steps.drain(..self.steps.len().min(GROUP_STEPS_MAX)).collect(),
        };
        if work.entries.is_empty() && work.acks.is_empty() && work.steps.is_empty() {
            return;
        }
        self.busy = true;
        let job = Job::new(self.parts.clone(), self.bell.over().clone(), work);
        ctx.spawn(job.run().into_actor(self).map(|again, storage, ctx| {
            storage.queue.put_back(again.entries);
            again.acks.into_iter().rev().for_each(|ack| storage.acks.push_front(ack));
            again.steps.into_iter().rev().for_each(|step| storage.steps.push_front(step));
            storage.busy = false;
            storage.run_next(ctx);
        }));
    }
}

impl Actor for Storage {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.busy = true;
        let parts = self.parts.clone();
        let tidy = async move { parts.close_abandoned().await }.into_actor(self).map(|(), storage, ctx| {
            storage.is_tidy = true;
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
        if self.stores.metadata.is_shared() {
            // What is open may be another broker's: the reaper closes what is old.
            return;
        }
        if let Err(error) = abandoned::close(&self.stores, self.clock.now()).await {
            tracing::warn!(%error, "what an earlier storage actor left open stays so until the next start");
        }
    }

    /// Commits a group and raises the heads.
    pub(super) async fn commit(&self, group: Group, over: CancellationToken) -> Result<Committed> {
        let parts = self.clone();
        let commit = self.runtime.spawn(async move {
            let _turn = parts.turn.lock().await;
            if over.is_cancelled() {
                return Err(Error::outcome_unknown());
            }
            let subjects: Vec<_> = group.blocks.iter().map(|block| block.subject.clone()).collect();
            let steps: Vec<_> = group.steps.clone();
            let committed = parts.stores.metadata.commit(group).await;
            match &committed {
                Ok(Committed::Stored { raised, steps: stepped, .. }) => {
                    for (subject, last) in raised {
                        parts.heads.raise(subject, *last);
                    }
                    for (step, stepped) in steps.iter().zip(stepped) {
                        if let Ok(stepped) = stepped {
                            parts.rings.ring(&step.consumer, stepped.others, stepped.next_due, step.now);
                        }
                    }
                }
                Ok(Committed::Refused(_)) => {}
                Err(_) => parts.raise_to_what_is_stored(&subjects).await,
            }
            committed
        });
        commit.await.unwrap_or_else(|_| Err(Error::outcome_unknown()))
    }

    /// After a failed transaction, which may be durable all the same.
    async fn raise_to_what_is_stored(&self, subjects: &[Subject]) {
        for subject in subjects {
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
        self.queue.push(commit);
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

impl Handler<TakeStep> for Storage {
    type Result = ();

    fn handle(&mut self, step: TakeStep, ctx: &mut Self::Context) {
        self.steps.push_back(step);
        self.run_next(ctx);
    }
}

supervised!(Storage);
