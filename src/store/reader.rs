//! From sequences back to messages.

use bytes::Bytes;

use super::Stores;
use crate::{
    block::{
        Block, OBJECT_PART, PayloadKey, Placement,
        record::{self, Record},
    },
    error::{Error, Result},
    types::{Subject, Timestamp},
};

/// Most blocks looked up at a time.
const BLOCKS_MAX: usize = 64;

/// Slices with at most this many bytes between them are read together.
const GAP_MAX: u64 = 64 << 10;

/// Body bytes held in memory at a time by one read.
const BYTES_MAX: u64 = 1 << 20;

/// A message as it is read.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its sequence in the subject.
    pub sequence: u64,
    /// Times, headers and, unless it is an object, data.
    pub record: Record,
    /// Set if the data is an object.
    pub object: Option<Object>,
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
    /// The subject's last sequence when this step was read.
    pub last: u64,
    /// Set if the block at `next` is damaged: messages before it are good, it is not.
    pub damage: Option<Error>,
}

impl Page {
    /// True if nothing was left to read.
    pub fn is_end(&self) -> bool {
        self.next > self.last
    }
}

/// Reads messages of a subject from `from` on: at most `limit`, and about [`BYTES_MAX`] bytes of bodies. Expired and
/// purged ones are passed over (P5), damaged blocks are refused (P7).
///
/// # Errors
/// Those of the stores.
pub async fn read(stores: &Stores, subject: &Subject, from: u64, limit: usize, now: Timestamp) -> Result<Page> {
    let from = from.max(1);
    let scan = stores.metadata.blocks(subject, from, BLOCKS_MAX, BYTES_MAX).await?;
    let start = from.max(scan.floor);
    let mut page = Page { messages: Vec::new(), next: start, last: scan.last, damage: None };
    let mut bodies = Bodies::default();
    for (index, block) in scan.blocks.iter().enumerate() {
        // All of it expired: its bytes need not be fetched.
        if block.expires.is_some_and(|at| at <= now) {
            page.next = block.end();
            continue;
        }
        // A block removed since the scan cannot be read any more; that is no damage.
        let left = limit - page.messages.len();
        let messages = match bodies.messages(stores, subject, &scan.blocks[index..], left).await {
            Ok(messages) => messages,
            Err(damage @ Error::DataLoss(_)) if is_still_there(stores, subject, block).await? => {
                page.damage = Some(damage);
                return Ok(page);
            }
            Err(Error::DataLoss(_)) => {
                page.next = block.end();
                continue;
            }
            Err(error) => return Err(error),
        };
        for stored in messages {
            if stored.sequence < start {
                continue;
            }
            if page.messages.len() == limit {
                return Ok(page);
            }
            page.next = stored.sequence + 1;
            if !stored.record.is_expired(now) {
                page.messages.push(stored);
            }
        }
    }
    if scan.blocks.is_empty() {
        // Whoever waits for a sequence beyond the end goes on waiting for that one.
        page.next = start.max(scan.last + 1);
    }
    Ok(page)
}

/// All messages of one block, its checksum verified.
///
/// # Errors
/// [`Error::DataLoss`] if the bytes are missing or differ from what was stored.
pub async fn read_block(stores: &Stores, subject: &Subject, block: &Block) -> Result<Vec<Stored>> {
    Bodies::default().messages(stores, subject, std::slice::from_ref(block), 1).await
}

/// Bodies fetched ahead: neighbours in a segment come with one read.
#[derive(Default)]
struct Bodies {
    segment: u64,
    offset: u64,
    bytes: Bytes,
}

impl Bodies {
    /// The messages of the first of these blocks, verified.
    async fn messages(
        &mut self,
        stores: &Stores,
        subject: &Subject,
        blocks: &[Block],
        limit: usize,
    ) -> Result<Vec<Stored>> {
        match self.of(stores, blocks, limit).await {
            Ok(body) => decode(subject, &blocks[0], body),
            Err(error) => Err(damaged(subject, blocks[0].first, blocks[0].end() - 1, error)),
        }
    }

