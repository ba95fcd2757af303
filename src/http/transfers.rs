use std::sync::Arc;

use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use crate::{
    admission::PATIENCE,
    broker::Broker,
    error::{Error, Result},
};

/// Most uploads and downloads over HTTP at a time: less than the connections that are served, so that health checks find
/// one, and than what their buffers may take (about 300 KiB each).
const TRANSFERS_MAX: usize = 128;

/// The uploads and downloads that are under way over HTTP; cloning shares them.
#[derive(Clone)]
pub struct Transfers {
    pub(super) broker: Broker,
    /// Uploads run here, not on the threads that speak HTTP: these end whatever they do when a client goes.
    pub(super) runtime: Handle,
    tracker: TaskTracker,
    slots: Arc<Semaphore>,
}

/// One transfer, counted as long as it lives.
pub(super) struct Ticket {
    _slot: OwnedSemaphorePermit,
    _token: TaskTrackerToken,
}

impl Transfers {
    /// Those of a broker, to be made inside its runtime.
    pub fn new(broker: Broker) -> Self {
        let (tracker, slots) = (TaskTracker::new(), Arc::new(Semaphore::new(TRANSFERS_MAX)));
        Self { broker, runtime: Handle::current(), tracker, slots }
    }

    /// Begins a transfer.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the broker drains, [`Error::Exhausted`] if too many are under way.
    pub(super) fn enter(&self) -> Result<Ticket> {
        let token = self.tracker.token();
        if self.broker.draining.is_cancelled() {
            return Err(Error::draining());
        }
        let slot = self.slots.clone().try_acquire_owned().map_err(|_| Error::Exhausted {
            what: format!(
                "{TRANSFERS_MAX} uploads and downloads are under way over HTTP, and no more are taken: wait and repeat"
            ),
            retry_after: PATIENCE,
        })?;
        Ok(Ticket { _slot: slot, _token: token })
    }

    /// Completes when none is under way.
    pub(crate) async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
