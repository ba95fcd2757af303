//! Limits on what is under way, taken at the edge as permits and given back when the work is done (P6).
//!
//! Resident memory of a broker is bounded by
//!
//! ```text
//!     64 MiB                              code, caches of the stores (16 MiB), threads, heaps
//!   + 4 x limits.inflight_bytes           a message as received, as a block, as it is written, and heap around it
//!   + 2 x limits.upload_bytes             pieces as received and as they are written
//!   + 4 x limits.read_bytes               a page as read and as encoded, and heap around it
//!   + 1 MiB x connections in use          HTTP/2 windows and buffers
//!   + the largest message that each open stream carried: gRPC keeps its buffer until the stream ends
//!   + 8 KiB x live subscriptions
//!   + 150 B x messages out at workers     (store/embedded/consumers.rs, consumer/window.rs)
//!   over shared stores also
//!   + cache.bytes
//!   + s3.parts x s3.part_size             parts of all uploads on their way
//!   + s3.part_size x limits.upload_streams  the part that each upload under way gathers
//! ```

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    config::Config,
    error::{Error, Result},
};

/// How long a request waits for a permit before it is refused.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// How long a read waits: other clients take what was read for them, or are dropped.
const READ_PATIENCE: Duration = Duration::from_secs(40);

/// What refused callers are told to wait.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// So much of something, for all who share it.
#[derive(Clone, Debug)]
struct Quota {
    /// The setting that limits it.
    what: &'static str,
    permits: Arc<Semaphore>,
    max: usize,
}

/// Bytes and messages accepted and not yet stored.
#[derive(Clone, Debug)]
struct InFlight {
    bytes: Quota,
    requests: Quota,
}

/// The right to have some bytes and requests under way; given back when the last clone is dropped.
#[derive(Clone, Debug, Default)]
pub struct Permit(Vec<Arc<OwnedSemaphorePermit>>);

impl Permit {
    /// Gives back all but `count` of what one quota gave.
    pub fn shrink_to(&mut self, count: usize) {
        for permit in self.0.iter_mut().filter_map(Arc::get_mut) {
            drop(permit.split(permit.num_permits().saturating_sub(count)));
        }
    }

    /// Takes in another right; what comes from one quota becomes one, so that many small rights take no more memory.
    pub fn absorb(&mut self, other: Self) {
        for permit in other.0 {
            match Arc::try_unwrap(permit) {
                Ok(permit) => {
                    let is_same = |own: &&mut OwnedSemaphorePermit| Arc::ptr_eq(own.semaphore(), permit.semaphore());
                    match self.0.iter_mut().filter_map(Arc::get_mut).find(is_same) {
                        Some(own) => own.merge(permit),
                        None => self.0.push(Arc::new(permit)),
                    }
                }
                Err(shared) => self.0.push(shared),
            }
        }
    }

    /// Both rights in one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

/// What the bytes of a request are for: bytes of uploads must not take the room of messages, nor the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Messages in one piece.
    Message,
    /// Pieces of uploads.
    Upload,
}

/// The limits of the whole broker.
#[derive(Clone, Debug)]
pub struct Admission {
    total: InFlight,
    connection_bytes: usize,
    connection_requests: usize,
    uploads: Quota,
    upload_streams: Quota,
    reads: Quota,
    subscriptions: Quota,
}

/// The limits that one connection adds to the broker's.
#[derive(Clone, Debug)]
pub struct ConnectionAdmission {
    total: InFlight,
    own: InFlight,
    uploads: Quota,
}

