//! Named leases: who may do what only one may do.

use std::time::Duration;

use super::TarantoolMetadata;
use crate::error::Result;

/// A lease that somebody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Grows with each owner, and after each gap.
    pub epoch: u64,
}

impl TarantoolMetadata {
    /// Takes a lease, or renews one's own; `None` if another has it.
    ///
    /// # Errors
    /// [`Unavailable`](crate::Error::Unavailable) if Tarantool does not answer.
    pub async fn acquire_lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<Option<Lease>> {
        let epoch = self.link.call("lease_acquire", &(self.link.id(), name, owner, ttl.as_secs_f64())).await?;
        Ok((epoch != 0).then_some(Lease { epoch }))
    }

    /// Gives a lease back before its time; false if it is not the owner's any more.
    ///
    /// # Errors
    /// [`Unavailable`](crate::Error::Unavailable) if Tarantool does not answer.
    pub async fn release_lease(&self, name: &str, owner: &str, lease: Lease) -> Result<bool> {
        self.link.call("lease_release", &(self.link.id(), name, owner, lease.epoch)).await
    }

    /// True while a lease is its owner's, in this epoch.
    ///
    /// # Errors
    /// [`Unavailable`](crate::Error::Unavailable) if Tarantool does not answer.
    pub async fn holds_lease(&self, name: &str, owner: &str, lease: Lease) -> Result<bool> {
        self.link.call("lease_holds", &(name, owner, lease.epoch)).await
    }
}
