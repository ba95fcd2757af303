//! Blocks: the unit in which messages are stored.
//!
//! The records of one subject in one commit form a block. Their sequences are not stored: record `i` of a block has
//! sequence `first + i`, so payload is written before numbers exist and each number is born in the metadata commit.
//!
//! ```text
//! drafts ──batch::form──▶ NewBlock ──placement──▶ payload store      (bytes durable)
//!                            │                          │
//!                            └──────── metadata commit ◀┘            (sequences assigned)
//!                                          │
//! records ◀──record::decode── body ◀── Block row ◀── reader
//! ```
//!
//! Everything here is a plain function over plain data.

pub mod batch;
pub mod guard;
pub mod letter;
pub mod object;
pub mod record;
mod row;
mod scan;

pub use row::{Block, PayloadKey, Placement};
pub use scan::{Located, ScanLimits, StreamScan};

/// Blocks up to this size live in the metadata row itself: one sync instead of two.
///
/// Measured (docs/adr/0001-embedded-engine.md): 10 clients that wait for each 10 KiB message store 10.1 k msg/s so,
/// against 7.6 k when their blocks of about 50 KiB go to a segment first.
pub const INLINE_MAX: usize = 64 * 1024;

/// A commit of at most so many bytes becomes rows: two syncs, or a request to S3, would cost more than a second row.
pub const ROWS_BYTES_MAX: usize = 2 * INLINE_MAX;

/// Messages with more data than this become an object of their own.
pub const OBJECT_MIN: usize = 1024 * 1024;

/// A block is closed at this many body bytes, so that one read stays small.
pub const BLOCK_BYTES_MAX: usize = 1024 * 1024;

/// A block is closed at this many records, so that skipping to one stays cheap.
pub const BLOCK_RECORDS_MAX: usize = 4096;

/// Objects are checksummed in parts of at least this size ([`object::part_bytes`]), so that each part is verified before
/// it is served.
pub const OBJECT_PART: usize = 1024 * 1024;