impl Admission {
    /// The limits of a configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            total: InFlight {
                bytes: Quota::new("limits.inflight_bytes", config.inflight_bytes.as_usize()),
                requests: Quota::new("limits.inflight_requests", config.inflight_requests),
            },
            connection_bytes: config.connection_inflight_bytes.as_usize(),
            connection_requests: config.connection_inflight_requests,
            uploads: Quota::new("limits.upload_bytes", config.upload_bytes.as_usize()),
            upload_streams: Quota::new("limits.upload_streams", config.upload_streams),
            reads: Quota::new("limits.read_bytes", config.read_bytes.as_usize()),
            subscriptions: Quota::new("limits.subscriptions", config.subscriptions),
        }
    }

    /// The limits of a new connection.
    pub fn connection(&self) -> ConnectionAdmission {
        let own = InFlight {
            bytes: Quota::new("limits.connection_inflight_bytes", self.connection_bytes),
            requests: Quota::new("limits.connection_inflight_requests", self.connection_requests),
        };
        ConnectionAdmission { total: self.total.clone(), own, uploads: self.uploads.clone() }
    }

    /// Waits a while for a place among those that write to objects.
    ///
    /// # Errors
    /// [`Error::Exhausted`] if there is none in time.
    pub async fn upload(&self) -> Result<Permit> {
        self.upload_streams.take(1, PATIENCE).await
    }

    /// Waits for room to read `bytes`.
    ///
    /// # Errors
    /// [`Error::Exhausted`] if other clients leave what was read for them untaken for too long.
    pub async fn read(&self, bytes: usize) -> Result<Permit> {
        self.reads.take(bytes, READ_PATIENCE).await
    }

    /// Room to read `bytes`, if there is some now.
    pub fn try_read(&self, bytes: usize) -> Option<Permit> {
        self.reads.try_take(bytes)
    }

    /// Takes one of the live subscriptions.
    ///
    /// # Errors
    /// [`Error::Exhausted`] if all are taken.
    pub fn subscription(&self) -> Result<Permit> {
        self.subscriptions.try_take(1).ok_or_else(|| self.subscriptions.exhausted())
    }
}

impl ConnectionAdmission {
    /// Room for a frame of `bytes`, if there is some now.
    pub fn try_bytes(&self, purpose: Purpose, bytes: usize) -> Option<Permit> {
        if purpose == Purpose::Upload {
            return self.uploads.try_take(bytes);
        }
        let own = self.own.bytes.try_take(bytes)?;
        Some(own.and(self.total.bytes.try_take(bytes)?))
    }

    /// Waits up to `patience` for room for a frame of `bytes`.
    ///
    /// # Errors
    /// [`Error::Exhausted`] if there is none in time.
    pub async fn bytes(&self, purpose: Purpose, bytes: usize, patience: Duration) -> Result<Permit> {
        if purpose == Purpose::Upload {
            return self.uploads.take(bytes, patience).await;
        }
        let own = self.own.bytes.take(bytes, patience).await?;
        Ok(own.and(self.total.bytes.take(bytes, patience).await?))
    }

    /// Waits a while for room for `requests` messages.
    ///
    /// # Errors
    /// [`Error::Exhausted`] if there is none in time.
    pub async fn requests(&self, requests: usize) -> Result<Permit> {
        let own = self.own.requests.take(requests, PATIENCE).await?;
        Ok(own.and(self.total.requests.take(requests, PATIENCE).await?))
    }
}

impl Quota {
    fn new(what: &'static str, max: usize) -> Self {
        let max = max.min(u32::MAX as usize);
        Self { what, permits: Arc::new(Semaphore::new(max)), max }
    }

    /// More than the whole quota passes alone.
    fn count(&self, wanted: usize) -> u32 {
        u32::try_from(wanted.min(self.max)).unwrap_or(u32::MAX)
    }

    fn try_take(&self, wanted: usize) -> Option<Permit> {
        let permit = self.permits.clone().try_acquire_many_owned(self.count(wanted)).ok()?;
        Some(Permit(vec![Arc::new(permit)]))
    }

    async fn take(&self, wanted: usize, patience: Duration) -> Result<Permit> {
        if let Some(permit) = self.try_take(wanted) {
            return Ok(permit);
        }
        match tokio::time::timeout(patience, self.permits.clone().acquire_many_owned(self.count(wanted))).await {
            Ok(Ok(permit)) => Ok(Permit(vec![Arc::new(permit)])),
            _ => Err(self.exhausted()),
        }
    }

    fn exhausted(&self) -> Error {
        let what =
            format!("{} is used up ({}): wait and repeat, or have less under way at a time", self.what, self.max);
        Error::Exhausted { what, retry_after: RETRY_AFTER }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_rights_of_one_quota_become_one_and_all_are_given_back() {
        let quota = Quota::new("limits.upload_bytes", 100);
        let mut held = Permit::default();
        for _ in 0..40 {
            held.absorb(quota.try_take(2).unwrap());
        }
        assert_eq!((held.0.len(), quota.permits.available_permits()), (1, 20));
        let shared = quota.try_take(10).unwrap();
        held.absorb(shared.clone());
        drop(held);
        assert_eq!(quota.permits.available_permits(), 90, "what somebody else holds, too, stays");
        drop(shared);
        assert_eq!(quota.permits.available_permits(), 100);
    }
}
