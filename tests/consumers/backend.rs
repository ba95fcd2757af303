//! What the sequences run on.

use minitoolstream::{
    Result,
    consumer::{Counts, Lag, Patch, Settings, Start, Step, Stepped},
    types::{Subject, Timestamp},
};

/// A consumer as it is shown.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) paused: bool,
    pub(crate) cursor: u64,
    pub(crate) ack_floor: u64,
    /// For a filter of one subject: the sequence that it began with, and the first that it has not begun with.
    pub(crate) sequences: (u64, u64),
    pub(crate) counts: Counts,
    pub(crate) lag: Lag,
}

/// A dead letter as a reader finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) sequence: u64,
    pub(crate) original_subject: String,
    pub(crate) original_sequence: u64,
    pub(crate) reason: String,
    pub(crate) detail: String,
    pub(crate) attempts: u32,
}

/// Messages, and one consumer of them.
pub(crate) trait Backend: Sized {
    /// An empty stream, and a consumer of it. Scans of the stream look at `chunk` blocks at a time, where that can be
    /// chosen.
    fn start(settings: &Settings, chunk: usize, now: Timestamp) -> Self;

    /// Stores one block of messages; gives its first sequence.
    fn publish(&mut self, subject: &Subject, expires: &[Option<Timestamp>], now: Timestamp) -> u64;

    /// Bytes of a message: all are alike.
    fn message_bytes(&self) -> u64;

    fn step(&mut self, step: Step) -> Result<Stepped>;

    /// Purges up to a sequence; gives how many messages went.
    fn purge(&mut self, subject: &Subject, up_to: u64, now: Timestamp) -> u64;

    /// Removes all blocks that have expired; gives how many messages went.
    fn expire(&mut self, now: Timestamp) -> u64;

    fn pause(&mut self, paused: bool);

    fn update(&mut self, patch: Patch);

    fn reset(&mut self, start: Option<Start>);

    /// Moves a dead letter to a subject; gives its sequence there, or `None` if there is no message to move. `is_lost`
    /// for one that reports damage.
    fn redrive(&mut self, letter: u64, is_lost: bool, to: &Subject, now: Timestamp) -> Option<u64>;

    /// Ends the process and begins another.
    fn crash(&mut self);

    fn view(&mut self) -> View;

    /// Dead letters that live, in order, if readers can see them.
    fn letters(&mut self, now: Timestamp) -> Option<Vec<Found>>;
}
