//! Metadata in a real Tarantool.

use std::sync::Arc;

use async_trait::async_trait;
use minitoolstream::{
    metrics::Metrics,
    store::{
        PayloadStore, Stores, abandoned,
        s3::{S3Payload, Settings},
        tarantool::TarantoolMetadata,
    },
    types::Timestamp,
};
use minitoolstream_testkit::{SeaweedFs, Tarantool};

use crate::backend::{Backend, Embedded, Ending};

/// Metadata in a real Tarantool, and payload in a real S3 server, as in production, or in files.
pub(crate) struct OnTarantool {
    // The connections end before the servers do.
    metadata: TarantoolMetadata,
    stores: Stores,
    server: Tarantool,
    payload: Payload,
}

/// Where the payload is.
enum Payload {
    Files(Embedded),
    /// What is below other prefixes was left behind by those before.
    S3 {
        server: SeaweedFs,
        prefix: u32,
    },
}

impl OnTarantool {
    /// Empty stores, the payload in files.
    pub(crate) async fn with_files() -> Self {
        Self::connect(Tarantool::start(&[]), Payload::Files(Embedded::start().await)).await
    }

    /// Empty stores, the payload in S3.
    pub(crate) async fn with_s3() -> Self {
        let payload = Payload::S3 { server: SeaweedFs::start(env!("CARGO_TARGET_TMPDIR")), prefix: 0 };
        Self::connect(Tarantool::start(&[]), payload).await
    }

    async fn connect(server: Tarantool, payload: Payload) -> Self {
        let (metadata, stores) = connect(&server, &payload).await;
        Self { metadata, stores, server, payload }
    }

    /// Empties them, for a runtime of its own.
    pub(crate) async fn renew(self) -> Self {
        let Self { metadata, stores, server, payload } = self;
        drop((metadata, stores));
        server.reset().await;
        let payload = match payload {
            Payload::Files(_) => Payload::Files(Embedded::start_in_memory().await),
            Payload::S3 { server, prefix } => Payload::S3 { server, prefix: prefix + 1 },
        };
        Self::connect(server, payload).await
    }
}

async fn connect(server: &Tarantool, payload: &Payload) -> (TarantoolMetadata, Stores) {
    let metadata = TarantoolMetadata::connect(server.config()).await.unwrap();
    let payload: Arc<dyn PayloadStore> = match payload {
        Payload::Files(files) => files.stores().payload.clone(),
        Payload::S3 { server, prefix } => {
            let settings = Settings { prefix: format!("{prefix}/"), ..server.settings("letters") };
            Arc::new(S3Payload::connect(settings, Metrics::new(1).unwrap()).await.unwrap())
        }
    };
    let stores = Stores { metadata: Arc::new(metadata.clone()), payload };
    abandoned::close(&stores, Timestamp::default()).await.unwrap();
    (metadata, stores)
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
        (self.metadata, self.stores) = connect(&self.server, &self.payload).await;
    }
}
