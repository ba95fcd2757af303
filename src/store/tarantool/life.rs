//! This broker's life, as the others see it: while it says so in time, what its workers have is theirs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Mutex, task::AbortHandle};

use super::link::Link;
use crate::error::Result;

/// See the [module](self).
pub(super) struct Life {
    pulse: Arc<Pulse>,
    renewal: AbortHandle,
}

struct Pulse {
    link: Arc<Link>,
    liveness: Duration,
    /// The number of this life; 0 before it begins, and after it was taken for dead.
    number: AtomicU64,
    /// True from the moment that it joins on, until it leaves: a life that ended is followed by another.
    is_at_work: AtomicBool,
    turn: Mutex<()>,
}

impl Life {
    pub(super) fn start(link: Arc<Link>, liveness: Duration) -> Arc<Self> {
        let runtime = link.runtime.clone();
        let pulse = Pulse { link, liveness, number: 0.into(), is_at_work: false.into(), turn: Mutex::new(()) };
        let pulse = Arc::new(pulse);
        let renewal = runtime.spawn(renew(pulse.clone())).abort_handle();
        Arc::new(Self { pulse, renewal })
    }

    /// Begins a life, and another whenever one is over.
    pub(super) async fn join(&self) -> Result<()> {
        self.pulse.is_at_work.store(true, Ordering::Release);
        self.pulse.number().await.map(drop)
    }

    /// The number of this life, which begins when it is first asked for.
    pub(super) async fn number(&self) -> Result<u64> {
        self.pulse.number().await
    }

    /// Takes note that a life is over: the next step begins another.
    pub(super) fn is_over(&self, number: u64) {
        self.pulse.is_over(number);
    }

    pub(super) async fn leave(&self) -> Result<()> {
        let Pulse { link, number, is_at_work, turn, .. } = &*self.pulse;
        is_at_work.store(false, Ordering::Release);
        let _turn = turn.lock().await;
        let number = number.swap(0, Ordering::AcqRel);
        if number != 0 {
            link.call::<bool>("broker_leave", &(link.id(), number)).await?;
        }
        Ok(())
    }
}

impl Pulse {
    async fn number(&self) -> Result<u64> {
        let known = self.number.load(Ordering::Acquire);
        if known != 0 {
            return Ok(known);
        }
        let _turn = self.turn.lock().await;
        let known = self.number.load(Ordering::Acquire);
        if known != 0 {
            return Ok(known);
        }
        let number = self.link.call("broker_join", &(self.link.id(), self.liveness.as_secs_f64())).await?;
        self.number.store(number, Ordering::Release);
        Ok(number)
    }

    fn is_over(&self, number: u64) {
        let _ = self.number.compare_exchange(number, 0, Ordering::AcqRel, Ordering::Relaxed);
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// Says that this broker lives, three times as often as needed. It also buries others: one of those who live must.
async fn renew(pulse: Arc<Pulse>) {
    let Pulse { link, liveness, number, is_at_work, .. } = &*pulse;
    loop {
        tokio::time::sleep(*liveness / 3).await;
        let known = number.load(Ordering::Acquire);
        // A repeat of a renewal is another one: it needs no id.
        let arguments = ((), known, liveness.as_secs_f64());
        let renewed = link.call_within::<bool>(*liveness / 3, "broker_renew", &arguments).await;
        match renewed {
            Ok(false) if known != 0 => {
                tracing::warn!("this broker was taken for dead: what its workers had is given to others");
                pulse.is_over(known);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "this broker could not say that it lives"),
        }
        if is_at_work.load(Ordering::Acquire)
            && let Err(error) = pulse.number().await
        {
            tracing::warn!(%error, "this broker could not join the others");
        }
    }
}
