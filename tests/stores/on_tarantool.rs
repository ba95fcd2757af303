//! Metadata in a real Tarantool.

use std::sync::Arc;

use async_trait::async_trait;
use minitoolstream::{
    store::{
        Stores, abandoned,
        tarantool::{Config, TarantoolMetadata},
    },
    types::Timestamp,
};
use minitoolstream_testkit::Tarantool;

use crate::backend::{Backend, Embedded, Ending};

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
