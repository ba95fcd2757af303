//! Gathers what arrives while the previous commit is in flight, and forms it into blocks.
//!
//! There is no timer: an idle publisher commits at once, a busy one commits as much as came meanwhile, or has some more
//! commits under way if they are large: their payload is written at the same time. Each subject belongs to one publisher
//! (shard), and storage keeps the order of a publisher's commits, so messages keep the order in which they came (P2).

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use actix::{Actor, AsyncContext, Context, Handler, WrapFuture, fut::ActorFutureExt};
use tokio::sync::oneshot;

use super::{
    Parcel,
    handle::{Delivered, Handle},
    storage::{Commit, Storage, Ticket},
    supervise::{Bell, supervised},
};
use crate::{
    admission::Permit,
    block::batch,
    error::{Error, Result},
    types::{Draft, Published, RequestId, Subject},
};

/// A commit takes waiting requests until it has this many bytes of data.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Commits of one publisher under way.
const UNDER_WAY_MAX: usize = 4;

/// A busy publisher gathers so many bytes before it commits more.
const GATHERED_MIN: usize = 1 << 20;

/// Requests that may wait in a mailbox; permits bound them earlier.
const MAILBOX: usize = 1 << 20;

/// What a publisher that died had begun with is in the storage's hands and answered soon, or lost with it.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// The results of one [`Publish`]: one for each draft, in order.
pub type Results = Vec<Result<Published>>;

/// Stores drafts, which all belong to the receiver's shard, in their order.
pub struct Publish {
    /// Who asks.
    pub request: RequestId,
    /// What to store.
    pub drafts: Vec<Draft>,
    /// Answered when all of them are durable or refused. Closed without an answer: the outcome is unknown.
    pub reply: oneshot::Sender<Results>,
    /// Released when the answer is given.
    pub permit: Permit,
}

/// See the [module](self).
pub struct Publisher {
    storage: Handle<Storage>,
    number: usize,
    waiting: VecDeque<Parcel<Publish>>,
    /// Bytes of data that wait.
    gathered: usize,
    under_way: usize,
    bell: Bell,
}

impl Publisher {
    /// The publisher of a shard, which commits through the given storage.
    pub fn new(storage: Handle<Storage>, number: usize, bell: Bell) -> Self {
        Self { storage, number, waiting: VecDeque::new(), gathered: 0, under_way: 0, bell }
    }

    /// Whether it is time for another commit.
    fn is_time(&self) -> bool {
        self.under_way == 0 || (self.under_way < UNDER_WAY_MAX && self.gathered >= GATHERED_MIN)
    }

    fn commit_waiting(&mut self, ctx: &mut Context<Self>) {
        if self.bell.over().is_cancelled() {
            // It hung: what came after is already stored, so what waited here must not be.
            self.waiting.clear();
            return;
        }
        while self.is_time()
            && let Some(Batch { drafts, tickets, bytes }) = take_batch(&mut self.waiting)
        {
            self.gathered = if self.waiting.is_empty() { 0 } else { self.gathered.saturating_sub(bytes) };
            let blocks = batch::form(&drafts, &vec![false; drafts.len()]);
            let (done, is_done) = oneshot::channel();
            let tickets = Parcel::new(tickets);
            let commit = Commit { sender: self.number, drafts, blocks, tickets: tickets.clone(), done };
            match self.storage.tell(commit) {
                Ok(delivered) => {
                    self.under_way += 1;
                    let next = async move {
                        delivered.answer(is_done).await;
                        // A storage that hangs answers nobody: its callers learn that the outcome is unknown.
                        drop(tickets.take());
                    };
                    ctx.spawn(next.into_actor(self).map(|(), publisher, ctx| {
                        publisher.under_way -= 1;
                        publisher.commit_waiting(ctx);
                    }));
                }
                Err(error) => {
                    tracing::warn!(%error, "a batch was not accepted");
                    for ticket in tickets.take().into_iter().flatten() {
                        ticket.fail(&error);
                    }
                }
            }
        }
    }
}

impl Actor for Publisher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<Parcel<Publish>> for Publisher {
    type Result = ();

    fn handle(&mut self, publish: Parcel<Publish>, ctx: &mut Self::Context) {
        self.gathered += publish.look(|publish| bytes_of(&publish.drafts)).unwrap_or_default();
        self.waiting.push_back(publish);
        self.commit_waiting(ctx);
    }
}

supervised!(Publisher);

/// Drafts of one commit, and whose they are.
struct Batch {
    drafts: Vec<Draft>,
    tickets: Vec<Ticket>,
    /// Of data.
    bytes: usize,
}

