//! Streams of workers.
//!
//! ```text
//! client ──frames──▶ inbox ──answers──▶ step ──▶ storage: settle, then lease      (one transaction)
//!                                        │
//! client ◀──pages── outlet ◀── bodies ◀──┴── runs: what this worker got
//! ```
//! A subscriber actor runs [`Session::advance`](session::Session) again and again, whenever there is news: a frame of the
//! client, a commit, a ring of the consumer, a deadline, room in the outlet. Between two looks nothing waits for the
//! client, so that its answers are carried out while it does not read. However a stream ends, a last step gives its
//! leases to others.

mod inbox;
mod look;
mod page;
mod session;

use std::{
    hash::{BuildHasher, RandomState},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use minitoolstream_proto::{ConsumeRequest, ConsumeResponse, ConsumerOpened, OpenConsumer};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use self::session::Session;
use super::{
    Broker, consumers,
    draining::Draining,
    fetch,
    follow::subscriber,
    inflow::Permits,
    outlet::{Outlet, outlet},
    status::{status, wire_duration},
    validate,
};
use crate::{
    actors::rings::Ring,
    admission::Permit,
    broker::read::Lessor,
    consumer,
    error::{Error, Result},
    store::{ConsumerView, NewConsumer},
    types::{ConsumerName, Timestamp},
};

/// Silence after which a client that names none is sent an empty frame.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Shortest and longest heartbeat.
const HEARTBEAT_RANGE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(600)];

/// How long a client may take to say which consumer it works for.
const OPENING: Duration = Duration::from_secs(10);

/// Longest sleep until a deadline: clocks may be set.
const SLEEP_MAX: Duration = Duration::from_millis(500);

/// How often the last step of a stream is tried, and the pause between: longer than an actor takes to be rebuilt.
const CLOSE_TRIES: usize = 100;
const CLOSE_PAUSE: Duration = Duration::from_millis(100);

/// Opens a worker's stream.
pub(super) async fn serve(
    broker: &Broker,
    draining: &Draining,
    mut frames: Streaming<ConsumeRequest>,
    permits: Permits,
) -> Result<impl Stream<Item = Result<ConsumeResponse, Status>> + use<>, Status> {
    if draining.has_begun() {
        return Err(status(&draining.reason()));
    }
    let first = match tokio::time::timeout(OPENING, frames.message()).await {
        Ok(first) => first?,
        Err(_) => None,
    };
    drop(permits.next());
    let Some(ConsumeRequest { open: Some(open), .. }) = &first else {
        let problem = format!("is missing in the first frame, or did not come within {}", OPENING.as_secs());
        return Err(status(&Error::invalid("open", problem)));
    };
    let opened = broker.open(open).await.map_err(|error| status(&error))?;
    let first = first.unwrap_or_default();
    start(broker, draining.clone(), opened, first, frames, permits).await.map_err(|error| status(&error))
}

/// A consumer as one worker opened it.
struct Opened {
    view: ConsumerView,
    is_durable: bool,
    message_bytes: usize,
    heartbeat: Duration,
}

impl Broker {
    async fn open(&self, open: &OpenConsumer) -> Result<Opened> {
        let heartbeat = match open.heartbeat {
            Some(heartbeat) => validate::duration("open.heartbeat", heartbeat, HEARTBEAT_RANGE)?,
            None => HEARTBEAT,
        };
        let patch = open.settings.as_ref().map(|settings| consumers::patch(settings, self.clock.now())).transpose()?;
        let name = match open.durable_name.as_str() {
            "" => None,
            name => Some(consumers::name("open.durable_name", name)?),
        };
        let view = match (name, patch) {
            (Some(name), None) => {
                let found = self.stores.metadata.consumer(&name).await?;
                found.ok_or_else(|| {
                    Error::NotFound(format!("there is no consumer '{name}': create it, or open it with settings"))
                })?
            }
            (None, None) => {
                let problem = "are needed for a consumer without a name: give at least a filter";
                return Err(Error::invalid("open.settings", problem));
            }
            (name, Some(patch)) => {
                let new = NewConsumer {
                    is_durable: name.is_some(),
                    name: name.map_or_else(ephemeral_name, Ok)?,
                    patch,
                    dead_letter_ttl: self.config.dead_letter_ttl,
                    consumers_max: self.config.consumers,
                    now: self.clock.now(),
                };
                self.stores.metadata.create_consumer(new).await?
            }
        };
        let message_bytes = fetch::message_bytes(open.max_message_bytes);
        Ok(Opened { view, is_durable: !open.durable_name.is_empty(), message_bytes, heartbeat })
    }
}

/// A name for a consumer without one. It begins with a character that no name of a user begins with.
fn ephemeral_name() -> Result<ConsumerName> {
    ConsumerName::parse("name", &format!("$ephemeral-{:016x}", random()))
}

