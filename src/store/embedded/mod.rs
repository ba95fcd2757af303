//! The embedded stores: metadata in one redb database, payload in files, all below one data directory.
//!
//! ```text
//! data/
//!   LOCK             held by the one broker that runs on this directory; the last transaction (witness.rs)
//!   meta.redb        rows of metadata                      (engine.rs, database.rs, tables.rs, metadata.rs)
//!   journal          transactions that meta.redb may lack  (journal.rs, frame.rs)
//!   reserve          disk space for a full disk            (reserve.rs)
//!   segments/N       bodies of many blocks, append-only    (files.rs)
//!   objects/N        data of one large message each; N.part while it is written
//! ```

mod aligned;
mod archive;
mod backend;
mod batch;
mod commit;
mod consumers;
mod database;
mod disk;
mod due;
mod engine;
#[cfg(test)]
mod faults;
mod files;
mod frame;
mod journal;
mod letters;
mod metadata;
mod migrate;
mod object_file;
mod reserve;
mod retention;
mod scan;
mod schedule;
mod snapshot;
mod space;
mod tables;
mod transaction;
mod uploads;
mod view;
mod volume;
mod witness;

use std::{
    fs::{File, TryLockError},
    path::Path,
    sync::Arc,
};

pub use files::Files;
pub use metadata::EmbeddedMetadata;
pub use space::Limits;

use disk::{Disk, RealDisk};
use space::Space;
use volume::Volume;
use witness::LOCK;

use super::{Archive, Stores, abandoned};
use crate::{
    error::{Error, Result},
    types::Timestamp,
};

/// Both embedded stores of one data directory.
///
/// Holding a value holds the directory's lock, which the operating system releases when the process ends.
pub struct Embedded {
    /// The stores, ready for use.
    pub stores: Stores,
    /// The same, for their keeper.
    pub archive: Archive,
    _lock: File,
}

impl Embedded {
    /// Opens or creates the stores below `dir`, and closes what an earlier process left open. Writes beyond the limits are
    /// refused.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if another broker holds the directory or it cannot be written, [`Error::DataLoss`] if
    /// what it holds cannot be read.
    pub async fn open(dir: &Path, limits: Limits) -> Result<Self> {
        let embedded = Self::open_to_restore(dir, limits).await?;
        if embedded.archive.metadata.restoring().await?.is_some() {
            return Err(Error::unavailable(format!(
                "a restore into '{}' was interrupted: repeat 'minitoolstream restore' with the same backup",
                dir.display()
            )));
        }
        Ok(embedded)
    }

    /// The same, also if a restore into it was interrupted.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub async fn open_to_restore(dir: &Path, limits: Limits) -> Result<Self> {
        let owned = dir.to_path_buf();
        let (lock, metadata, files) = blocking(move || {
            make_dir(&owned)?;
            let lock = lock(&owned)?;
            let (metadata, files) = open_on(Volume::real(&owned), limits)?;
            Ok((lock, metadata, files))
        })
        .await?;
        let archive = Archive { metadata: Arc::new(metadata), payload: Arc::new(files) };
        let stores = archive.stores();
        // Garbage of an earlier process has no readers: it waits for nothing.
        close_abandoned(&stores, Timestamp::default()).await?;
        Ok(Self { stores, archive, _lock: lock })
    }
}

/// Closes what an earlier process left open. A disk that is full now keeps nothing from being read: the storage actor
/// tries again.
async fn close_abandoned(stores: &Stores, now: Timestamp) -> Result<()> {
    match abandoned::close(stores, now).await {
        Err(error) if error.is_transient() => {
            tracing::warn!(%error, "payload that an earlier process left open stays open");
            Ok(())
        }
        other => other,
    }
}

/// Opens the stores on a disk. The caller holds the lock of the directory.
fn open_on(volume: Volume, limits: Limits) -> Result<(EmbeddedMetadata, Files)> {
    let volume = Arc::new(volume);
    volume.reserve.find().map_err(|error| volume.failed("reserve", "examined", &error))?;
    let space = Arc::new(Space::of(volume.clone(), limits));
    let metadata = EmbeddedMetadata::open(&volume, space.clone())?;
    let files = Files::open(volume, space.clone())?;
    if let Err(error) = space.check(0) {
        tracing::warn!(%error, "publishes are refused until there is room");
    }
    Ok((metadata, files))
}

fn make_dir(dir: &Path) -> Result<()> {
    let missing: Vec<_> = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    std::fs::create_dir_all(dir)
        .and_then(|()| missing.iter().filter_map(|dir| dir.parent()).try_for_each(|dir| RealDisk.sync_dir(dir)))
        .map_err(|error| Error::unavailable(format!("the data directory '{}' cannot be made: {error}", dir.display())))
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| Error::unavailable(format!("'{}' cannot be written: {error}", path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::unavailable(format!(
            "the data directory '{}' is in use by another broker: stop that one, or give this one a directory of its \
             own with --data-dir",
            dir.display()
        ))),
        Err(TryLockError::Error(error)) => {
            Err(Error::unavailable(format!("'{}' cannot be locked: {error}", path.display())))
        }
    }
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    #[cfg(test)]
    if faults::runs_inline() {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Error::outcome_unknown()),
    }
}
