//! This broker's life, as the others see it: while it says so in time, what its workers have is theirs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Mutex, task::AbortHandle};

use super::link::Link;
use crate::error::Result;

/// See the [module](self).
pub(super) struct Life {
    link: Arc<Link>,
    liveness: Duration,
    /// The number of this life; 0 before it begins, and after it was taken for dead.
    number: Arc<AtomicU64>,
    turn: Mutex<()>,
    renewal: AbortHandle,
}

impl Life {
    pub(super) fn start(link: Arc<Link>, liveness: Duration) -> Arc<Self> {
        let number = Arc::new(AtomicU64::new(0));
        let renewal = link.runtime.spawn(renew(link.clone(), number.clone(), liveness)).abort_handle();
        Arc::new(Self { link, liveness, number, turn: Mutex::new(()), renewal })
    }

    /// The number of this life, which begins when it is first asked for.
    pub(super) async fn number(&self) -> Result<u64> {
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

    /// Takes note that a life is over: the next step begins another.
    pub(super) fn is_over(&self, number: u64) {
        let _ = self.number.compare_exchange(number, 0, Ordering::AcqRel, Ordering::Relaxed);
    }

    pub(super) async fn leave(&self) -> Result<()> {
        let number = self.number.swap(0, Ordering::AcqRel);
        if number != 0 {
            self.link.call::<bool>("broker_leave", &(self.link.id(), number)).await?;
        }
        Ok(())
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// Says that this broker lives, three times as often as needed. It also buries others: one of those who live must.
async fn renew(link: Arc<Link>, number: Arc<AtomicU64>, liveness: Duration) {
    loop {
        tokio::time::sleep(liveness / 3).await;
        let known = number.load(Ordering::Acquire);
        // A repeat of a renewal is another one: it needs no id.
        let arguments = ((), known, liveness.as_secs_f64());
        let renewed = link.call_within::<bool>(liveness / 3, "broker_renew", &arguments).await;
        match renewed {
            Ok(false) if known != 0 => {
                tracing::warn!("this broker was taken for dead: what its workers had is given to others");
                let _ = number.compare_exchange(known, 0, Ordering::AcqRel, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "this broker could not say that it lives"),
        }
    }
}
