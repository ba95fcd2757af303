//! Where messages live: two traits, and what reads and verifies through them.
//!
//! [`MetadataStore`] keeps order, positions and retention; [`PayloadStore`] keeps bytes by key and range. Both are
//! asynchronous, durable before they answer, and safe to call from many tasks.

pub mod abandoned;
mod archive;
pub mod backup;
pub mod cache;
pub mod check;
mod consumer;
pub mod embedded;
mod metadata;
mod payload;
pub mod reader;
pub mod s3;
pub mod shared;
pub mod tarantool;
mod upload;

use std::{sync::Arc, time::Duration};

pub use archive::{ASIDE, Archive, MetadataArchive, PayloadArchive, View};
pub use consumer::{ConsumerChange, ConsumerView, NewConsumer};
pub use metadata::{
    Ack, BlockScan, Committed, Due, Expired, Garbage, Group, MetadataStore, Move, PayloadRow, Purged, Raised,
    SubjectRow, Writer,
};
pub use payload::{ObjectWriter, PayloadStore, Synced};
pub use upload::{NewUpload, Saved, Upload, UploadState};

use crate::error::{Error, Result};

/// How long a store may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// How full a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that are taken, by whomever.
    pub used: u64,
    /// From so many bytes on publishes are refused.
    pub limit: u64,
}

impl Usage {
    /// The one that is nearer to its limit.
    pub fn fuller(self, other: Self) -> Self {
        let product = |used: u64, limit: u64| u128::from(used) * u128::from(limit);
        if product(self.used, other.limit) >= product(other.used, self.limit) { self } else { other }
    }
}

/// The two stores that a broker runs on.
#[derive(Clone)]
pub struct Stores {
    /// Order, positions, retention.
    pub metadata: Arc<dyn MetadataStore>,
    /// Bytes.
    pub payload: Arc<dyn PayloadStore>,
}

impl Stores {
    /// Tells of each store, metadata first, whether it would take a write now: [`Error::Unavailable`] if it does not answer,
    /// within two seconds at the latest.
    pub async fn writable(&self) -> [Result<()>; 2] {
        let metadata = answer("metadata", self.metadata.writable());
        let payload = answer("payload", self.payload.writable());
        <[_; 2]>::from(tokio::join!(metadata, payload))
    }

    /// Tells of each store, metadata first, how full it is, if it knows.
    pub async fn usage(&self) -> [Result<Option<Usage>>; 2] {
        let metadata = answer("metadata", self.metadata.usage());
        let payload = answer("payload", self.payload.usage());
        <[_; 2]>::from(tokio::join!(metadata, payload))
    }
}

async fn answer<T>(which: &str, asked: impl Future<Output = Result<T>>) -> Result<T> {
    let silent = |_| {
        let what = format!("the {which} store did not answer within {} s", PATIENCE.as_secs());
        Err(Error::unavailable(what))
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(silent)
}
