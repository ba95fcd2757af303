//! Streams that stay open: notifications, and reads that follow the head. Each has a subscriber actor.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use minitoolstream_proto::{Message, Notification};
use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    Broker,
    draining::Draining,
    fetch::{Fetch, PAGE_MESSAGES, Wanted},
    outlet::{Outlet, outlet},
    reading::Reading,
    status::status,
};
use crate::{
    actors::{
        subscriber::{Feed, Parts, Progress, Subscriber},
        supervise::{GivenUp, Policy, Supervision, supervise},
        threads::Threads,
    },
    admission::Permit,
    block::ScanLimits,
    error::{Error, Result},
    types::Subject,
};

/// Tells of what lies beyond `reading`.
pub(super) fn notifications(
    broker: &Broker,
    draining: Draining,
    reading: Reading,
) -> Result<impl Stream<Item = Result<Notification, Status>> + use<>> {
    let (outlet, stream) = outlet(broker.config.stall_timeout);
    let head = broker.heads.watch_all(&reading.filter);
    let feed = Notifications {
        broker: broker.clone(),
        reading: Mutex::new(reading),
        head: head.clone(),
        outlet: outlet.clone(),
    };
    start(broker, draining, head, Arc::new(feed), outlet)?;
    Ok(stream)
}

/// Sends messages from where `reading` stands on, and new ones as they are committed.
pub(super) fn messages(
    broker: &Broker,
    draining: Draining,
    reading: Reading,
    wanted: Wanted,
) -> Result<impl Stream<Item = Result<Message, Status>> + use<>> {
    let (outlet, stream) = outlet(broker.config.stall_timeout);
    let head = broker.heads.watch_all(&reading.filter);
    let feed = Messages {
        broker: broker.clone(),
        progress: Mutex::new((reading, wanted)),
        head: head.clone(),
        outlet: outlet.clone(),
    };
    start(broker, draining, head, Arc::new(feed), outlet)?;
    Ok(stream)
}

fn start<T: Send + 'static>(
    broker: &Broker,
    draining: Draining,
    head: watch::Receiver<u64>,
    feed: Arc<dyn Feed>,
    outlet: Outlet<T>,
) -> Result<()> {
    let ended = CancellationToken::new();
    let alive = subscriber(broker, head, feed, ended.clone())?;
    tokio::spawn(async move {
        tokio::select! {
            given_up = alive => {
                if let Err(given_up) = given_up {
                    outlet.end(Some(status(&Error::unavailable(given_up.to_string()))));
                }
            }
            () = outlet.closed() => ended.cancel(),
            () = draining.begun() => {
                outlet.end(Some(status(&draining.reason())));
                ended.cancel();
            }
        }
    });
    Ok(())
}

/// Starts the subscriber actor of one stream, if there is room for one more. It lives until `ended`; the future completes
/// then, or when it does not heal.
pub(super) fn subscriber(
    broker: &Broker,
    head: watch::Receiver<u64>,
    feed: Arc<dyn Feed>,
    ended: CancellationToken,
) -> Result<impl Future<Output = Result<(), GivenUp>> + Send + 'static> {
    let permit = broker.admission.subscription()?;
    let counted = broker.metrics.subscription();
    let parts = Parts { feed, head, ended: ended.clone() };
    let supervision = Supervision {
        name: "subscriber",
        policy: Policy::default(),
        threads: Threads::Shared(broker.subscriber_threads.clone()),
        shutdown: ended,
        metrics: broker.metrics.clone(),
    };
    let (handle, alive) = supervise(supervision, move |bell| Subscriber::new(parts.clone(), bell));
    Ok(async move {
        let _held = (permit, counted, handle);
        alive.await
    })
}

struct Notifications {
    broker: Broker,
    /// Shared by the incarnations of the subscriber, like all of a feed.
    reading: Mutex<Reading>,
    head: watch::Receiver<u64>,
    outlet: Outlet<Notification>,
}

#[async_trait]
impl Feed for Notifications {
    async fn advance(&self) -> Option<Progress> {
        let seen = *self.head.borrow();
        let reading = lock(&self.reading).clone();
        match self.news(reading).await {
            Ok((news, reading, more)) => {
                if !news.is_empty() {
                    self.outlet.send(news, Permit::default()).await.ok()?;
                }
                *lock(&self.reading) = reading;
                Some(Progress { seen, more })
            }
            Err(error) => {
                self.outlet.end(Some(status(&error)));
                None
            }
        }
    }
}

impl Notifications {
    /// The last sequence of each subject that got messages, where the next look begins, and whether there is more.
    async fn news(&self, mut reading: Reading) -> Result<(Vec<Notification>, Reading, bool)> {
        let metadata = &self.broker.stores.metadata;
        let notification = |subject: &Subject, last| Notification { subject: subject.to_string(), sequence: last };
        if let Some(subject) = &reading.subject {
            let last = metadata.subject(subject).await?.map_or(0, |row| row.last);
            let news = if last < reading.next { vec![] } else { vec![notification(subject, last)] };
            reading.next = reading.next.max(last + 1);
            return Ok((news, reading, false));
        }
        let limits = ScanLimits { blocks: PAGE_MESSAGES, bytes: u64::MAX, rows: PAGE_MESSAGES };
        let scan = metadata.stream(&reading.filter, reading.next, limits).await?;
        let mut lasts: BTreeMap<Subject, u64> = BTreeMap::new();
        for located in scan.blocks {
            let last = located.block.end() - 1;
            if reading.is_after(&self.broker, &located.subject, last).await? {
                lasts.insert(located.subject, last);
            }
        }
        reading.next = scan.next;
        Ok((lasts.iter().map(|(subject, last)| notification(subject, *last)).collect(), reading, !scan.is_end))
    }
}

struct Messages {
    broker: Broker,
    /// Where it stands, and how much is wanted still.
    progress: Mutex<(Reading, Wanted)>,
    head: watch::Receiver<u64>,
    outlet: Outlet<Message>,
}

#[async_trait]
impl Feed for Messages {
    async fn advance(&self) -> Option<Progress> {
        let seen = *self.head.borrow();
        let (reading, wanted) = lock(&self.progress).clone();
        let mut fetch = Fetch { broker: self.broker.clone(), reading, wanted };
        match fetch.page().await {
            Ok((messages, permit, more)) => {
                if !messages.is_empty() {
                    self.outlet.send(messages, permit).await.ok()?;
                }
                let is_done = fetch.wanted.messages == 0;
                *lock(&self.progress) = (fetch.reading, fetch.wanted);
                if is_done {
                    self.outlet.end(None);
                    return None;
                }
                Some(Progress { seen, more })
            }
            Err(error) => {
                self.outlet.end(Some(status(&error)));
                None
            }
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
