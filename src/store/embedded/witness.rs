//! The number of the last acknowledged transaction, kept in `LOCK` beside the journal.
//!
//! A journal that was replaced by an older copy of itself ends early, as one does whose last frame a crash has torn. The
//! witness distinguishes the two: it is written after the frame is durable, so it never says more than the journal has. It
//! says less after a power loss, as it is not synced, and within a burst, as it is written every 20 ms at most: on the
//! path of each transaction the write into the page cache would cost a tenth of what the sync costs.
//!
//! ```text
//! LOCK: | number u64 | its complement u64 |
//! ```

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    disk::{Create, DiskFile, OpenMode},
    volume::Volume,
};
use crate::error::{Error, Result};

/// Name of the file.
pub(super) const LOCK: &str = "LOCK";

const BYTES: usize = 16;

#[derive(Debug)]
pub(super) struct Witness {
    file: Arc<dyn DiskFile>,
    every: Duration,
    written: Option<Instant>,
}

impl Witness {
    pub(super) fn open(volume: &Volume) -> Result<Self> {
        let file = volume.disk.open(&volume.path(LOCK), OpenMode::WRITE.create(Create::IfMissing));
        let file = file.map_err(|error| volume.failed(LOCK, "opened", &error))?;
        Ok(Self { file, every: volume.sizes.witness_every, written: None })
    }

    /// Refuses a journal that ends before what was acknowledged.
    ///
    /// # Errors
    /// [`Error::DataLoss`] then.
    pub(super) fn check(&self, volume: &Volume, last: u64) -> Result<()> {
        match self.get() {
            Some(acknowledged) if acknowledged > last => Err(Error::DataLoss(format!(
                "'{}' ends with transaction {last}, and {acknowledged} were acknowledged: it is an older copy, or its last \
                 frames are damaged; put the newest one back, or restore a backup into an empty directory. If the directory \
                 was set back on purpose, remove '{}' and start again",
                volume.path(super::journal::JOURNAL).display(),
                volume.path(LOCK).display()
            ))),
            _ => Ok(()),
        }
    }

    /// Records a durable transaction, unless another was recorded just before. A failure costs the check, not the
    /// transaction.
    pub(super) fn set(&mut self, number: u64) {
        if self.written.is_some_and(|written| written.elapsed() < self.every) {
            return;
        }
        self.written = Some(Instant::now());
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes[8..].copy_from_slice(&(!number).to_le_bytes());
        if let Err(error) = self.file.write_all_at(&bytes, 0) {
            tracing::debug!(%error, "the last transaction is not recorded in LOCK");
        }
    }

    /// `None` if nothing was recorded.
    fn get(&self) -> Option<u64> {
        let mut bytes = [0; BYTES];
        self.file.read_exact_at(&mut bytes, 0).ok()?;
        let (number, complement) = bytes.split_at(8);
        let number = u64::from_le_bytes(number.try_into().ok()?);
        (u64::from_le_bytes(complement.try_into().ok()?) == !number).then_some(number)
    }
}
