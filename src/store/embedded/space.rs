use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::fs::StatVfs;

use crate::{
    error::{Error, Result},
    store::Usage,
};

/// Refused writers are told to wait this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Files of the metadata.
const METADATA: [&str; 2] = ["meta.redb", "journal"];

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
    dir: PathBuf,
    limits: Limits,
    /// Bytes of segments and objects.
    payload: AtomicU64,
}

impl Space {
    pub(super) fn of(dir: &Path, limits: Limits) -> Self {
        Self { dir: dir.into(), limits, payload: AtomicU64::new(0) }
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
        let free = free(&self.stat()?);
        if free < self.limits.free_min.saturating_add(bytes) {
            return Err(Error::Exhausted {
                what: format!(
                    "the disk of '{}' has {} MiB free, and {} MiB are kept in reserve: free some space or lower \
                     data.free_min",
                    self.dir.display(),
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
                    self.dir.display(),
                    self.limits.quota
                ),
                retry_after: RETRY_AFTER,
            });
        }
        Ok(())
    }

    /// How full the disk is, or the quota: whichever is nearer to its limit.
    pub(super) fn usage(&self) -> Result<Usage> {
        let stat = self.stat()?;
        let size = stat.f_blocks.saturating_mul(stat.f_frsize);
        let disk = Usage { used: size.saturating_sub(free(&stat)), limit: size.saturating_sub(self.limits.free_min) };
        if self.limits.quota == u64::MAX {
            return Ok(disk);
        }
        Ok(disk.fuller(Usage { used: self.used(), limit: self.limits.quota }))
    }

    /// Bytes of all files of the directory.
    fn used(&self) -> u64 {
        let metadata: u64 =
            METADATA.iter().map(|name| std::fs::metadata(self.dir.join(name)).map_or(0, |found| found.len())).sum();
        self.payload.load(Ordering::Relaxed) + metadata
    }

    fn stat(&self) -> Result<StatVfs> {
        rustix::fs::statvfs(&self.dir).map_err(|error| {
            Error::unavailable(format!("the data directory '{}' cannot be examined: {error}", self.dir.display()))
        })
    }
}

fn free(stat: &StatVfs) -> u64 {
    stat.f_bavail.saturating_mul(stat.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_that_of_the_quota_or_of_the_disk_whichever_is_fuller() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("journal"), [0; 1000]).unwrap();
        let space = Space::of(dir.path(), Limits { free_min: 4096, quota: 2500 });
        space.found(1400);
        assert_eq!(space.usage().unwrap(), Usage { used: 2400, limit: 2500 });
        let wide = Space::of(dir.path(), Limits { free_min: 4096, quota: u64::MAX - 1 });
        let disk = wide.usage().unwrap();
        assert!(disk.used > 2400 && disk.limit < u64::MAX - 1, "{disk:?}");
        let reserved = Space::of(dir.path(), Limits { free_min: u64::MAX, quota: u64::MAX });
        let full = reserved.usage().unwrap();
        assert!(full.limit == 0 && full.used > 0 && reserved.check(0).is_err(), "{full:?}");
    }
}
