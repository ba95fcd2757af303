use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::Usage;
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

    /// Begins an object, or goes on with one that was synced: what lies beyond is forgotten. One writer at a time.
    ///
    /// # Errors
    /// [`DataLoss`](crate::Error::DataLoss) if what was synced is not there,
    /// [`Unavailable`](crate::Error::Unavailable) if the store does not answer.
    async fn write_object(&self, object: u64, from: &Synced) -> Result<Box<dyn ObjectWriter>>;

    /// Writes an object at once and makes it durable.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    async fn put_object(&self, object: u64, data: Bytes) -> Result<()> {
        let mut writer = self.write_object(object, &Synced::default()).await?;
        writer.write(vec![data]).await?;
        writer.finish().await
    }

    /// Reads `len` bytes at `offset`.
    ///
    /// # Errors
    /// [`DataLoss`](crate::Error::DataLoss) if the bytes are not there, [`Unavailable`](crate::Error::Unavailable) if
    /// the store does not answer.
    async fn read(&self, key: PayloadKey, offset: u64, len: u64) -> Result<Bytes>;

    /// Bytes of a segment or object; `None` if it is not there, or not whole.
    ///
    /// # Errors
    /// [`Unavailable`](crate::Error::Unavailable) if the store does not answer.
    async fn size(&self, key: PayloadKey) -> Result<Option<u64>>;

    /// Removes a segment or object; one that is already gone counts as removed.
    ///
    /// # Errors
    /// [`Unavailable`](crate::Error::Unavailable) if the store does not answer.
    async fn delete(&self, key: PayloadKey) -> Result<()>;

    /// Removes many as [`delete`](Self::delete) removes one. After an error some may be gone.
    ///
    /// # Errors
    /// [`Unavailable`](crate::Error::Unavailable) if the store does not answer.
    async fn delete_many(&self, keys: &[PayloadKey]) -> Result<()> {
        for key in keys {
            self.delete(*key).await?;
        }
        Ok(())
    }

    /// Every key that the store holds, in no particular order.
    ///
    /// # Errors
    /// [`Unavailable`](crate::Error::Unavailable) if the store does not answer.
    async fn keys(&self) -> Result<Vec<PayloadKey>>;

    /// Tells whether there is room for so many bytes now.
    ///
    /// # Errors
    /// [`Exhausted`](crate::Error::Exhausted) if there is not.
    async fn room(&self, bytes: u64) -> Result<()>;

    /// Tells whether the store would take a write now.
    ///
    /// # Errors
    /// Why it would not.
    async fn writable(&self) -> Result<()>;

    /// How full the store is; `None` if it does not know.
    ///
    /// # Errors
    /// [`Unavailable`](crate::Error::Unavailable) if the store does not answer.
    async fn usage(&self) -> Result<Option<Usage>> {
        Ok(None)
    }

    /// What [`ObjectWriter::sync_step`] is of objects that are begun now.
    fn sync_step(&self) -> u64 {
        1
    }

    /// How long after a write failed its bytes may still come to be there: the store may have it in hand, and be slow.
    fn late_writes(&self) -> Duration {
        Duration::ZERO
    }
}

/// Writes one object, front to back.
#[async_trait]
pub trait ObjectWriter: Send {
    /// Takes the next bytes; they are durable after the next [`sync`](Self::sync).
    ///
    /// # Errors
    /// As for [`append`](PayloadStore::append). After an error the object must be gone on with from what was synced.
    async fn write(&mut self, data: Vec<Bytes>) -> Result<()>;

    /// Begins to make everything taken so far durable; the future tells how much of it is, and how to go on there. The
    /// writer may be used meanwhile.
    fn sync(&mut self) -> BoxFuture<'static, Result<Synced>>;

    /// Offsets that [`sync`](Self::sync) can stop at are multiples of this.
    fn sync_step(&self) -> u64;

    /// Makes all of the object durable, under the name that [`read`](PayloadStore::read) finds it by.
    ///
    /// # Errors
    /// As for [`append`](PayloadStore::append).
    async fn finish(self: Box<Self>) -> Result<()>;
}

/// How far an object is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// Bytes.
    pub offset: u64,
    /// What the store needs to go on after them; for nobody else to read.
    pub receipt: Bytes,
}
