//! Keeps actors alive.
//!
//! actix restarts an actor that stops, but not one that panics: its mailbox closes for good. Nor does it notice a hang.
//! So each actor here has a supervising task that follows this life cycle:
//!
//! ```text
//!            factory               death bell rings: panic │ no heartbeat: hang
//!  ┌▶ starting ──▶ up ────────────────────────────────────────────▶ down ──▶ back-off ─┐
//!  │               │ a caller found the mailbox closed: look now     │                 │
//!  │               └──── shutdown ──▶ stopped                        │ budget spent    │
//!  │                                                                 ▼                 │
//!  │                                                              given up             │
//!  └───────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! - The **death bell** is a value inside the actor: whatever ends the actor drops it, and the supervisor hears it.
//! - **Heartbeats** are messages with a deadline. An actor that misses one has blocked its thread: the thread is left
//!   to itself, and the next incarnation gets a new one. Should it wake later, nobody holds its address any more, and
//!   its bell tells it that it is [over](Bell::over): what still lies in its mailbox is not carried out.
//! - **Callers** pick up the new address by themselves through [`Handle`], and report a closed mailbox, so that actors
//!   watch each other.
//! - A **budget** of restarts within a period ends the attempt: what crashes that often does not heal by itself.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use actix::{Actor, Addr, Context, Handler, Message};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    handle::{Handle, Incarnation},
    threads::{Place, Threads},
};
use crate::metrics::{Cause, Metrics};

/// Asks an actor for a sign of life.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Heartbeat;

/// Makes an actor fail, so that tests can see what happens then.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub enum Fault {
    /// Panic in a handler.
    Panic,
    /// Block the thread for this long.
    Hang(Duration),
}

impl Fault {
    /// Carries the fault out on the calling thread.
    #[expect(clippy::panic, reason = "to panic is what it is for")]
    pub fn strike(self) {
        match self {
            Self::Panic => panic!("injected fault"),
            Self::Hang(duration) => std::thread::sleep(duration),
        }
    }
}

/// What an actor needs to be supervised; [`supervised!`] implements the two messages.
pub trait Supervised: Actor<Context = Context<Self>> + Handler<Heartbeat> + Handler<Fault> {}

/// Answers heartbeats and injected faults in the way every actor does.
macro_rules! supervised {
    ($actor:ty) => {
        impl actix::Handler<$crate::actors::supervise::Heartbeat> for $actor {
            type Result = ();
            fn handle(&mut self, _: $crate::actors::supervise::Heartbeat, _: &mut Self::Context) {}
        }
        impl actix::Handler<$crate::actors::supervise::Fault> for $actor {
            type Result = ();
            fn handle(&mut self, fault: $crate::actors::supervise::Fault, _: &mut Self::Context) {
                fault.strike();
            }
        }
        impl $crate::actors::supervise::Supervised for $actor {}
    };
}
pub(super) use supervised;

/// Rings when the actor that holds it ends, in whatever way; and tells an actor that it was given up.
pub struct Bell {
    _ring: Ring,
    over: CancellationToken,
}

/// Notifies the supervisor when it is dropped, and records whether a panic dropped it.
struct Ring {
    _sender: mpsc::Sender<()>,
    has_panicked: Arc<AtomicBool>,
}

impl Drop for Ring {
    fn drop(&mut self) {
        // An actor that panics is dropped while its thread unwinds; one whose thread was stopped is not.
        if std::thread::panicking() {
            self.has_panicked.store(true, Ordering::Release);
        }
    }
}

impl Bell {
    /// Cancelled before the next incarnation begins. Who hung and then wakes must look here before it touches what its
    /// successor works on.
    pub fn over(&self) -> &CancellationToken {
        &self.over
    }
}

/// How patient a supervisor is.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// How long an actor may take to answer one.
    pub deadline: Duration,
    /// Pause before the first restart; doubles with each restart inside `period`.
    pub backoff: Duration,
    /// Longest pause.
    pub backoff_max: Duration,
    /// Most restarts inside `period`.
    pub budget: usize,
    /// The window in which restarts are counted.
    pub period: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(500),
            deadline: Duration::from_secs(2),
            backoff: Duration::from_millis(10),
            backoff_max: Duration::from_secs(1),
            budget: 20,
            period: Duration::from_secs(60),
        }
    }
}

/// What a supervisor needs to know.
pub struct Supervision {
    /// The actor's name in logs and metrics.
    pub name: &'static str,
    /// How patient to be.
    pub policy: Policy,
    /// Where incarnations live.
    pub threads: Threads,
    /// Ends the actor and its supervision.
    pub shutdown: CancellationToken,
    /// Counts restarts.
    pub metrics: Metrics,
}

/// The restart budget of an actor is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {name} failed {restarts} times within {period:?} and is given up")]
pub struct GivenUp {
    /// The actor.
    pub name: &'static str,
    /// How often it was restarted.
    pub restarts: usize,
    /// In how long.
    pub period: Duration,
}

