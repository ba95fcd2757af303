use std::{path::PathBuf, time::Duration};

use crate::error::{Error, Result};

/// Keeps a reserve of free disk space, so that neither the engine nor a segment ever meets a full disk half-way.
pub(super) struct Space {
    dir: PathBuf,
    free_min: u64,
}

impl Space {
    pub(super) fn of(dir: &std::path::Path, free_min: u64) -> Self {
        Self { dir: dir.into(), free_min }
    }

    /// Refuses a write of `bytes` that would eat into the reserve. Costs one `statvfs` call.
    pub(super) fn check(&self, bytes: u64) -> Result<()> {
        let free = self.free()?;
        if free < self.free_min.saturating_add(bytes) {
            return Err(Error::Exhausted {
                what: format!(
                    "the disk of '{}' has {} MiB free, and {} MiB are kept in reserve: free some space or lower \
                     data.free_min",
                    self.dir.display(),
                    free >> 20,
                    self.free_min >> 20
                ),
                retry_after: Duration::from_secs(1),
            });
        }
        Ok(())
    }

    fn free(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.dir).map_err(|error| {
            Error::unavailable(format!("the data directory '{}' cannot be examined: {error}", self.dir.display()))
        })?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}
