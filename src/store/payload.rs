use async_trait::async_trait;
use bytes::Bytes;

use crate::{block::PayloadKey, error::Result};

/// Bytes by key and range.
///
/// Keys come from [`MetadataStore::open_payload`](super::MetadataStore::open_payload), which leaves a row behind before
/// a byte is written: what never commits is found through that row.
#[async_trait]
pub trait PayloadStore: Send + Sync + 'static {
    /// Appends bodies back to back to a segment and makes them durable. Gives the offset of the first byte, or `None`
    /// if the segment takes no more: seal it and open another.
    ///
    /// # Errors
    /// [`Exhausted`](crate::Error::Exhausted) without room, [`Unavailable`](crate::Error::Unavailable) if the write
    /// failed. After an error the segment must not be appended to again.
    async fn append(&self, segment: u64, bodies: Vec<Bytes>) -> Result<Option<u64>>;

    /// Ends a segment after its first `len` bytes and gives back what it reserved beyond them.
    ///
    /// # Errors
    /// [`Unavailable`](crate::Error::Unavailable) if the store does not answer.
    async fn seal(&self, segment: u64, len: u64) -> Result<()>;

    /// Writes an object once and makes it durable.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    async fn put_object(&self, object: u64, data: Bytes) -> Result<()>;

    /// Reads `len` bytes at `offset`.
    ///
    /// # Errors
    /// [`DataLoss`](crate::Error::DataLoss) if the bytes are not there, [`Unavailable`](crate::Error::Unavailable) if
    /// the store does not answer.
    async fn read(&self, key: PayloadKey, offset: u64, len: u64) -> Result<Bytes>;

    /// Removes a segment or object; one that is already gone counts as removed.
    ///
    /// # Errors
    /// [`Unavailable`](crate::Error::Unavailable) if the store does not answer.
    async fn delete(&self, key: PayloadKey) -> Result<()>;

    /// Every key that the store holds, in no particular order.
    ///
    /// # Errors
    /// [`Unavailable`](crate::Error::Unavailable) if the store does not answer.
    async fn keys(&self) -> Result<Vec<PayloadKey>>;

    /// Tells whether the store would take a write now.
    ///
    /// # Errors
    /// Why it would not.
    async fn writable(&self) -> Result<()>;
}
