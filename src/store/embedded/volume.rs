//! The data directory: its disk, the sizes of its files, and errors that name them.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    disk::{Disk, RealDisk, is_full},
    reserve::Reserve,
};
use crate::error::{Error, Result};

/// Sizes of files that are laid out ahead, in bytes, and how often one is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// The journal: how much is replayed after a crash at most.
    pub(super) journal: u64,
    /// A segment takes no more once it holds so many.
    pub(super) segment: u64,
    /// Released when the disk is full: room for a checkpoint, which writes at most two pages of 4 KiB for each of the 4,096
    /// frames that the journal holds when they are acks.
    pub(super) reserve: u64,
    /// Least time between two records of the last transaction.
    pub(super) witness_every: Duration,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { journal: 16 << 20, segment: 64 << 20, reserve: 32 << 20, witness_every: Duration::from_millis(20) }
    }
}

/// A data directory.
#[derive(Debug)]
pub(super) struct Volume {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) sizes: Sizes,
    pub(super) reserve: Reserve,
}

impl Volume {
    pub(super) fn real(dir: &Path) -> Self {
        Self::on(Arc::new(RealDisk), dir, Sizes::default())
    }

    pub(super) fn on(disk: Arc<dyn Disk>, dir: &Path, sizes: Sizes) -> Self {
        let reserve = Reserve::new(disk.clone(), dir, sizes.reserve);
        Self { disk, dir: dir.into(), sizes, reserve }
    }

    /// A file of the directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn exists(&self, name: &str) -> Result<bool> {
        let len = self.disk.len(&self.path(name));
        len.map(|len| len.is_some()).map_err(|error| self.failed(name, "examined", &error))
    }

    /// The journal is not what it must be.
    pub(super) fn damaged(&self, problem: &str) -> Error {
        Error::DataLoss(format!(
            "the journal '{}' {problem}; put the right one back, or restore a backup into an empty directory",
            self.path(super::journal::JOURNAL).display()
        ))
    }

    /// A file of the directory could not be `what`: written, say.
    pub(super) fn failed(&self, name: &str, what: &str, error: &io::Error) -> Error {
        failed(what, &self.path(name), error)
    }
}

/// A file could not be `what`: written, say.
pub(super) fn failed(what: &str, path: &Path, error: &io::Error) -> Error {
    let path = path.display();
    if is_full(error) {
        let what = format!("'{path}' could not be {what}: the disk is full: free some space");
        return Error::Exhausted { what, retry_after: Duration::from_secs(1) };
    }
    Error::unavailable(format!("'{path}' could not be {what}: {error}"))
}
