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

use std::sync::Arc;

pub use archive::{ASIDE, Archive, MetadataArchive, PayloadArchive, View};
pub use consumer::{ConsumerChange, ConsumerView, NewConsumer};
pub use metadata::{
    Ack, BlockScan, Committed, Due, Expired, Garbage, Group, MetadataStore, Move, PayloadRow, Purged, Raised,
    SubjectRow, Writer,
};
pub use payload::{ObjectWriter, PayloadStore, Synced};
pub use upload::{NewUpload, Saved, Upload, UploadState};

/// The two stores that a broker runs on.
#[derive(Clone)]
pub struct Stores {
    /// Order, positions, retention.
    pub metadata: Arc<dyn MetadataStore>,
    /// Bytes.
    pub payload: Arc<dyn PayloadStore>,
}