/// Takes what waits; `None` if nothing does.
fn take_batch(waiting: &mut VecDeque<Parcel<Publish>>) -> Option<Batch> {
    let mut batch = Batch { drafts: Vec::new(), tickets: Vec::new(), bytes: 0 };
    while batch.bytes < BATCH_BYTES_MAX
        && let Some(parcel) = waiting.pop_front()
    {
        let Some(Publish { request, drafts, reply, permit }) = parcel.take() else {
            continue;
        };
        tracing::trace!(%request, messages = drafts.len(), "on the way to a commit");
        batch.bytes += bytes_of(&drafts);
        batch.tickets.push(Ticket { request, drafts: drafts.len(), reply, permit });
        if batch.drafts.is_empty() {
            batch.drafts = drafts;
        } else {
            batch.drafts.extend(drafts);
        }
    }
    (!batch.tickets.is_empty()).then_some(batch)
}

fn bytes_of(drafts: &[Draft]) -> usize {
    drafts.iter().map(|draft| draft.data.len()).sum()
}

/// All publishers, by shard.
#[derive(Clone)]
pub struct Publishers(pub Vec<Handle<Publisher>>);

/// Drafts that were handed over, and whose results are to come.
pub struct Submitted {
    count: usize,
    parts: Vec<Part>,
}

/// What one shard was asked to store.
struct Part {
    /// Which drafts; `None`: all.
    indexes: Option<Vec<usize>>,
    /// How their results will come.
    sent: Result<Sent>,
}

/// Drafts on their way through one publisher.
struct Sent {
    publish: Parcel<Publish>,
    delivered: Delivered,
    answer: oneshot::Receiver<Results>,
}

impl Publishers {
    /// Hands drafts of any subjects over to be stored. Drafts of one subject are stored in their order, also across
    /// calls made one after another.
    pub fn submit(&self, request: RequestId, drafts: Vec<Draft>, permit: Permit) -> Submitted {
        let count = drafts.len();
        let Some(first) = drafts.first() else {
            return Submitted { count, parts: Vec::new() };
        };
        let shard = self.shard(&first.subject);
        if drafts.iter().all(|draft| draft.subject == first.subject || self.shard(&draft.subject) == shard) {
            return Submitted {
                count,
                parts: vec![Part { indexes: None, sent: self.send(request, shard, drafts, permit) }],
            };
        }
        let mut shards: Vec<(Vec<usize>, Vec<Draft>)> = vec![Default::default(); self.0.len()];
        for (index, draft) in drafts.into_iter().enumerate() {
            let (indexes, members) = &mut shards[self.shard(&draft.subject)];
            indexes.push(index);
            members.push(draft);
        }
        let parts = shards.into_iter().enumerate().filter(|(_, (indexes, _))| !indexes.is_empty());
        let parts = parts.map(|(shard, (indexes, members))| {
            let sent = self.send(request, shard, members, permit.clone());
            Part { indexes: Some(indexes), sent }
        });
        Submitted { count, parts: parts.collect() }
    }

    fn send(&self, request: RequestId, shard: usize, drafts: Vec<Draft>, permit: Permit) -> Result<Sent> {
        let (reply, answer) = oneshot::channel();
        let publish = Parcel::new(Publish { request, drafts, reply, permit });
        let delivered = self.0[shard].tell(publish.clone())?;
        Ok(Sent { publish, delivered, answer })
    }

    fn shard(&self, subject: &Subject) -> usize {
        if self.0.len() == 1 {
            return 0;
        }
        let mut hasher = DefaultHasher::new();
        subject.hash(&mut hasher);
        let shards = self.0.len() as u64;
        usize::try_from(hasher.finish() % shards).unwrap_or(0)
    }
}

impl Submitted {
    /// Waits until all drafts are durable or refused; one result for each, in order.
    pub async fn results(self) -> Results {
        let mut results = vec![Err(Error::outcome_unknown()); self.count];
        for Part { indexes, sent } in self.parts {
            let count = indexes.as_ref().map_or(self.count, Vec::len);
            let answers = match sent {
                Ok(sent) => sent.results().await,
                Err(error) => Err(error),
            };
            let answers = answers.unwrap_or_else(|error| vec![Err(error); count]);
            match indexes {
                None => results = answers,
                Some(indexes) => indexes.into_iter().zip(answers).for_each(|(index, result)| results[index] = result),
            }
        }
        results
    }
}

impl Sent {
    async fn results(self) -> Result<Results> {
        let Self { publish, delivered, mut answer } = self;
        tokio::select! {
            biased;
            answer = &mut answer => return answer.map_err(|_| Error::outcome_unknown()),
            () = delivered.over() => {}
        }
        if publish.take().is_some() {
            return Err(delivered.not_begun());
        }
        match tokio::time::timeout(ANSWER_MAX, answer).await {
            Ok(Ok(results)) => Ok(results),
            _ => Err(Error::outcome_unknown()),
        }
    }
}
