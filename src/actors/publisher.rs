//! Gathers what arrives while the previous commit is in flight, and forms it into blocks.
//!
//! There is no timer: an idle publisher commits at once, a busy one commits as much as came meanwhile. Each subject
//! belongs to one publisher (shard), and each publisher has one commit under way, so messages keep the order in which
//! they came (P2).

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
};

use actix::{Actor, AsyncContext, Context, Handler, Message, WrapFuture, fut::ActorFutureExt};
use tokio::sync::oneshot;

use super::{
    storage::{Commit, Storage, Ticket},
    supervise::{Bell, Handle, supervised},
};
use crate::{
    admission::Permit,
    block::batch,
    error::{Error, Result},
    types::{Draft, Published, RequestId, Subject},
};

/// A commit takes waiting requests until it has this many bytes of data.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Requests that may wait in a mailbox; permits bound them earlier.
const MAILBOX: usize = 1 << 20;

/// The results of one [`Publish`]: one for each draft, in order.
pub type Results = Vec<Result<Published>>;

/// Stores drafts, which all belong to the receiver's shard, in their order.
#[derive(Message)]
#[rtype(result = "()")]
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
    waiting: VecDeque<Publish>,
    busy: bool,
    _bell: Bell,
}

impl Publisher {
    /// A publisher that commits through the given storage.
    pub fn new(storage: Handle<Storage>, bell: Bell) -> Self {
        Self { storage, waiting: VecDeque::new(), busy: false, _bell: bell }
    }

    fn commit_waiting(&mut self, ctx: &mut Context<Self>) {
        if self.busy || self.waiting.is_empty() {
            return;
        }
        let (done, is_done) = oneshot::channel();
        if let Err(error) = self.storage.tell(take_batch(&mut self.waiting, done)) {
            // Nothing was delivered: the tickets went with the message, and their callers repeat.
            tracing::warn!(%error, "a batch was not accepted");
        }
        self.busy = true;
        let next = async { drop(is_done.await) }.into_actor(self).map(|(), publisher, ctx| {
            publisher.busy = false;
            publisher.commit_waiting(ctx);
        });
        ctx.spawn(next);
    }
}

impl Actor for Publisher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<Publish> for Publisher {
    type Result = ();

    fn handle(&mut self, publish: Publish, ctx: &mut Self::Context) {
        tracing::trace!(request = %publish.request, messages = publish.drafts.len(), "waiting for a commit");
        self.waiting.push_back(publish);
        self.commit_waiting(ctx);
    }
}

supervised!(Publisher);

fn take_batch(waiting: &mut VecDeque<Publish>, done: oneshot::Sender<()>) -> Commit {
    let mut drafts = Vec::new();
    let mut tickets = Vec::new();
    let mut bytes = 0;
    while bytes < BATCH_BYTES_MAX
        && let Some(publish) = waiting.pop_front()
    {
        let Publish { request, drafts: of_request, reply, permit } = publish;
        bytes += of_request.iter().map(|draft| draft.data.len()).sum::<usize>();
        tickets.push(Ticket { request, drafts: of_request.len(), reply, permit });
        if drafts.is_empty() {
            drafts = of_request;
        } else {
            drafts.extend(of_request);
        }
    }
    let blocks = batch::form(&drafts, &vec![false; drafts.len()]);
    Commit { drafts, blocks, tickets, done }
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
    /// Where their results will come.
    reply: Result<oneshot::Receiver<Results>>,
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
                parts: vec![Part { indexes: None, reply: self.send(request, shard, drafts, permit) }],
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
            let reply = self.send(request, shard, members, permit.clone());
            Part { indexes: Some(indexes), reply }
        });
        Submitted { count, parts: parts.collect() }
    }

    fn send(
        &self,
        request: RequestId,
        shard: usize,
        drafts: Vec<Draft>,
        permit: Permit,
    ) -> Result<oneshot::Receiver<Results>> {
        let (reply, answer) = oneshot::channel();
        self.0[shard].tell(Publish { request, drafts, reply, permit })?;
        Ok(answer)
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
        for Part { indexes, reply } in self.parts {
            let count = indexes.as_ref().map_or(self.count, Vec::len);
            let answers = match reply {
                Ok(reply) => reply.await.unwrap_or_else(|_| vec![Err(Error::outcome_unknown()); count]),
                Err(error) => vec![Err(error); count],
            };
            match indexes {
                None => results = answers,
                Some(indexes) => indexes.into_iter().zip(answers).for_each(|(index, result)| results[index] = result),
            }
        }
        results
    }
}
