/// What became of a consumer's messages.
///
/// P8: `passed = acked + dead_lettered + dropped + expired + pending`, at all times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that it began with.
    pub passed: u64,
    /// Done.
    pub acked: u64,
    /// Given up, and kept as dead letters.
    pub dead_lettered: u64,
    /// Given up without a dead letter.
    pub dropped: u64,
    /// Expired or purged before they were done.
    pub expired: u64,
    /// Deliveries, redeliveries among them.
    pub deliveries: u64,
    /// Deliveries with an attempt above 1.
    pub redeliveries: u64,
}

impl Counts {
    /// Messages that will never be delivered again.
    pub fn settled(&self) -> u64 {
        self.acked + self.dead_lettered + self.dropped + self.expired
    }
}
