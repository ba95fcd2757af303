//! One live subscription: waits for news and hands them on.
//!
//! ```text
//! idle ──head moved──▶ pumping: next thing to say ──▶ outlet (waits for the client) ──┐
//!  ▲                     ▲                                                           │
//!  └── nothing is new ───┴──── progress recorded in the feed, so a restart goes on ◀─┘
//! ```

use std::sync::Arc;

use actix::{Actor, ActorContext, AsyncContext, Context, StreamHandler, WrapFuture, fut::ActorFutureExt};
use async_trait::async_trait;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;

use super::supervise::{Bell, supervised};

/// What a subscription does with news; outlives the actor's incarnations.
#[async_trait]
pub trait Feed: Send + Sync + 'static {
    /// Hands on what is new, and waits until the client has room for it. `None`: the subscription has ended.
    async fn advance(&self) -> Option<Progress>;
}

/// How far a subscription got.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The head as it was before looking.
    pub seen: u64,
    /// True if more was there to hand on.
    pub more: bool,
}

/// What a subscriber runs on.
#[derive(Clone)]
pub struct Parts {
    /// What to do with news.
    pub feed: Arc<dyn Feed>,
    /// Changes with every piece of news.
    pub head: watch::Receiver<u64>,
    /// Cancelled when the subscription ends, so that its supervisor does not take the end for a failure.
    pub ended: CancellationToken,
}

/// See the [module](self).
pub struct Subscriber {
    parts: Parts,
    busy: bool,
    bell: Bell,
}

impl Subscriber {
    /// A subscriber that goes on where its predecessor stood.
    pub fn new(parts: Parts, bell: Bell) -> Self {
        Self { parts, busy: false, bell }
    }

    fn pump(&mut self, ctx: &mut Context<Self>) {
        if self.busy {
            return;
        }
        self.busy = true;
        let feed = self.parts.feed.clone();
        let step = async move { feed.advance().await }.into_actor(self).map(|progress, subscriber, ctx| {
            subscriber.busy = false;
            let Some(Progress { seen, more }) = progress else {
                subscriber.parts.ended.cancel();
                ctx.stop();
                return;
            };
            let is_news = *subscriber.parts.head.borrow() != seen;
            if more || is_news {
                subscriber.pump(ctx);
            }
        });
        ctx.spawn(step);
    }
}

impl Actor for Subscriber {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Looked at before all else: without a client, or with a successor, nothing is handed on. A silent subject would
        // keep the actor for ever.
        let over = self.bell.over().clone().cancelled_owned().into_actor(self);
        ctx.spawn(over.map(|(), _, ctx| ctx.stop()));
        ctx.add_stream(WatchStream::new(self.parts.head.clone()));
    }
}

impl StreamHandler<u64> for Subscriber {
    fn handle(&mut self, _: u64, ctx: &mut Self::Context) {
        self.pump(ctx);
    }
}

supervised!(Subscriber);
