//! Removes what has expired, and the bytes that nothing refers to any more.
//!
//! Every step is bounded and waits its turn behind commits. The order is fixed: rows first, bytes after a grace period,
//! the garbage row last; so a crash in between leaves work to do, never a row without bytes.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actix::{Actor, AsyncContext, Context, WrapFuture, fut::ActorFutureExt};

use super::supervise::{Bell, supervised};
use crate::{
    error::Result,
    metrics::Metrics,
    store::{Garbage, Stores, abandoned},
    types::{Clock, Timestamp},
};

/// Blocks, ids or garbage of one transaction.
const STEP: usize = 500;

/// The task of which there is one, however many brokers there are.
const TASK: &str = "reaper";

/// No commit is under way for so long: all that it waits for has an end.
const ABANDONED_AFTER: Duration = Duration::from_mins(10);

/// Steps of one round; the rest waits for the next, so that other work gets its turn.
const STEPS_MAX: usize = 20;

/// What a reaper runs on.
#[derive(Clone)]
pub struct Parts {
    /// Where to look.
    pub stores: Stores,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Pause between rounds.
    pub interval: Duration,
    /// How long bytes stay after their rows went.
    pub grace: Duration,
    /// Counts what went.
    pub metrics: Metrics,
    /// The newest payload some time ago.
    pub seen: Arc<Mutex<Option<Seen>>>,
}

/// What was the newest payload at some moment.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    at: Timestamp,
    number: u64,
}

/// See the [module](self).
pub struct Reaper {
    parts: Parts,
    _bell: Bell,
}

impl Reaper {
    /// A reaper that begins with a round at once.
    pub fn new(parts: Parts, bell: Bell) -> Self {
        Self { parts, _bell: bell }
    }

    fn next_round(&self, pause: Duration, ctx: &mut Context<Self>) {
        ctx.run_later(pause, |reaper, ctx| {
            let parts = reaper.parts.clone();
            let round = async move { parts.round().await }.into_actor(reaper).map(|done, reaper, ctx| {
                let pause = match done {
                    Ok(true) => reaper.parts.interval,
                    Ok(false) => Duration::from_millis(1),
                    Err(error) => {
                        tracing::warn!(%error, "a round of the reaper failed");
                        reaper.parts.interval
                    }
                };
                reaper.next_round(pause, ctx);
            });
            ctx.spawn(round);
        });
    }
}

impl Actor for Reaper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.next_round(Duration::ZERO, ctx);
    }
}

supervised!(Reaper);

impl Parts {
    /// Gives `false` if work is left.
    async fn round(&self) -> Result<bool> {
        let now = self.clock.now();
        if !self.stores.metadata.leads(TASK).await? {
            return Ok(true);
        }
        if self.stores.metadata.is_shared() {
            self.close_old(now).await?;
        }
        let mut done = true;
        done &= self.expire(now).await?;
        done &= self.expire_uploads(now).await?;
        done &= self.forget_ids(now).await?;
        // The last one: a payload store that is away keeps nobody from forgetting.
        done &= self.reclaim(now).await?;
        Ok(done)
    }

    /// Closes what a broker that ended left open: whatever was the newest [`ABANDONED_AFTER`] ago is no commit's any more.
    async fn close_old(&self, now: Timestamp) -> Result<()> {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.is_some_and(|seen| now.since(seen.at) < ABANDONED_AFTER) {
            return Ok(());
        }
        if let Some(Seen { number, .. }) = seen {
            abandoned::close_up_to(&self.stores, number, now).await?;
        }
        let number = abandoned::newest(&self.stores).await?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Seen { at: now, number });
        Ok(())
    }

    async fn expire(&self, now: Timestamp) -> Result<bool> {
        for _ in 0..STEPS_MAX {
            let expired = self.stores.metadata.expire(now, STEP).await?;
            self.metrics.expired(expired.messages);
            if expired.blocks < STEP {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn reclaim(&self, now: Timestamp) -> Result<bool> {
        let grace = u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX);
        let before = Timestamp(now.0.saturating_sub(grace));
        for _ in 0..STEPS_MAX {
            let garbage = self.stores.metadata.garbage(before, STEP).await?;
            // Asked afterwards: whoever begins to hold it now did not see the rows of this garbage any more.
            if garbage.is_empty() || self.stores.metadata.is_held().await? {
                return Ok(true);
            }
            let keys: Vec<_> = garbage.iter().map(|garbage| garbage.key).collect();
            let is_whole = match self.stores.payload.delete_many(&keys).await {
                Ok(()) => true,
                Err(error) if self.stores.metadata.is_shared() => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "bytes of garbage could not be removed: the others are removed one by one");
                    false
                }
            };
            let removed = if is_whole { garbage } else { self.delete_each(garbage).await };
            self.stores.metadata.forget_garbage(&removed).await?;
            self.metrics.reclaimed(removed.len() as u64);
            if !is_whole {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Deletes files one by one, as one that cannot be removed must not keep the others; gives those that are gone.
    async fn delete_each(&self, garbage: Vec<Garbage>) -> Vec<Garbage> {
        let mut removed = Vec::new();
        for row in garbage {
            match self.stores.payload.delete(row.key).await {
                Ok(()) => removed.push(row),
                Err(error) => tracing::warn!(%error, key = %row.key, "it stays until the next round"),
            }
        }
        removed
    }

    async fn expire_uploads(&self, now: Timestamp) -> Result<bool> {
        for _ in 0..STEPS_MAX {
            if self.stores.metadata.expire_uploads(now, STEP).await? < STEP {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn forget_ids(&self, now: Timestamp) -> Result<bool> {
        for _ in 0..STEPS_MAX {
            if self.stores.metadata.forget_ids(now, STEP).await? < STEP {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