fn random() -> u64 {
    // Seeded by the operating system, and anew for each value.
    RandomState::new().hash_one(0)
}

async fn start(
    broker: &Broker,
    draining: Draining,
    opened: Opened,
    first: ConsumeRequest,
    frames: Streaming<ConsumeRequest>,
    permits: Permits,
) -> Result<impl Stream<Item = Result<ConsumeResponse, Status>> + use<>> {
    let Opened { view, is_durable, message_bytes, heartbeat } = opened;
    let (outlet, stream) = outlet(broker.config.stall_timeout);
    let id = consumer::Session(random());
    // Followed before the first look, so that nothing falls between.
    let (head, ring) = (broker.heads.watch_all(&view.settings.filter), broker.rings.watch(&view.name));
    let session = Arc::new(Session::new(
        broker.clone(),
        id,
        view.name.clone(),
        message_bytes,
        outlet.clone(),
        draining,
        ring.borrow().count,
    ));
    let lessor: Arc<dyn Lessor> = session.clone();
    broker.lessors.add(id.0, Arc::downgrade(&lessor));
    let opened = ConsumerOpened { name: view.name.to_string(), ack_wait: Some(wire_duration(view.settings.ack_wait)) };
    let greeting = ConsumeResponse { opened: Some(opened), ..Default::default() };
    let _ = outlet.push(vec![greeting], Permit::default());
    session.receive(first, Permit::default());
    let ended = CancellationToken::new();
    let alive = subscriber(broker, session.news(), session.clone(), ended.clone());
    let alive = match alive {
        Ok(alive) => alive,
        Err(error) => {
            close(&session).await;
            return Err(error);
        }
    };
    let worker = Worker { session: session.clone(), outlet: outlet.clone(), head, ring, heartbeat, is_durable };
    tokio::spawn(async move {
        let given_up = tokio::select! {
            given_up = alive => given_up.err(),
            () = worker.attend(frames, permits) => None,
        };
        if let Some(given_up) = given_up {
            outlet.end(Some(status(&Error::unavailable(given_up.to_string()))));
        }
        ended.cancel();
        close(&session).await;
    });
    Ok(stream)
}

/// Gives what the worker had to others.
async fn close(session: &Session) {
    for _ in 0..CLOSE_TRIES {
        match session.close().await {
            Err(error) if error.is_transient() => tokio::time::sleep(CLOSE_PAUSE).await,
            _ => return,
        }
    }
    tracing::warn!(consumer = %session.consumer(), "the leases of a closed stream wait for the end of their ack wait");
}

/// What tells a session of news.
struct Worker {
    session: Arc<Session>,
    outlet: Outlet<ConsumeResponse>,
    head: tokio::sync::watch::Receiver<u64>,
    ring: tokio::sync::watch::Receiver<Ring>,
    heartbeat: Duration,
    is_durable: bool,
}

impl Worker {
    /// Completes when the client is gone.
    async fn attend(mut self, mut frames: Streaming<ConsumeRequest>, permits: Permits) {
        let session = self.session.clone();
        let draining = session.draining();
        let mut is_open = true;
        let mut beat = tokio::time::interval(self.heartbeat / 2);
        let mut is_draining = false;
        let mut gone = pin!(self.outlet.closed());
        loop {
            let sleep = self.sleep();
            tokio::select! {
                () = &mut gone => return,
                frame = frames.message(), if is_open && session.has_room() => match frame {
                    Ok(Some(frame)) => session.receive(frame, permits.next()),
                    // Nothing more is asked: what was is carried out first.
                    Ok(None) => {
                        is_open = false;
                        session.finish();
                    }
                    Err(_) => return,
                },
                () = session.replanned() => {}
                Ok(()) = self.head.changed() => session.look(),
                Ok(()) = self.ring.changed() => session.ring(*self.ring.borrow_and_update()),
                () = self.outlet.room(), if session.waits_for_room() => session.room(),
                () = tokio::time::sleep(sleep.unwrap_or_default()), if sleep.is_some() => session.look_if_due(),
                _ = beat.tick() => session.beat(self.heartbeat),
                () = draining.begun(), if !is_draining && self.is_durable => {
                    is_draining = true;
                    session.drain();
                }
                // It cannot go on elsewhere: a connection that only becomes old keeps it until the grace is over.
                () = draining.broker_stops(), if !is_draining && !self.is_durable => {
                    is_draining = true;
                    session.drain();
                }
            }
        }
    }

    /// Time until something is due.
    fn sleep(&self) -> Option<Duration> {
        let due = self.session.due();
        (due < Timestamp(u64::MAX)).then(|| due.since(self.session.broker().clock.now()).min(SLEEP_MAX))
    }
}
