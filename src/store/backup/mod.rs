//! Backups: all rows of both kinds of store as of one moment, and the payload that they tell of.
//!
//! ```text
//! take:    view (as of one moment) ─▶ metadata ─▶ payload/… and objects.jsonl ─▶ backup.json, last
//!          while the view is open, no bytes of payload are removed
//! restore: every file verified ─▶ empty stores, closed to brokers ─▶ rows ─▶ payload ─▶ opened
//!          interrupted, it is repeated with the same backup
//! ```
//! A directory of these files; the form is the same for embedded and shared stores, so a backup of the one can be restored
//! into the other.
//!
//! ```text
//! backup.json            what it is; written when everything else is durable, so without it a backup is none
//! metadata               rows                                                    (frames.rs, row.rs)
//! objects.jsonl          a line for each segment and object: key, size, checksum (objects.rs)
//! payload/segments/N     bytes, unless they are only listed
//! payload/objects/N
//! ```
//! Why the view is of one moment, and what is left out, stands in docs/adr/0012-backup.md.

mod files;
pub mod frames;
mod manifest;
mod objects;
mod restore;
mod row;
mod take;

pub use manifest::Manifest;
pub use restore::{Verified, restore, verify};
pub use row::{Head, Row};
pub use take::{Options, take};

/// What a backup or a restore has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows written.
    pub rows: u64,
    /// Segments and objects copied, compared or listed.
    pub objects: u64,
    /// Bytes of them that were copied or compared.
    pub bytes: u64,
}

/// Bytes of payload held at a time, for each of [`COPIES`].
const PIECE: u64 = 4 << 20;

/// Segments and objects copied at a time.
const COPIES: usize = 4;
