//! A file that takes disk space for bad days: when the disk is full, it is made shorter, step by step, and the metadata
//! database has room for the acks, leases and removals that free space. Publishes are refused until it is whole again.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::disk::{Create, Disk, OpenMode};

/// Name of the file.
const RESERVE: &str = "reserve";

/// It is released in so many steps: other programs may take what is released and not used at once.
const STEPS: u64 = 8;

#[derive(Debug)]
pub(super) struct Reserve {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    bytes: u64,
    /// Whether all of it is there.
    is_whole: AtomicBool,
    /// Bytes that are left; held while the file is changed.
    left: Mutex<u64>,
}

impl Reserve {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: &Path, bytes: u64) -> Self {
        Self { disk, path: dir.join(RESERVE), bytes, is_whole: AtomicBool::new(false), left: Mutex::new(0) }
    }

    /// Takes note of what an earlier process left of it.
    pub(super) fn find(&self) -> io::Result<()> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = self.disk.len(&self.path)?.unwrap_or(0).min(self.bytes);
        Ok(())
    }

    /// Bytes that it takes to make it whole.
    pub(super) fn missing(&self) -> u64 {
        self.bytes - *self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Acquire)
    }

    /// Takes the space. Nothing need be durable: a file that a power loss has undone is made again at the next start.
    pub(super) fn make(&self) -> io::Result<()> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.disk.open(&self.path, OpenMode::WRITE.create(Create::IfMissing))?;
        let made = file.allocate(0..self.bytes).and_then(|()| file.set_len(self.bytes));
        match &made {
            Ok(()) => *left = self.bytes,
            // What was found is of use, too.
            Err(_) => *left = file.len().unwrap_or(0).min(self.bytes),
        }
        self.is_whole.store(made.is_ok(), Ordering::Release);
        made
    }

    /// Gives a part of the space to those who write; `false` if there is none left to give.
    pub(super) fn release(&self) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_whole.swap(false, Ordering::AcqRel) {
            tracing::warn!(bytes = self.bytes, "the disk is full: the reserve is released, publishes are refused");
        }
        if *left == 0 {
            return false;
        }
        *left = left.saturating_sub(self.bytes.div_ceil(STEPS));
        let cut = self.disk.open(&self.path, OpenMode::WRITE).and_then(|file| file.set_len(*left));
        if let Err(error) = &cut {
            tracing::warn!(%error, "the disk is full, and the reserve cannot be released");
        }
        cut.is_ok()
    }
}
