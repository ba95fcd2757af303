//! Where messages live: two traits, and what reads and verifies through them.
//!
//! [`MetadataStore`] keeps order, positions and retention; [`PayloadStore`] keeps bytes by key and range. Both are
//! asynchronous, durable before they answer, and safe to call from many tasks.

pub mod abandoned;
pub mod cache;
pub mod check;
pub mod embedded;
mod metadata;
mod payload;
pub mod reader;
pub mod s3;
pub mod shared;
pub mod tarantool;

use std::sync::Arc;

pub use metadata::{
    Ack, BlockScan, Committed, ConsumerChange, ConsumerView, Due, Expired, Garbage, Group, MetadataStore, Move,
    NewConsumer, NewUpload, PayloadRow, Purged, Raised, Saved, SubjectRow, Upload, UploadState, Writer,
};
pub use payload::{ObjectWriter, PayloadStore, Synced};

/// The two stores that a broker runs on.
#[derive(Clone)]
pub struct Stores {
    /// Order, positions, retention.
    pub metadata: Arc<dyn MetadataStore>,
    /// Bytes.
    pub payload: Arc<dyn PayloadStore>,
}
