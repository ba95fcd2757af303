//! From sequences back to messages.

use std::ops::Range;

use bytes::Bytes;

use super::Stores;
use crate::{
    block::{
        Block, Located, PayloadKey, Placement, ScanLimits,
        object::part_bytes,
        record::{self, Record},
    },
    error::{Error, Result},
    types::{Subject, SubjectFilter, Timestamp},
};

/// Most blocks looked up at a time.
const BLOCKS_MAX: usize = 64;

/// Most blocks looked at for a pattern that matches few of them.
const ROWS_MAX: usize = 10_000;

/// Slices with at most this many bytes between them are read together.
const GAP_MAX: u64 = 64 << 10;

/// Body bytes held in memory at a time by one read.
const BYTES_MAX: u64 = 1 << 20;

/// A message as it is read.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Whose it is.
    pub subject: Subject,
    /// Its sequence in the subject.
    pub sequence: u64,
    /// Its place among the messages of all subjects.
    pub stream_sequence: u64,
    /// Times, headers and, unless it is an object, data.
    pub record: Record,
    /// Set if the data is an object.
    pub object: Option<Object>,
}

impl Stored {
    /// Bytes of its data, wherever they are.
    pub fn size(&self) -> u64 {
        self.object.as_ref().map_or(self.record.data.len() as u64, |object| object.size)
    }
}

/// Data that is read in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Whose it is, to name it should it be damaged.
    subject: Subject,
    sequence: u64,
    number: u64,
    /// Bytes of data.
    pub size: u64,
    /// SHA-256 of the data.
    pub sha256: [u8; 32],
    part_crcs: Vec<u32>,
}

/// One step of a read.
#[derive(Debug)]
pub struct Page {
    /// Live messages, in order.
    pub messages: Vec<Stored>,
    /// Where the next step begins.
    pub next: u64,
    /// True if nothing was stored at `next` or beyond when this step was read.
    pub is_end: bool,
    /// Set if the block at `next` is damaged: messages before it are good, it is not.
    pub damage: Option<Error>,
}

/// Reads messages of a subject from the sequence `from` on: at most `limit`, and about [`BYTES_MAX`] bytes of bodies.
/// Expired and purged ones are passed over (P5), damaged blocks are refused (P7).
///
/// # Errors
/// Those of the stores.
pub async fn read(stores: &Stores, subject: &Subject, from: u64, limit: usize, now: Timestamp) -> Result<Page> {
    let from = from.max(1);
    let scan = stores.metadata.blocks(subject, from, BLOCKS_MAX, BYTES_MAX).await?;
    let locate = |block| Located { subject: subject.clone(), floor: scan.floor, block };
    let blocks: Vec<_> = scan.blocks.into_iter().map(locate).collect();
    // Whoever waits for a sequence beyond the end goes on waiting for that one.
    let next = if blocks.is_empty() { from.max(scan.floor).max(scan.last + 1) } else { from.max(scan.floor) };
    let mut page = read_blocks(stores, &blocks, next, limit, now, |block| block.first).await?;
    page.is_end = page.next > scan.last;
    Ok(page)
}

/// Reads messages of all subjects that match, from the stream sequence `from` on, as [`read`] does; `next` is a stream
/// sequence, too.
///
/// # Errors
/// Those of the stores.
pub async fn read_stream(
    stores: &Stores,
    filter: &SubjectFilter,
    from: u64,
    limit: usize,
    now: Timestamp,
) -> Result<Page> {
    let limits = ScanLimits { blocks: BLOCKS_MAX, bytes: BYTES_MAX, rows: ROWS_MAX };
    let scan = stores.metadata.stream(filter, from.max(1), limits).await?;
    let mut page = read_blocks(stores, &scan.blocks, from.max(1), limit, now, |block| block.stream_first).await?;
    let end = scan.blocks.last().map_or(from, |located| located.block.stream_end());
    if page.damage.is_none() && page.next >= end {
        (page.next, page.is_end) = (scan.next.max(page.next), scan.is_end);
    }
    Ok(page)
}

/// `first` gives the first number of a block in the order that `start` and [`Page::next`] are numbers of.
async fn read_blocks(
    stores: &Stores,
    blocks: &[Located],
    start: u64,
    limit: usize,
    now: Timestamp,
    first: fn(&Block) -> u64,
) -> Result<Page> {
    let mut page = Page { messages: Vec::new(), next: start, is_end: false, damage: None };
    let mut bodies = Bodies::default();
    for (index, located) in blocks.iter().enumerate() {
        let block = &located.block;
        let end = first(block) + u64::from(block.count);
        // All of it expired: its bytes need not be fetched.
        if block.expires.is_some_and(|at| at <= now) {
            page.next = end;
            continue;
        }
        let left = limit - page.messages.len();
        let messages = match bodies.messages(stores, &blocks[index..], left, 0..block.count).await {
            Ok(Some(messages)) => messages,
            Ok(None) => {
                page.next = end;
                continue;
            }
            Err(damage @ Error::DataLoss(_)) => {
                page.damage = Some(damage);
                return Ok(page);
            }
            Err(error) => return Err(error),
        };
        for (stored, number) in messages.into_iter().zip(first(block)..) {
            if number < start || stored.sequence < located.floor {
                continue;
            }
            if page.messages.len() == limit {
                return Ok(page);
            }
            page.next = number + 1;
            if !stored.record.is_expired(now) {
                page.messages.push(stored);
            }
        }
    }
    Ok(page)
}

