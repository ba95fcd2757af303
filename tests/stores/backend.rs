//! Stores to run the tests on.

use std::{fs, path::Path};

use async_trait::async_trait;
use minitoolstream::store::{Stores, embedded};
use tempfile::TempDir;

/// How a store's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// In order.
    Closed,
    /// By `kill -9`.
    Killed,
}

/// A pair of stores that can be opened again.
#[async_trait]
pub(crate) trait Backend: Send {
    /// The stores as they are now.
    fn stores(&self) -> &Stores;

    /// Ends the process that holds the stores, so to speak, and opens them again as a new one.
    async fn reopen(&mut self, ending: Ending);
}

/// The embedded stores in a directory of their own.
pub(crate) struct Embedded {
    dir: TempDir,
    open: Option<embedded::Embedded>,
}

impl Embedded {
    /// Empty stores.
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    /// Empty stores whose files are in memory where the system has a place for that: for those who never end the process,
    /// and would wait for the disk alone.
    pub(crate) async fn start_in_memory() -> Self {
        Self::start_in(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()).await
    }

    async fn start_in(dir: TempDir) -> Self {
        let open = Some(embedded::Embedded::open(dir.path(), embedded::Limits::default()).await.unwrap());
        Self { dir, open }
    }

    /// Their data directory.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Lets `change` alter the files as they are while no process has them open.
    pub(crate) async fn tamper(&mut self, ending: Ending, change: impl FnOnce(&Path)) -> minitoolstream::Result<()> {
        self.end(ending);
        change(self.dir.path());
        self.open = Some(embedded::Embedded::open(self.dir.path(), embedded::Limits::default()).await?);
        Ok(())
    }

    fn end(&mut self, ending: Ending) {
        if ending == Ending::Killed {
            // What the files hold while they are open is what a killed process leaves behind.
            let left_behind = copy_of(self.dir.path());
            self.open = None;
            self.dir = left_behind;
        }
        self.open = None;
    }
}

#[async_trait]
impl Backend for Embedded {
    fn stores(&self) -> &Stores {
        &self.open.as_ref().unwrap().stores
    }

    async fn reopen(&mut self, ending: Ending) {
        self.tamper(ending, |_| ()).await.unwrap();
    }
}

/// Payload is linked, not copied: it is only ever appended to.
fn copy_of(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in ["meta.redb", "journal"] {
        fs::copy(dir.join(name), copy.path().join(name)).unwrap();
    }
    for name in ["segments", "objects"] {
        fs::create_dir(copy.path().join(name)).unwrap();
        for entry in fs::read_dir(dir.join(name)).unwrap() {
            let path = entry.unwrap().path();
            fs::hard_link(&path, copy.path().join(name).join(path.file_name().unwrap())).unwrap();
        }
    }
    copy
}
