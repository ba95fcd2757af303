//! Verifies what is stored: every checksum, and that the books balance (P7, P8). Reads only, unless it is to repair.
//!
//! ```text
//! keys of the payload store ─▶ subjects, their blocks and bodies (walk) ─▶ rows of payloads, then of garbage (payloads)
//! ```
//! That order lets a living store be checked: a row is written before the bytes it tells of, and goes after them. So who
//! lists keys first, and finds no row of one afterwards, has found a stranger, or something that was removed meanwhile.

mod payloads;
mod repair;
mod walk;

use super::{Archive, Stores};
use crate::{error::Result, types::Subject};

use walk::Check;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of damage.
    pub kind: Kind,
    /// The subject concerned, if any.
    pub subject: Option<Subject>,
    /// First sequence of the block concerned, or 0.
    pub sequence: u64,
    /// What was expected and what was found.
    pub detail: String,
    /// What was done about it, if anything.
    pub repair: Option<String>,
}

impl Finding {
    fn new(kind: Kind, detail: String) -> Self {
        Self { kind, subject: None, sequence: 0, detail, repair: None }
    }

    fn of(self, subject: &Subject, sequence: u64) -> Self {
        Self { subject: Some(subject.clone()), sequence, ..self }
    }
}

/// Kinds of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A block or object whose bytes are missing or differ from what was stored.
    DamagedBlock,
    /// Accepted messages of a subject differ from live + expired + purged.
    UnbalancedSubject,
    /// A segment or object that is missing or has another size, though blocks live in it.
    DamagedPayload,
    /// A segment or object whose count of living blocks is wrong.
    UnbalancedPayload,
    /// A consumer whose messages are not all accounted for.
    UnbalancedConsumer,
    /// A block without its place among the blocks of all subjects, or the other way round.
    BrokenOrder,
    /// A consumer's position beyond the end of its subject.
    PositionBeyondEnd,
    /// Rows of payloads or of garbage that cannot be read. What they stand for is unknown, so nothing is counted or moved.
    UnreadableRow,
    /// A file, or an object of a bucket, that no row tells of.
    UnknownFile,
    /// An object that belongs to an upload that is no more, or an upload without its object: nobody would remove it.
    OrphanedUpload,
}

impl Kind {
    /// The kind's name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DamagedBlock => "damaged-block",
            Self::UnbalancedSubject => "unbalanced-subject",
            Self::DamagedPayload => "damaged-payload",
            Self::UnbalancedPayload => "unbalanced-payload",
            Self::UnbalancedConsumer => "unbalanced-consumer",
            Self::BrokenOrder => "broken-order",
            Self::PositionBeyondEnd => "position-beyond-end",
            Self::UnreadableRow => "unreadable-row",
            Self::UnknownFile => "unknown-file",
            Self::OrphanedUpload => "orphaned-upload",
        }
    }
}

/// How much was verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Subjects.
    pub subjects: u64,
    /// Blocks read and compared with their checksums.
    pub blocks: u64,
    /// Messages in them.
    pub messages: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Durable consumers.
    pub consumers: u64,
    /// Things found.
    pub findings: u64,
}

/// One thing that a check has to say.
#[derive(Clone, Debug)]
pub enum Report {
    /// Verified so far.
    Progress(Summary),
    /// Something is wrong.
    Finding(Finding),
}

/// Whether anybody else may be changing the stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nobody: everything is compared.
    Exclusive,
    /// A broker is at work: what cannot be compared while it changes (the order of blocks, counts of payloads, uploads) is
    /// left out.
    Live,
}

/// Verifies both stores and tells `report` what it sees.
///
/// # Errors
/// If a store does not answer; damage is a finding.
pub async fn check(stores: &Stores, mode: Mode, report: impl FnMut(Report) + Send) -> Result<Summary> {
    Check::new(stores, mode, None, report).run().await
}

/// The same, where nobody else changes the stores, and moves aside what can be: see [`repair`](self::repair).
///
/// # Errors
/// If a store does not answer, or takes no writes.
pub async fn repair(archive: &Archive, report: impl FnMut(Report) + Send) -> Result<Summary> {
    let stores = archive.stores();
    Check::new(&stores, Mode::Exclusive, Some(archive), report).run().await
}
