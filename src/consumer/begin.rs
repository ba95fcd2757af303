//! Where a consumer begins.

use super::{Source, Start};
use crate::{
    block::ScanLimits,
    error::{Error, Result},
    types::{Subject, SubjectFilter, Timestamp},
};

/// What is stored, as the beginning of a consumer sees it.
pub trait Places: Source {
    /// The next stream sequence to be given.
    ///
    /// # Errors
    /// Those of the store.
    fn end(&mut self) -> Result<u64>;

    /// Floor and last sequence of a subject; 1 and 0 if it never had a message.
    ///
    /// # Errors
    /// Those of the store.
    fn books(&mut self, subject: &Subject) -> Result<(u64, u64)>;

    /// The stream sequence of the block of a subject that holds a sequence, or of the first after it.
    ///
    /// # Errors
    /// Those of the store.
    fn place_of(&mut self, subject: &Subject, sequence: u64) -> Result<Option<u64>>;

    /// The stream sequence of the first block stored at or after a time; the next one to be given if there is none.
    ///
    /// # Errors
    /// Those of the store.
    fn place_at(&mut self, filter: &SubjectFilter, time: Timestamp) -> Result<u64>;
}

/// The stream sequence that a consumer begins with, and the sequence of its subject, if it has but one.
///
/// # Errors
/// Those of the store.
pub fn beginning(places: &mut impl Places, filter: &SubjectFilter, start: Start) -> Result<(u64, u64)> {
    let end = places.end()?;
    let Some(subject) = filter.subject() else {
        let cursor = match start {
            Start::All => 1,
            Start::New | Start::Sequence(_) => end,
            Start::StreamSequence(at) => at.clamp(1, end),
            Start::Time(time) => places.place_at(filter, Timestamp(time))?,
        };
        return Ok((cursor, 0));
    };
    let (floor, last) = places.books(&subject)?;
    match start {
        Start::All => Ok((1, floor)),
        Start::New => Ok((end, last + 1)),
        Start::Sequence(sequence) if sequence > last => Ok((end, sequence)),
        Start::Sequence(sequence) => {
            let sequence = sequence.max(floor);
            let cursor = match places.place_of(&subject, sequence) {
                Ok(place) => place.unwrap_or(end),
                // The cursor finds its own way: it passes over what comes before the sequence.
                Err(Error::DataLoss(_)) => 1,
                Err(error) => return Err(error),
            };
            Ok((cursor, sequence))
        }
        Start::StreamSequence(at) => from_stream(places, filter, at.clamp(1, end), last),
        Start::Time(time) => {
            let at = places.place_at(filter, Timestamp(time))?;
            from_stream(places, filter, at, last)
        }
    }
}

fn from_stream(places: &mut impl Places, filter: &SubjectFilter, at: u64, last: u64) -> Result<(u64, u64)> {
    let scan = places.scan(filter, at, ScanLimits { blocks: 1, bytes: 0, rows: 1 })?;
    let sequence = scan.blocks.first().map_or(last + 1, |located| located.sequence_at(at).max(located.floor));
    Ok((at, sequence))
}
