//! How much of the disk the stores may take, and how much they have taken.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{backend::DATABASE, disk::DiskSpace, journal::JOURNAL, volume::Volume};
use crate::{
    error::{Error, Result},
    store::Usage,
};

/// Refused writers are told to wait this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Files of the metadata.
const METADATA: [&str; 2] = [DATABASE, JOURNAL];

/// Limits of a data directory.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes that stay free on its disk.
    pub free_min: u64,
    /// Most bytes that its files may have.
    pub quota: u64,
}

impl Default for Limits {
    /// No limits.
    fn default() -> Self {
        Self { free_min: 0, quota: u64::MAX }
    }
}

/// Keeps a reserve of free disk space, so that neither the engine nor a segment ever meets a full disk half-way, and keeps
/// the directory within its quota.
pub(super) struct Space {
    volume: Arc<Volume>,
    limits: Limits,
    /// Bytes of segments and objects.
    payload: AtomicU64,
}

impl Space {
    pub(super) fn of(volume: Arc<Volume>, limits: Limits) -> Self {
        Self { volume, limits, payload: AtomicU64::new(0) }
    }

    /// Counts bytes that are there already.
    pub(super) fn found(&self, bytes: u64) {
        self.payload.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that are gone.
    pub(super) fn give_back(&self, bytes: u64) {
        let less = |payload: u64| Some(payload.saturating_sub(bytes));
        let _ = self.payload.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Counts bytes of payload that are about to be written.
    pub(super) fn take(&self, bytes: u64) -> Result<()> {
        self.check(bytes)?;
        self.found(bytes);
        Ok(())
    }

    /// Refuses a write of `bytes` that would eat into the reserve or exceed the quota. Costs one `statvfs` call, and with a
    /// quota two `stat` calls.
    pub(super) fn check(&self, bytes: u64) -> Result<()> {
        let free = self.disk()?.free;
        self.restore_reserve(free)?;
        if free < self.limits.free_min.saturating_add(bytes) {
            return Err(Error::Exhausted {
                what: format!(
                    "the disk of '{}' has {} MiB free, and {} MiB are kept in reserve: free some space or lower \
                     data.free_min",
                    self.volume.dir.display(),
                    free >> 20,
                    self.limits.free_min >> 20
                ),
                retry_after: RETRY_AFTER,
            });
        }
        if self.limits.quota == u64::MAX {
            return Ok(());
        }
        let used = self.used();
        if used.saturating_add(bytes) > self.limits.quota {
            return Err(Error::Exhausted {
                what: format!(
                    "data.quota is used up: '{}' has {used} bytes, {bytes} more would exceed {}; purge subjects, let \
                     messages expire, or raise it",
                    self.volume.dir.display(),
                    self.limits.quota
                ),
                retry_after: RETRY_AFTER,
            });
        }
        Ok(())
    }

    /// How full the disk is, or the quota: whichever is nearer to its limit.
    pub(super) fn usage(&self) -> Result<Usage> {
        let DiskSpace { size, free } = self.disk()?;
        let disk = Usage { used: size.saturating_sub(free), limit: size.saturating_sub(self.limits.free_min) };
        if self.limits.quota == u64::MAX {
            return Ok(disk);
        }
        Ok(disk.fuller(Usage { used: self.used(), limit: self.limits.quota }))
    }

    /// Bytes of the directory's files, without the reserve.
    fn used(&self) -> u64 {
        let len = |name: &&str| self.volume.disk.len(&self.volume.path(name)).ok().flatten();
        self.payload.load(Ordering::Relaxed) + METADATA.iter().filter_map(len).sum::<u64>()
    }

    fn disk(&self) -> Result<DiskSpace> {
        self.volume.disk.space(&self.volume.dir).map_err(|error| {
            Error::unavailable(format!(
                "the data directory '{}' cannot be examined: {error}",
                self.volume.dir.display()
            ))
        })
    }

    /// Makes the reserve whole again, if there is room for it beside `data.free_min`.
    fn restore_reserve(&self, free: u64) -> Result<()> {
        let reserve = &self.volume.reserve;
        if reserve.is_whole() {
            return Ok(());
        }
        let missing = reserve.missing();
        if free >= self.limits.free_min.saturating_add(missing) && reserve.make().is_ok() {
            tracing::debug!(bytes = missing, "the reserve of disk space is whole");
            return Ok(());
        }
        Err(Error::Exhausted {
            what: format!(
                "the disk of '{}' is full: {} MiB are free, and {} MiB are missing from the reserve for acks and removals, \
                 beside data.free_min of {} MiB: free some space or lower data.free_min",
                self.volume.dir.display(),
                free >> 20,
                missing.div_ceil(1 << 20),
                self.limits.free_min >> 20
            ),
            retry_after: RETRY_AFTER,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_that_of_the_quota_or_of_the_disk_whichever_is_fuller() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("journal"), [0; 1000]).unwrap();
        let volume = Arc::new(Volume::real(dir.path()));
        let space = Space::of(volume.clone(), Limits { free_min: 4096, quota: 2500 });
        space.found(1400);
        assert_eq!(space.usage().unwrap(), Usage { used: 2400, limit: 2500 });
        let wide = Space::of(volume.clone(), Limits { free_min: 4096, quota: u64::MAX - 1 });
        let disk = wide.usage().unwrap();
        assert!(disk.used > 2400 && disk.limit < u64::MAX - 1, "{disk:?}");
        let reserved = Space::of(volume.clone(), Limits { free_min: u64::MAX, quota: u64::MAX });
        let full = reserved.usage().unwrap();
        assert!(full.limit == 0 && full.used > 0 && reserved.check(0).is_err(), "{full:?}");
    }
}
