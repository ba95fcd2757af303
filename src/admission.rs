//! Limits on what is under way, taken at the edge as permits and given back when the work is done (P6).
//!
//! Resident memory of a broker is bounded by
//!
//! ```text
//! base (40 MiB: code, engine cache 16 MiB, threads)
//!   + 3 x limits.inflight_bytes              a message as received, as a block, and as it is written
//!   + 2 x limits.read_bytes                  a page as read and as encoded
//!   + limits.connections x 512 KiB           HTTP/2 windows and buffers of connections that are in use
//!   + limits.subscriptions x 8 KiB
//! ```

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    config::{ByteSize, Config},
    error::{Error, Result},
};

/// How long a request waits for a permit before it is refused.
const PATIENCE: Duration = Duration::from_secs(2);

/// What refused callers are told to wait.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Bytes and requests under way, of the broker or of one connection.
#[derive(Clone, Debug)]
struct Quota {
    whose: &'static str,
    bytes: Arc<Semaphore>,
    bytes_max: usize,
    requests: Arc<Semaphore>,
    requests_max: usize,
}

/// The right to have some bytes and requests under way; given back when the last clone is dropped.
#[derive(Clone, Debug, Default)]
pub struct Permit(#[expect(dead_code, reason = "held for its drop")] Option<Arc<[OwnedSemaphorePermit]>>);

impl From<Vec<OwnedSemaphorePermit>> for Permit {
    fn from(permits: Vec<OwnedSemaphorePermit>) -> Self {
        Self(Some(permits.into()))
    }
}

/// The limits of the whole broker.
#[derive(Clone, Debug)]
pub struct Admission {
    total: Quota,
    connection_bytes: ByteSize,
    connection_requests: usize,
    reads: Arc<Semaphore>,
    reads_max: usize,
    subscriptions: Arc<Semaphore>,
    subscriptions_max: usize,
}

/// The limits that one connection adds to the broker's.
#[derive(Clone, Debug)]
pub struct ConnectionAdmission {
    total: Quota,
    own: Quota,
}

impl Admission {
    /// The limits of a configuration.
    pub fn new(config: &Config) -> Self {
        let reads_max = config.read_bytes.as_usize();
        Self {
            total: Quota::new("the broker", config.inflight_bytes, config.inflight_requests),
            connection_bytes: config.connection_inflight_bytes,
            connection_requests: config.connection_inflight_requests,
            reads: Arc::new(Semaphore::new(reads_max)),
            reads_max,
            subscriptions: Arc::new(Semaphore::new(config.subscriptions)),
            subscriptions_max: config.subscriptions,
        }
    }

    /// The limits of a new connection.
    pub fn connection(&self) -> ConnectionAdmission {
        let own = Quota::new("this connection", self.connection_bytes, self.connection_requests);
        ConnectionAdmission { total: self.total.clone(), own }
    }

    /// Waits for room to read a page of at most `bytes`.
    ///
    /// # Errors
    /// [`Error::Exhausted`] if other clients leave what was read for them untaken for too long.
    pub async fn read(&self, bytes: usize) -> Result<Permit> {
        let permits = u32::try_from(bytes.min(self.reads_max)).unwrap_or(u32::MAX);
        match tokio::time::timeout(PATIENCE * 10, self.reads.clone().acquire_many_owned(permits)).await {
            Ok(Ok(permit)) => Ok(vec![permit].into()),
            _ => Err(exhausted("limits.read_bytes", "the broker", self.reads_max)),
        }
    }

    /// Takes one of the live subscriptions.
    ///
    /// # Errors
    /// [`Error::Exhausted`] if all are taken.
    pub fn subscription(&self) -> Result<Permit> {
        match self.subscriptions.clone().try_acquire_owned() {
            Ok(permit) => Ok(vec![permit].into()),
            Err(_) => Err(exhausted("limits.subscriptions", "the broker", self.subscriptions_max)),
        }
    }
}

impl ConnectionAdmission {
    /// Waits a while for room for `requests` messages with `bytes` of data in all.
    ///
    /// # Errors
    /// [`Error::Exhausted`] if there is none in time.
    pub async fn publish(&self, bytes: usize, requests: usize) -> Result<Permit> {
        let mut permits = Vec::with_capacity(4);
        for quota in [&self.own, &self.total] {
            quota.take(bytes, requests, &mut permits).await?;
        }
        Ok(permits.into())
    }
}

impl Quota {
    fn new(whose: &'static str, bytes: ByteSize, requests_max: usize) -> Self {
        let bytes_max = bytes.as_usize().min(u32::MAX as usize);
        let (bytes, requests) = (Arc::new(Semaphore::new(bytes_max)), Arc::new(Semaphore::new(requests_max)));
        Self { whose, bytes, bytes_max, requests, requests_max }
    }

    async fn take(&self, bytes: usize, requests: usize, permits: &mut Vec<OwnedSemaphorePermit>) -> Result<()> {
        let kinds =
            [(&self.requests, requests, self.requests_max, "messages"), (&self.bytes, bytes, self.bytes_max, "bytes")];
        for (semaphore, wanted, max, what) in kinds {
            // A frame larger than the whole quota passes alone.
            let wanted = u32::try_from(wanted.min(max)).unwrap_or(u32::MAX);
            permits.push(match semaphore.clone().try_acquire_many_owned(wanted) {
                Ok(permit) => permit,
                Err(_) => match tokio::time::timeout(PATIENCE, semaphore.clone().acquire_many_owned(wanted)).await {
                    Ok(Ok(permit)) => permit,
                    _ => return Err(exhausted(&format!("in-flight {what}"), self.whose, max)),
                },
            });
        }
        Ok(())
    }
}

fn exhausted(limit: &str, whose: &str, max: usize) -> Error {
    let what = format!("{limit} of {whose} are used up ({max}): wait and repeat, or send less at a time");
    Error::Exhausted { what, retry_after: RETRY_AFTER }
}
