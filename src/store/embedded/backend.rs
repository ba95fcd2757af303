//! The file of the metadata database, as redb uses it.
//!
//! A failed access ends a redb database for good, so failures that pass are not shown to it: a read is tried again, and a
//! write that finds the disk full is repeated as parts of the reserve are released.

use std::{
    io,
    sync::{Arc, PoisonError, RwLock},
};

use redb::StorageBackend;

use super::{
    disk::{DiskFile, is_full, is_unreadable, read_with_retries},
    volume::Volume,
};

/// Name of the database's file.
pub(super) const DATABASE: &str = "meta.redb";

/// See the [module](self).
#[derive(Clone, Debug)]
pub(super) struct Backend {
    volume: Arc<Volume>,
    file: Arc<dyn DiskFile>,
    /// Whether another backend has taken the file over. Held for reading by every access, so that none is under way when
    /// the other one begins.
    is_revoked: Arc<RwLock<bool>>,
}

impl Backend {
    pub(super) fn new(volume: Arc<Volume>, file: Arc<dyn DiskFile>) -> Self {
        Self { volume, file, is_revoked: Arc::default() }
    }

    /// Refuses every access from now on; waits for those under way.
    pub(super) fn revoke(&self) {
        *self.is_revoked.write().unwrap_or_else(PoisonError::into_inner) = true;
    }

    pub(super) fn is_revoked(&self) -> bool {
        *self.is_revoked.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn access<T>(&self, access: impl FnOnce(&dyn DiskFile) -> io::Result<T>) -> io::Result<T> {
        let is_revoked = self.is_revoked.read().unwrap_or_else(PoisonError::into_inner);
        if *is_revoked {
            return Err(io::Error::other("the database was opened again"));
        }
        access(&*self.file)
    }

    /// Repeats what finds the disk full as long as there is room in reserve.
    fn with_reserve(&self, write: impl Fn(&dyn DiskFile) -> io::Result<()>) -> io::Result<()> {
        self.access(|file| {
            loop {
                match write(file) {
                    Err(error) if is_full(&error) && self.volume.reserve.release() => {}
                    other => return other,
                }
            }
        })
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.access(|file| file.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.access(|file| {
            read_with_retries(|| file.read_exact_at(out, offset)).map_err(|error| {
                let is_damage = is_unreadable(&error) || error.kind() == io::ErrorKind::UnexpectedEof;
                let path = self.volume.path(DATABASE);
                let what = format!("'{}' cannot be read at byte {offset}: {error}", path.display());
                io::Error::new(if is_damage { io::ErrorKind::InvalidData } else { error.kind() }, what)
            })
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with_reserve(|file| file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.access(|file| {
            file.sync_data().inspect_err(|_| {
                // What could not be synced must not be taken for stored when the database is opened again.
                if let Err(error) = file.drop_cache() {
                    tracing::warn!(%error, "the page cache of the metadata database cannot be dropped");
                }
            })
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with_reserve(|file| file.write_all_at(data, offset))
    }
}
