//! Streams that stay open: notifications, and reads that follow the head. Each has a subscriber actor.

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicU64};

use async_trait::async_trait;
use minitoolstream_proto::{Message, Notification};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    Broker,
    egress::{Fetch, Wanted},
    outlet::{Outlet, outlet},
    status::status,
};
use crate::{
    actors::{
        subscriber::{Feed, Parts, Progress, Subscriber},
        supervise::{Policy, Supervision, supervise},
        threads::Threads,
    },
    admission::Permit,
    error::{Error, Result},
    types::Subject,
};

/// Tells of sequences from `next` on.
pub(super) fn notifications(
    broker: &Broker,
    subject: &Subject,
    next: u64,
) -> Result<impl Stream<Item = Result<Notification, Status>> + use<>> {
    let (outlet, stream) = outlet(broker.config.stall_timeout);
    let feed = Notifications { broker: broker.clone(), subject: subject.clone(), outlet: outlet.clone() };
    start(broker, subject, next, Arc::new(feed), outlet)?;
    Ok(stream)
}

/// Sends messages from `next` on, and new ones as they are committed.
pub(super) fn messages(
    broker: &Broker,
    subject: &Subject,
    next: u64,
    wanted: Wanted,
) -> Result<impl Stream<Item = Result<Message, Status>> + use<>> {
    let (outlet, stream) = outlet(broker.config.stall_timeout);
    let feed = Messages {
        broker: broker.clone(),
        subject: subject.clone(),
        wanted: Mutex::new(wanted),
        outlet: outlet.clone(),
    };
    start(broker, subject, next, Arc::new(feed), outlet)?;
    Ok(stream)
}

fn start<T: Send + 'static>(
    broker: &Broker,
    subject: &Subject,
    next: u64,
    feed: Arc<dyn Feed>,
    outlet: Outlet<T>,
) -> Result<()> {
    let permit = broker.admission.subscription()?;
    let draining = broker.draining.clone();
    let counted = broker.metrics.subscription();
    let ended = CancellationToken::new();
    let head = broker.heads.watch(subject);
    let parts = Parts { feed, next: Arc::new(AtomicU64::new(next)), head, ended: ended.clone() };
    let supervision = Supervision {
        name: "subscriber",
        policy: Policy::default(),
        threads: Threads::Shared(broker.subscriber_threads.clone()),
        shutdown: ended.clone(),
        metrics: broker.metrics.clone(),
    };
    let (handle, alive) = supervise(supervision, move |bell| Subscriber::new(parts.clone(), bell));
    tokio::spawn(async move {
        let _held = (permit, counted, handle);
        tokio::select! {
            given_up = alive => {
                if let Err(given_up) = given_up {
                    outlet.end(Some(status(&Error::unavailable(given_up.to_string()))));
                }
            }
            () = outlet.closed() => ended.cancel(),
            () = draining.cancelled() => {
                outlet.end(Some(status(&Error::draining())));
                ended.cancel();
            }
        }
    });
    Ok(())
}

struct Notifications {
    broker: Broker,
    subject: Subject,
    outlet: Outlet<Notification>,
}

#[async_trait]
impl Feed for Notifications {
    async fn advance(&self, from: u64) -> Option<Progress> {
        let row = match self.broker.stores.metadata.subject(&self.subject).await {
            Ok(row) => row,
            Err(error) => {
                self.outlet.end(Some(status(&error)));
                return None;
            }
        };
        let last = row.map_or(0, |row| row.last);
        if last < from {
            return Some(Progress { next: from, more: false });
        }
        let notification = Notification { subject: self.subject.as_str().into(), sequence: last };
        self.outlet.send(vec![notification], Permit::default()).await.ok()?;
        Some(Progress { next: last + 1, more: false })
    }
}

struct Messages {
    broker: Broker,
    subject: Subject,
    /// Counts down; shared by the incarnations of the subscriber.
    wanted: Mutex<Wanted>,
    outlet: Outlet<Message>,
}

#[async_trait]
impl Feed for Messages {
    async fn advance(&self, from: u64) -> Option<Progress> {
        let wanted = *self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let (broker, subject) = (self.broker.clone(), self.subject.clone());
        let mut fetch = Fetch { broker, subject, next: from, wanted };
        match fetch.page().await {
            Ok((messages, permit, more)) => {
                if !messages.is_empty() {
                    self.outlet.send(messages, permit).await.ok()?;
                }
                *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = fetch.wanted;
                if fetch.wanted.messages == 0 {
                    self.outlet.end(None);
                    return None;
                }
                Some(Progress { next: fetch.next, more })
            }
            Err(error) => {
                self.outlet.end(Some(status(&error)));
                None
            }
        }
    }
}
