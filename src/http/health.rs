use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{config::Role, error::Error, store::Stores};

/// Without a beat of the runtime for this long, the process makes no progress.
const BEAT_MAX: Duration = Duration::from_secs(10);

/// Tells whether an actor is up.
pub type Probe = Box<dyn Fn() -> bool + Send + Sync>;

/// What liveness and readiness are made of.
pub struct Health {
    started: Instant,
    /// Milliseconds from `started` to the last beat of the runtime that serves gRPC.
    beat: AtomicU64,
    actors: Vec<(&'static str, Probe)>,
    stores: Stores,
    role: Role,
    draining: CancellationToken,
}

impl Health {
    /// Health of a broker that runs on these stores and critical actors.
    pub fn new(
        stores: Stores,
        role: Role,
        actors: Vec<(&'static str, Probe)>,
        draining: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self { started: Instant::now(), beat: AtomicU64::new(0), actors, stores, role, draining })
    }

    /// Says that the runtime makes progress; call it from a task of that runtime.
    pub fn beat(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat.store(now, Ordering::Relaxed);
    }

    /// `None` if the process can make progress, or why not. No dependency counts: a restart would not mend it.
    pub fn why_dead(&self) -> Option<String> {
        let since = self.started.elapsed().saturating_sub(Duration::from_millis(self.beat.load(Ordering::Relaxed)));
        (since > BEAT_MAX).then(|| format!("the runtime has not run for {} s", since.as_secs()))
    }

    /// Every reason why the broker cannot serve now; none if it is ready.
    pub async fn why_unready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.draining.is_cancelled() {
            reasons.push("the broker is shutting down".into());
        }
        for (name, is_up) in &self.actors {
            if !is_up() {
                reasons.push(format!("the {name} is restarting"));
            }
        }
        let mut refusals: Vec<_> = self.stores.writable().await.into_iter().filter_map(Result::err).collect();
        if self.role == Role::Egress {
            // Reads and acks go on in full stores: consumers are what empties them.
            refusals.retain(|refusal| !matches!(refusal, Error::Exhausted { .. }));
        }
        // The embedded stores share a disk, and its reason.
        refusals.dedup();
        reasons.extend(refusals.iter().map(ToString::to_string));
        reasons
    }
}