/// Builds the handle of an actor and the task that keeps it alive; the actor starts when the task does.
///
/// The task ends with `Ok` after shutdown, with [`GivenUp`] once the budget is spent.
pub fn supervise<A, F>(
    supervision: Supervision,
    factory: F,
) -> (Handle<A>, impl Future<Output = Result<(), GivenUp>> + Send)
where
    A: Supervised,
    F: Fn(Bell) -> A + Clone + Send + 'static,
{
    let (publish, present) = watch::channel(None);
    let alarm = Arc::new(Notify::new());
    let handle = Handle::new(supervision.name, present, alarm.clone());
    (handle, keep_alive(supervision, factory, publish, alarm))
}

async fn keep_alive<A, F>(
    supervision: Supervision,
    factory: F,
    present: watch::Sender<Option<Incarnation<A>>>,
    alarm: Arc<Notify>,
) -> Result<(), GivenUp>
where
    A: Supervised,
    F: Fn(Bell) -> A + Clone + Send + 'static,
{
    let Supervision { name, policy, threads, shutdown, metrics } = supervision;
    let mut restarts: VecDeque<Instant> = VecDeque::new();
    loop {
        let (sender, bell) = mpsc::channel(1);
        let has_panicked = Arc::new(AtomicBool::new(false));
        let ring = Ring { _sender: sender, has_panicked: has_panicked.clone() };
        let mut death = Death { bell, has_panicked };
        let place = match &threads {
            Threads::Own(maker) => maker.make().await.map(Place::apart),
            Threads::Shared(pool) => pool.pick(),
        };
        // Without threads the system is shutting down.
        let Some(place) = place else { return Ok(()) };
        let (build, over) = (factory.clone(), CancellationToken::new());
        // Whoever drops this task gives the actor up, too.
        let _over = over.clone().drop_guard();
        let bell_of_actor = Bell { _ring: ring, over: over.clone() };
        let address = A::start_in_arbiter(&place.thread, move |_| build(bell_of_actor));
        present.send_replace(Some(Incarnation { address: address.clone(), over: over.clone() }));
        let cause = tokio::select! {
            biased;
            () = shutdown.cancelled() => {
                present.send_replace(None);
                over.cancel();
                if let Threads::Own(_) = threads {
                    place.thread.stop();
                }
                return Ok(());
            }
            cause = watch_over(&address, &mut death, &alarm, policy) => cause,
        };
        let cause = match &threads {
            // Another hung on its thread, and took it along.
            Threads::Shared(pool) if pool.has_replaced(&place) => Cause::Hang,
            _ => cause,
        };
        present.send_replace(None);
        over.cancel();
        metrics.actor_restarted(name, cause);
        tracing::error!(actor = name, cause = cause.as_str(), "actor failed");
        match (&threads, cause) {
            (Threads::Own(_), _) => drop(place.thread.stop()),
            (Threads::Shared(_), Cause::Panic) => {}
            (Threads::Shared(pool), Cause::Hang | Cause::End) => {
                // Without a new thread the system is shutting down.
                if !pool.replace(&place).await {
                    return Ok(());
                }
            }
        }
        let now = Instant::now();
        restarts.retain(|at| now.duration_since(*at) < policy.period);
        restarts.push_back(now);
        if restarts.len() > policy.budget {
            return Err(GivenUp { name, restarts: restarts.len(), period: policy.period });
        }
        tokio::select! {
            () = tokio::time::sleep(backoff(policy, restarts.len())) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

/// The supervisor's side of a [`Bell`].
struct Death {
    bell: mpsc::Receiver<()>,
    has_panicked: Arc<AtomicBool>,
}

impl Death {
    fn cause(&self) -> Cause {
        if self.has_panicked.load(Ordering::Acquire) { Cause::Panic } else { Cause::End }
    }
}

/// Returns when the incarnation is beyond help.
async fn watch_over<A: Supervised>(actor: &Addr<A>, death: &mut Death, alarm: &Notify, policy: Policy) -> Cause {
    loop {
        tokio::select! {
            _ = death.bell.recv() => return death.cause(),
            () = tokio::time::sleep(policy.heartbeat) => {}
            () = alarm.notified() => {}
        }
        match tokio::time::timeout(policy.deadline, actor.send(Heartbeat)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                // The mailbox closes before the actor is dropped.
                let _ = tokio::time::timeout(policy.deadline, death.bell.recv()).await;
                return death.cause();
            }
            Err(_) => return Cause::Hang,
        }
    }
}

fn backoff(policy: Policy, restarts: usize) -> Duration {
    let doublings = u32::try_from(restarts.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    (policy.backoff * 2_u32.pow(doublings)).min(policy.backoff_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_limit() {
        let policy = Policy::default();
        let pauses: Vec<_> = (1..=9).map(|restarts| backoff(policy, restarts).as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(backoff(policy, usize::MAX), policy.backoff_max);
    }
}