/// All messages of one block, its checksum verified.
///
/// # Errors
/// [`Error::DataLoss`] if the bytes are missing or differ from what was stored.
pub async fn read_block(stores: &Stores, located: &Located) -> Result<Vec<Stored>> {
    let body = Bodies::default().of(stores, std::slice::from_ref(located), 1).await;
    let body = body.map_err(|error| damaged(located, error))?;
    decode(located, body, 0..located.block.count)
}

/// Bodies fetched ahead: neighbours in a segment come with one read.
#[derive(Default)]
pub struct Bodies {
    segment: u64,
    offset: u64,
    bytes: Bytes,
}

impl Bodies {
    /// Messages of the first of these blocks, verified: those whose index in it lies in `range`. `None` if the block was
    /// removed since it was looked up.
    ///
    /// # Errors
    /// [`Error::DataLoss`] if the bytes are missing or differ from what was stored.
    pub async fn messages(
        &mut self,
        stores: &Stores,
        blocks: &[Located],
        limit: usize,
        range: Range<u32>,
    ) -> Result<Option<Vec<Stored>>> {
        let located = &blocks[0];
        let messages = match self.of(stores, blocks, limit).await {
            Ok(body) => decode(located, body, range),
            Err(error) => Err(damaged(located, error)),
        };
        match messages {
            Ok(messages) => Ok(Some(messages)),
            // A block removed since cannot be read any more; that is no damage.
            Err(Error::DataLoss(_)) if !is_still_there(stores, located).await? => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The body of the first of these blocks. If it is a slice, the slices of following blocks are read along with it:
    /// as many as lie behind it without much between, for about `limit` messages, up to [`BYTES_MAX`].
    async fn of(&mut self, stores: &Stores, blocks: &[Located], limit: usize) -> Result<Bytes> {
        let (segment, offset, len) = match &blocks[0].block.placement {
            Placement::Inline(body) => return Ok(body.clone()),
            Placement::Object { record, .. } => return Ok(record.clone()),
            Placement::Slice { segment, offset, len } | Placement::Shared { segment, offset, len, .. } => {
                (*segment, *offset, *len)
            }
        };
        if let Some(body) = self.cut(segment, offset, len) {
            return Ok(body);
        }
        let (mut end, mut messages) = (offset + len, 0);
        for Located { block, .. } in blocks {
            let Placement::Slice { segment: of_block, offset: at, len } = block.placement else { break };
            let is_neighbour = of_block == segment && (offset..=end + GAP_MAX).contains(&at);
            if !is_neighbour || at + len - offset > BYTES_MAX.max(end - offset) || messages >= limit {
                break;
            }
            end = end.max(at + len);
            messages += usize::try_from(block.count).unwrap_or(usize::MAX);
        }
        let key = PayloadKey::Segment(segment);
        let bytes = match stores.payload.read(key, offset, end - offset).await {
            // What is missing may be the neighbours': this block is tried alone.
            Err(Error::DataLoss(_)) if end > offset + len => stores.payload.read(key, offset, len).await?,
            other => other?,
        };
        (self.segment, self.offset, self.bytes) = (segment, offset, bytes);
        self.cut(segment, offset, len).ok_or_else(|| Error::DataLoss(format!("{key}: fewer bytes came than asked for")))
    }

    fn cut(&self, segment: u64, offset: u64, len: u64) -> Option<Bytes> {
        let start = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        (segment == self.segment && end <= self.bytes.len()).then(|| self.bytes.slice(start..end))
    }
}

/// Verifies a body and takes records out: those whose index lies in `range`.
fn decode(located: &Located, body: Bytes, range: Range<u32>) -> Result<Vec<Stored>> {
    let Located { subject, block, .. } = located;
    let damaged = |problem: &str| damaged(located, Error::DataLoss(problem.into()));
    let verify = |bytes: &[u8], crc| match crc32fast::hash(bytes) == crc {
        true => Ok(()),
        false => Err(damaged("its checksum does not match")),
    };
    let take = |bytes: Bytes, range: Range<u32>, is_last: bool| -> Result<Vec<Record>> {
        let untellable = |_| damaged("its records cannot be told apart");
        let mut records = record::decode(bytes);
        records.skip_records(range.start.into()).map_err(untellable)?;
        let taken = records.by_ref().take(range.len()).collect::<Result<Vec<_>, _>>().map_err(untellable)?;
        if taken.len() != range.len() || (is_last && records.next().is_some()) {
            return Err(damaged("it holds another number of records than its row says"));
        }
        Ok(taken)
    };
    let mut object = None;
    let records = match &block.placement {
        Placement::Shared { body_crc, index, record: own, .. } => {
            verify(own, block.crc)?;
            verify(&body, *body_crc)?;
            let (own, shared) = (take(own.clone(), 0..1, true)?, take(body, *index..index.saturating_add(1), false)?);
            let joined = |(own, shared): (Record, Record)| Record {
                headers: own.headers.into_iter().chain(shared.headers).collect(),
                // Or it would keep all of the other block's body in memory.
                data: Bytes::copy_from_slice(&shared.data),
                ..own
            };
            own.into_iter().zip(shared).map(joined).collect()
        }
        Placement::Inline(_) | Placement::Slice { .. } => {
            verify(&body, block.crc)?;
            take(body, range.clone(), range.end == block.count)?
        }
        Placement::Object { object: number, size, sha256, part_crcs, .. } => {
            verify(&body, block.crc)?;
            object = Some(Object {
                subject: subject.clone(),
                sequence: block.first,
                number: *number,
                size: *size,
                sha256: *sha256,
                part_crcs: part_crcs.clone(),
            });
            take(body, 0..1, true)?
        }
    };
    let stored = |(record, index): (Record, u64)| Stored {
        subject: subject.clone(),
        sequence: block.first + index,
        stream_sequence: block.stream_first + index,
        record,
        object: object.clone(),
    };
    Ok(records.into_iter().zip(u64::from(range.start)..).map(stored).collect())
}

/// Names the block in an error about its bytes.
fn damaged(located: &Located, error: Error) -> Error {
    let Error::DataLoss(problem) = error else { return error };
    let Located { subject, block, .. } = located;
    Error::DataLoss(format!(
        "block {} to {} of '{subject}' is damaged: {problem}; 'minitoolstream check' lists all damage, \
         'minitoolstream purge' or an ack beyond it passes it",
        block.first,
        block.end() - 1
    ))
}

async fn is_still_there(stores: &Stores, located: &Located) -> Result<bool> {
    let scan = stores.metadata.blocks(&located.subject, located.block.first, 1, 0).await?;
    Ok(scan.blocks.first().is_some_and(|found| found.first == located.block.first))
}

impl Object {
    /// How many parts [`read_part`](Self::read_part) can read.
    pub fn parts(&self) -> usize {
        self.part_crcs.len()
    }

    /// Bytes of each part but the last.
    pub fn part_bytes(&self) -> u64 {
        part_bytes(self.size)
    }

    /// Reads part `index`, its checksum verified.
    ///
    /// # Errors
    /// [`Error::DataLoss`] if the bytes are missing or differ from what was stored.
    pub async fn read_part(&self, stores: &Stores, index: usize) -> Result<Bytes> {
        let offset = index as u64 * self.part_bytes();
        let bytes = self.read(stores, offset, (self.size - offset).min(self.part_bytes())).await?;
        self.verify(index, &bytes)?;
        Ok(bytes)
    }

    /// Reads all of it into one piece of memory: for messages that fit the reader's limit.
    ///
    /// # Errors
    /// As for [`read_part`](Self::read_part).
    pub async fn read_all(&self, stores: &Stores) -> Result<Bytes> {
        let bytes = self.read(stores, 0, self.size).await?;
        let part = usize::try_from(self.part_bytes()).unwrap_or(usize::MAX);
        bytes.chunks(part).enumerate().try_for_each(|(index, part)| self.verify(index, part))?;
        Ok(bytes)
    }

    async fn read(&self, stores: &Stores, offset: u64, len: u64) -> Result<Bytes> {
        stores.payload.read(self.key(), offset, len).await.map_err(|error| self.damaged(error))
    }

    fn verify(&self, index: usize, part: &[u8]) -> Result<()> {
        if self.part_crcs.get(index) != Some(&crc32fast::hash(part)) {
            let problem = format!("the checksum of part {index} of {} does not match", self.key());
            return Err(self.damaged(Error::DataLoss(problem)));
        }
        Ok(())
    }

    fn damaged(&self, error: Error) -> Error {
        let Error::DataLoss(problem) = error else { return error };
        let Self { subject, sequence, .. } = self;
        Error::DataLoss(format!(
            "block {sequence} to {sequence} of '{subject}' is damaged: {problem}; 'minitoolstream check' lists all damage, \
             'minitoolstream purge' or an ack beyond it passes it"
        ))
    }

    fn key(&self) -> PayloadKey {
        PayloadKey::Object(self.number)
    }
}
