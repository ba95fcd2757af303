use async_trait::async_trait;

use super::{TarantoolMetadata, answers, wire};
use crate::{
    error::Result,
    store::{MetadataArchive, PayloadRow},
};

#[async_trait]
impl MetadataArchive for TarantoolMetadata {
    async fn brokers(&self) -> Result<u64> {
        self.link.call("broker_count", &[(); 0]).await
    }

    async fn recount(&self, row: PayloadRow, counted: Option<u64>) -> Result<()> {
        let PayloadRow { key, alive, len, writer } = row;
        let arguments = (self.link.id(), key.number(), wire::kind(key), answers::writer(writer), alive, len, counted);
        self.link.call::<bool>("payload_recount", &arguments).await.map(drop)
    }
}
