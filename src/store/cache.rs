//! Recent blocks in memory, in front of a payload store that is far away: one fetch serves all who wait for it.

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use moka::future::Cache;

use super::{ObjectWriter, PayloadStore, Synced, Usage};
use crate::{
    block::PayloadKey,
    error::{Error, Result},
};

/// Larger ranges are parts of large messages: few read them twice, and each would drive out many blocks.
const RANGE_MAX: u64 = 1 << 20;

/// See the [module](self).
pub struct CachedPayload {
    inner: Arc<dyn PayloadStore>,
    ranges: Cache<(PayloadKey, Range<u64>), Bytes>,
}

impl CachedPayload {
    /// A cache of at most so many bytes.
    pub fn new(inner: Arc<dyn PayloadStore>, bytes: u64) -> Self {
        let weigher =
            |_: &(PayloadKey, Range<u64>), bytes: &Bytes| u32::try_from(bytes.len() + 128).unwrap_or(u32::MAX);
        let ranges = Cache::builder().max_capacity(bytes).weigher(weigher).build();
        Self { inner, ranges }
    }
}

#[async_trait]
impl PayloadStore for CachedPayload {
    async fn append(&self, segment: u64, bodies: Vec<Bytes>) -> Result<Option<u64>> {
        self.inner.append(segment, bodies).await
    }

    async fn seal(&self, segment: u64, len: u64) -> Result<()> {
        self.inner.seal(segment, len).await
    }

    async fn write_object(&self, object: u64, from: &Synced) -> Result<Box<dyn ObjectWriter>> {
        self.inner.write_object(object, from).await
    }

    async fn read(&self, key: PayloadKey, offset: u64, len: u64) -> Result<Bytes> {
        if len >= RANGE_MAX || matches!(key, PayloadKey::Object(_)) {
            return self.inner.read(key, offset, len).await;
        }
        // Segments never change below what was committed, and a number is never used again.
        let fetch = self.inner.read(key, offset, len);
        let read = self.ranges.try_get_with((key, offset..offset + len), fetch).await;
        read.map_err(|error: Arc<Error>| (*error).clone())
    }

    async fn size(&self, key: PayloadKey) -> Result<Option<u64>> {
        self.inner.size(key).await
    }

    async fn delete(&self, key: PayloadKey) -> Result<()> {
        self.inner.delete(key).await
    }

    async fn delete_many(&self, keys: &[PayloadKey]) -> Result<()> {
        self.inner.delete_many(keys).await
    }

    async fn keys(&self) -> Result<Vec<PayloadKey>> {
        self.inner.keys().await
    }

    async fn room(&self, bytes: u64) -> Result<()> {
        self.inner.room(bytes).await
    }

    async fn writable(&self) -> Result<()> {
        self.inner.writable().await
    }

    async fn usage(&self) -> Result<Option<Usage>> {
        self.inner.usage().await
    }

    fn sync_step(&self) -> u64 {
        self.inner.sync_step()
    }

    fn late_writes(&self) -> Duration {
        self.inner.late_writes()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts reads, and refuses those of segment 9.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    #[async_trait]
    impl PayloadStore for Counting {
        async fn append(&self, _: u64, _: Vec<Bytes>) -> Result<Option<u64>> {
            Ok(None)
        }
        async fn seal(&self, _: u64, _: u64) -> Result<()> {
            Ok(())
        }
        async fn write_object(&self, _: u64, _: &Synced) -> Result<Box<dyn ObjectWriter>> {
            Err(Error::unavailable("not here"))
        }
        async fn read(&self, key: PayloadKey, _: u64, len: u64) -> Result<Bytes> {
            self.0.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            match key {
                PayloadKey::Segment(9) => Err(Error::DataLoss("gone".into())),
                _ => Ok(vec![7; usize::try_from(len).unwrap()].into()),
            }
        }
        async fn size(&self, _: PayloadKey) -> Result<Option<u64>> {
            Ok(None)
        }
        async fn delete(&self, _: PayloadKey) -> Result<()> {
            Ok(())
        }
        async fn keys(&self) -> Result<Vec<PayloadKey>> {
            Ok(Vec::new())
        }
        async fn room(&self, _: u64) -> Result<()> {
            Ok(())
        }
        async fn writable(&self) -> Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn many_waiters_cost_one_fetch_and_failures_are_not_kept() {
        let inner = Arc::new(Counting::default());
        let cache = CachedPayload::new(inner.clone(), 1 << 20);
        let reads = (0..50).map(|_| cache.read(PayloadKey::Segment(1), 10, 100));
        for read in futures_util::future::join_all(reads).await {
            assert_eq!(read.unwrap().len(), 100);
        }
        assert_eq!(inner.0.load(Ordering::Relaxed), 1);
        for _ in 0..2 {
            assert!(matches!(cache.read(PayloadKey::Segment(9), 0, 1).await, Err(Error::DataLoss(_))));
            assert_eq!(cache.read(PayloadKey::Object(1), 0, 5).await.unwrap().len(), 5);
        }
        assert_eq!(inner.0.load(Ordering::Relaxed), 5, "objects pass by");
    }
}
