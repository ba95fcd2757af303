use super::{Source, deliver::live_from};
use crate::{block::ScanLimits, error::Result, types::SubjectFilter};

/// One scan.
const SCAN: ScanLimits = ScanLimits { blocks: 1_000, bytes: u64::MAX, rows: 10_000 };

/// Scans of one count of what is not delivered yet.
const SCANS_MAX: usize = 20;

/// How far behind a consumer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Messages not delivered yet; at least so many if `is_exact` is false.
    pub pending: u64,
    /// Delivered and leased.
    pub unacked: u64,
    /// To be delivered again, now or later.
    pub redeliverable: u64,
    /// False while a pattern is so far behind that counting was given up.
    pub is_exact: bool,
}

/// What says how far behind a consumer is: read in a moment, and counted without holding the consumer up.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Which subjects.
    pub filter: SubjectFilter,
    /// The next stream sequence to look at.
    pub cursor: u64,
    /// For a filter of one subject: the first sequence that it has not begun with.
    pub next_sequence: u64,
    /// Delivered and leased.
    pub unacked: u64,
    /// To be delivered again.
    pub redeliverable: u64,
}

impl Standing {
    /// How far behind it is.
    ///
    /// # Errors
    /// Those of the source.
    pub fn lag(&self, source: &mut impl Source) -> Result<Lag> {
        let Self { unacked, redeliverable, .. } = *self;
        let mut lag = Lag { pending: 0, unacked, redeliverable, is_exact: true };
        let mut cursor = self.cursor;
        for _ in 0..SCANS_MAX {
            let scan = source.scan(&self.filter, cursor, SCAN)?;
            if let Some(last) = scan.last {
                // Blocks that lie before the sequence that it began with say nothing.
                let first = scan.blocks.iter().find(|located| located.block.end() > self.next_sequence);
                if first.is_some() || scan.is_end {
                    let floor = first.map_or(last + 1, |located| located.floor.max(located.block.first));
                    lag.pending = (last + 1).saturating_sub(self.next_sequence.max(floor));
                    return Ok(lag);
                }
            } else {
                lag.pending += scan.blocks.iter().map(|located| live_from(located, cursor)).sum::<u64>();
                if scan.is_end {
                    return Ok(lag);
                }
            }
            cursor = scan.next;
        }
        lag.is_exact = false;
        Ok(lag)
    }
}
