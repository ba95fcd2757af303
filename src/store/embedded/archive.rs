use async_trait::async_trait;

use super::{
    metadata::EmbeddedMetadata,
    tables::{self, PAYLOADS},
};
use crate::{
    error::Result,
    store::{MetadataArchive, PayloadRow},
};

#[async_trait]
impl MetadataArchive for EmbeddedMetadata {
    /// Whoever has the stores open holds their lock.
    async fn brokers(&self) -> Result<u64> {
        Ok(0)
    }

    /// Nobody else can have changed the row.
    async fn recount(&self, row: PayloadRow, _counted: Option<u64>) -> Result<()> {
        self.change(move |transaction| {
            let key = row.key.number().to_be_bytes();
            transaction.batch.put(PAYLOADS, key, tables::payload_value(&row));
            Ok(())
        })
        .await
    }
}
