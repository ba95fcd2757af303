//! Limits on what is under way, taken at the edge as permits and given back when the work is done (P6).
//!
//! Resident memory of a broker is bounded by
//!
//! ```text
//!     64 MiB                              code, caches of the stores (16 MiB), threads, heaps
//!   + 4 x limits.inflight_bytes           a message as received, as a block, as it is written, and heap around it
//!   + 2 x limits.upload_bytes             pieces as received and as they are written
//!   + 2 x limits.message_max              one message and one answer that arrive beyond their quotas
//!   + 8 MiB                               answers of workers, and one piece of an upload beyond its quota
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
//!
//! A message that is here whole is charged at once. One that arrives in parts is charged part by part: what a client
//! announces costs nothing. Messages in parts share a pool that is smaller than the quota, so that stalled ones leave room
//! for whole ones. Several of them could use up the pool with none whole, so one at a time, in the order of asking, may
//! arrive beyond it: it frees its room when it is through, or is cut because it stalls.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    config::Config,
    error::{Error, Result},
};

/// How long a request waits for a permit before it is refused.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of answers, credits and acks on their way: publishers cannot take their room.
const ANSWER_BYTES: usize = 4 << 20;

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
    /// What workers answer and ask, and acks.
    Answer,
}

/// What messages share that arrive in parts.
#[derive(Clone, Debug)]
struct Arrivals {
    /// Bytes of messages that are not whole yet.
    bytes: Quota,
    /// The one that may arrive beyond all quotas.
    beyond: Quota,
}

/// The right to let a part of a message in.
#[derive(Debug)]
pub struct PartPermit {
    /// Held until the message is through.
    pub charged: Permit,
    /// Held until the message is whole.
    pub arriving: Permit,
    /// True if the parts that follow need no permit.
    pub is_beyond: bool,
}

/// The limits of the whole broker.
#[derive(Clone, Debug)]
pub struct Admission {
    total: InFlight,
    connection_bytes: usize,
    connection_requests: usize,
    uploads: Quota,
    answers: Quota,
    message_arrivals: Arrivals,
    upload_arrivals: Arrivals,
    answer_arrivals: Arrivals,
    upload_streams: Quota,
    reads: Quota,
    subscriptions: Quota,
}

/// The limits that one connection adds to the broker's.
#[derive(Clone, Debug)]
pub struct ConnectionAdmission {
    broker: Admission,
    own: InFlight,
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
            answers: Quota::new("the room for answers of workers", ANSWER_BYTES),
            message_arrivals: Arrivals::new(
                "limits.inflight_bytes",
                (config.inflight_bytes.as_usize() / 2).max(config.message_max.as_usize()),
            ),
            upload_arrivals: Arrivals::new("limits.upload_bytes", config.upload_bytes.as_usize()),
            answer_arrivals: Arrivals::new("the room for answers of workers", ANSWER_BYTES / 2),
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
        ConnectionAdmission { broker: self.clone(), own }
    }

    fn arrivals(&self, purpose: Purpose) -> &Arrivals {
        match purpose {
            Purpose::Message => &self.message_arrivals,
            Purpose::Upload => &self.upload_arrivals,
            Purpose::Answer => &self.answer_arrivals,
        }
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
    /// Room for a message of `bytes` that is here whole, if there is some now.
    pub fn try_bytes(&self, purpose: Purpose, bytes: usize) -> Option<Permit> {
        match purpose {
            Purpose::Upload => self.broker.uploads.try_take(bytes),
            Purpose::Answer => self.broker.answers.try_take(bytes),
            Purpose::Message => {
                let own = self.own.bytes.try_take(bytes)?;
                Some(own.and(self.broker.total.bytes.try_take(bytes)?))
            }
        }
    }

    /// Waits up to `patience` for room for a message of `bytes` that is here whole.
    ///
    /// # Errors
    /// [`Error::Exhausted`] if there is none in time.
    pub async fn bytes(&self, purpose: Purpose, bytes: usize, patience: Duration) -> Result<Permit> {
        match purpose {
            Purpose::Upload => self.broker.uploads.take(bytes, patience).await,
            Purpose::Answer => self.broker.answers.take(bytes, patience).await,
            Purpose::Message => {
                let own = self.own.bytes.take(bytes, patience).await?;
                Ok(own.and(self.broker.total.bytes.take(bytes, patience).await?))
            }
        }
    }

    /// Room for `bytes` more of a message that arrives in parts, if there is some now.
    pub fn try_part(&self, purpose: Purpose, bytes: usize) -> Option<PartPermit> {
        let arriving = self.broker.arrivals(purpose).bytes.try_take(bytes)?;
        let charged = self.try_bytes(purpose, bytes)?;
        Some(PartPermit { charged, arriving, is_beyond: false })
    }

    /// Waits up to `patience` for room for `bytes` more, or for the right to arrive beyond all quotas.
    ///
    /// # Errors
    /// [`Error::Exhausted`] if there is neither in time.
    pub async fn part(&self, purpose: Purpose, bytes: usize, patience: Duration) -> Result<PartPermit> {
        let arrivals = self.broker.arrivals(purpose);
        let within = async {
            let arriving = arrivals.bytes.take(bytes, patience).await?;
            let charged = self.bytes(purpose, bytes, patience).await?;
            Ok(PartPermit { charged, arriving, is_beyond: false })
        };
        let beyond = async {
            let charged = arrivals.beyond.take(1, patience).await?;
            Ok(PartPermit { charged, arriving: Permit::default(), is_beyond: true })
        };
        tokio::select! {
            biased;
            part = within => part,
            part = beyond => part,
        }
    }

    /// Waits a while for room for `requests` messages.
    ///
    /// # Errors
    /// [`Error::Exhausted`] if there is none in time.
    pub async fn requests(&self, requests: usize) -> Result<Permit> {
        let own = self.own.requests.take(requests, PATIENCE).await?;
        Ok(own.and(self.broker.total.requests.take(requests, PATIENCE).await?))
    }
}

impl Arrivals {
    fn new(what: &'static str, bytes: usize) -> Self {
        Self { bytes: Quota::new(what, bytes), beyond: Quota::new(what, 1) }
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