    /// The body of the first of these blocks. If it is a slice, the slices of following blocks are read along with it:
    /// as many as lie behind it without much between, for about `limit` messages, up to [`BYTES_MAX`].
    async fn of(&mut self, stores: &Stores, blocks: &[Block], limit: usize) -> Result<Bytes> {
        let (segment, offset, len) = match &blocks[0].placement {
            Placement::Inline(body) => return Ok(body.clone()),
            Placement::Object { record, .. } => return Ok(record.clone()),
            Placement::Slice { segment, offset, len } => (*segment, *offset, *len),
        };
        if let Some(body) = self.cut(segment, offset, len) {
            return Ok(body);
        }
        let (mut end, mut messages) = (offset + len, 0);
        for block in blocks {
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

/// Verifies a body and takes its records out.
fn decode(subject: &Subject, block: &Block, body: Bytes) -> Result<Vec<Stored>> {
    let damaged = |problem: &str| damaged(subject, block.first, block.end() - 1, Error::DataLoss(problem.into()));
    if crc32fast::hash(&body) != block.crc {
        return Err(damaged("its checksum does not match"));
    }
    let records: Result<Vec<Record>, _> = record::decode(body).collect();
    let records = records.map_err(|_| damaged("its records cannot be told apart"))?;
    if records.len() as u64 != u64::from(block.count) {
        return Err(damaged("it holds another number of records than its row says"));
    }
    let object = match &block.placement {
        Placement::Object { object, size, sha256, part_crcs, .. } => Some(Object {
            subject: subject.clone(),
            sequence: block.first,
            number: *object,
            size: *size,
            sha256: *sha256,
            part_crcs: part_crcs.clone(),
        }),
        Placement::Inline(_) | Placement::Slice { .. } => None,
    };
    let stored = |(record, sequence)| Stored { sequence, record, object: object.clone() };
    Ok(records.into_iter().zip(block.first..).map(stored).collect())
}

/// Names the block in an error about its bytes.
fn damaged(subject: &Subject, first: u64, last: u64, error: Error) -> Error {
    let Error::DataLoss(problem) = error else { return error };
    Error::DataLoss(format!(
        "block {first} to {last} of '{subject}' is damaged: {problem}; 'minitoolstream check' lists all damage, \
         'minitoolstream purge' or an ack beyond it passes it"
    ))
}

async fn is_still_there(stores: &Stores, subject: &Subject, block: &Block) -> Result<bool> {
    let scan = stores.metadata.blocks(subject, block.first, 1, 0).await?;
    Ok(scan.blocks.first().is_some_and(|found| found.first == block.first))
}

impl Object {
    /// How many parts [`read_part`](Self::read_part) can read.
    pub fn parts(&self) -> usize {
        self.part_crcs.len()
    }

    /// Reads part `index`, its checksum verified.
    ///
    /// # Errors
    /// [`Error::DataLoss`] if the bytes are missing or differ from what was stored.
    pub async fn read_part(&self, stores: &Stores, index: usize) -> Result<Bytes> {
        let offset = (index * OBJECT_PART) as u64;
        let bytes = self.read(stores, offset, (self.size - offset).min(OBJECT_PART as u64)).await?;
        self.verify(index, &bytes)?;
        Ok(bytes)
    }

    /// Reads all of it into one piece of memory: for messages that fit the reader's limit.
    ///
    /// # Errors
    /// As for [`read_part`](Self::read_part).
    pub async fn read_all(&self, stores: &Stores) -> Result<Bytes> {
        let bytes = self.read(stores, 0, self.size).await?;
        bytes.chunks(OBJECT_PART).enumerate().try_for_each(|(index, part)| self.verify(index, part))?;
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
        damaged(&self.subject, self.sequence, self.sequence, error)
    }

    fn key(&self) -> PayloadKey {
        PayloadKey::Object(self.number)
    }
}
