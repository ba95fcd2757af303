//! Lets scheduled messages go when their time has come.

use std::{sync::Arc, time::Duration};

use actix::{Actor, AsyncContext, Context, SpawnHandle, StreamHandler, WrapFuture, fut::ActorFutureExt};
use tokio_stream::wrappers::WatchStream;

use super::{
    heads::Heads,
    supervise::{Bell, supervised},
};
use crate::{
    error::{Error, Result},
    store::Stores,
    types::{Clock, Subject, Timestamp},
};

/// Messages of one transaction.
const STEP: usize = 500;

/// Longest sleep: clocks may be set.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What a scheduler runs on.
#[derive(Clone)]
pub struct Parts {
    /// Where scheduled messages are.
    pub stores: Stores,
    /// Who is told when they go, and tells of new ones.
    pub heads: Arc<Heads>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where a transaction runs to its end.
    pub runtime: tokio::runtime::Handle,
}

/// See the [module](self).
pub struct Scheduler {
    parts: Parts,
    busy: bool,
    /// True if something came while it was looking.
    again: bool,
    timer: Option<SpawnHandle>,
    _bell: Bell,
}

impl Scheduler {
    /// A scheduler that looks at once what is due.
    pub fn new(parts: Parts, bell: Bell) -> Self {
        Self { parts, busy: false, again: false, timer: None, _bell: bell }
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        if self.busy {
            self.again = true;
            return;
        }
        (self.busy, self.again) = (true, false);
        let parts = self.parts.clone();
        let look = async move { parts.deliver().await }.into_actor(self).map(|next, scheduler, ctx| {
            scheduler.busy = false;
            let pause = match next {
                _ if scheduler.again => Duration::ZERO,
                Ok(Some(due)) => due.since(scheduler.parts.clock.now()).min(SLEEP_MAX),
                // Nothing waits: what comes is told.
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "scheduled messages were not delivered, and will be later");
                    SLEEP_MAX
                }
            };
            let timer = ctx.run_later(pause, Self::look_again);
            if let Some(earlier) = scheduler.timer.replace(timer) {
                ctx.cancel_future(earlier);
            }
        });
        ctx.spawn(look);
    }

    fn look_again(&mut self, ctx: &mut Context<Self>) {
        self.look(ctx);
    }
}

impl Actor for Scheduler {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Its first value comes at once.
        ctx.add_stream(WatchStream::new(self.parts.heads.watch(&Subject::scheduled())));
    }
}

impl StreamHandler<u64> for Scheduler {
    fn handle(&mut self, _: u64, ctx: &mut Self::Context) {
        self.look(ctx);
    }
}

supervised!(Scheduler);

impl Parts {
    /// Moves what is due; gives when the next is.
    async fn deliver(&self) -> Result<Option<Timestamp>> {
        let now = self.clock.now();
        let next = self.stores.metadata.next_due().await?;
        if next.is_none_or(|due| due > now) {
            return Ok(next);
        }
        let parts = self.clone();
        // Transaction and heads go together, whatever becomes of the actor meanwhile.
        let moved = self.runtime.spawn(async move {
            let due = parts.stores.metadata.deliver_due(now, STEP).await?;
            for (subject, last) in &due.raised {
                parts.heads.raise(subject, *last);
            }
            Ok(due.more)
        });
        let more: Result<bool> = moved.await.unwrap_or_else(|_| Err(Error::outcome_unknown()));
        if more? {
            return Ok(Some(now));
        }
        // What is still due could not be moved: it is tried again, but not at once.
        let next = self.stores.metadata.next_due().await?;
        Ok(next.map(|due| if due <= now { now.after(SLEEP_MAX) } else { due }))
    }
}
