use super::Block;
use crate::types::Subject;

/// A block, with whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Whose messages it holds.
    pub subject: Subject,
    /// Sequences of the subject below this one are gone, even where the block still holds them.
    pub floor: u64,
    /// The block.
    pub block: Block,
}

impl Located {
    /// The sequence of the message at a stream sequence inside the block.
    pub fn sequence_at(&self, at: u64) -> u64 {
        self.block.first + at.saturating_sub(self.block.stream_first)
    }
}

/// A stretch of the stream of all subjects.
#[derive(Clone, Debug, Default)]
pub struct StreamScan {
    /// Blocks of subjects that match, in order; the first may begin before the stream sequence asked for.
    pub blocks: Vec<Located>,
    /// Where the next stretch begins.
    pub next: u64,
    /// True if nothing is stored at `next` or beyond.
    pub is_end: bool,
    /// The last sequence of the subject, if the filter stands for one alone.
    pub last: Option<u64>,
}

/// How far one scan goes.
#[derive(Clone, Copy, Debug)]
pub struct ScanLimits {
    /// Most blocks that match.
    pub blocks: usize,
    /// Bytes of them, but at least one block.
    pub bytes: u64,
    /// Most blocks looked at, matching or not.
    pub rows: usize,
}
