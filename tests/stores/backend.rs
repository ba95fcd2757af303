//! Stores to run the tests on.

use std::{fs, path::Path, sync::Arc};

use async_trait::async_trait;
use minitoolstream::{
    store::{
        Stores, abandoned, embedded,
        tarantool::{Config, TarantoolMetadata},
    },
    types::Timestamp,
};
use minitoolstream_testkit::Tarantool;
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
        let dir = tempfile::tempdir().unwrap();
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

/// Metadata in a real Tarantool, and payload in files.
pub(crate) struct OnTarantool {
    // The connections end before the server does.
    metadata: TarantoolMetadata,
    stores: Stores,
    server: Tarantool,
    files: Embedded,
}

impl OnTarantool {
    /// Empty stores.
    pub(crate) async fn start() -> Self {
        let (server, files) = (Tarantool::start(&[]), Embedded::start().await);
        let (metadata, stores) = Self::connect(server.config(), &files).await;
        Self { metadata, stores, server, files }
    }

    async fn connect(config: Config, files: &Embedded) -> (TarantoolMetadata, Stores) {
        let metadata = TarantoolMetadata::connect(config).await.unwrap();
        let stores = Stores { metadata: Arc::new(metadata.clone()), payload: files.stores().payload.clone() };
        abandoned::close(&stores, Timestamp::default()).await.unwrap();
        (metadata, stores)
    }

    /// Empties them, for a runtime of its own.
    pub(crate) async fn renew(self) -> Self {
        let Self { metadata, stores, server, .. } = self;
        drop((metadata, stores));
        server.reset().await;
        let files = Embedded::start().await;
        let (metadata, stores) = Self::connect(server.config(), &files).await;
        Self { metadata, stores, server, files }
    }
}

#[async_trait]
impl Backend for OnTarantool {
    fn stores(&self) -> &Stores {
        &self.stores
    }

    /// The broker is another one then. Killed with Tarantool, it cannot say that it leaves; that it is missed is told
    /// here, without the wait.
    async fn reopen(&mut self, ending: Ending) {
        if ending == Ending::Killed {
            self.server.kill();
            self.server.restart();
        }
        self.metadata.leave().await.unwrap();
        (self.metadata, self.stores) = Self::connect(self.server.config(), &self.files).await;
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
