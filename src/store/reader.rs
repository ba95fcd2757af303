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
    for block in &scan.blocks {
        // All of it expired: its bytes need not be fetched.
        if block.expires.is_some_and(|at| at <= now) {
            page.next = block.end();
            continue;
        }
        // A block removed since the scan cannot be read any more; that is no damage.
        let messages = match read_block(stores, subject, block).await {
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
        page.next = scan.last + 1;
    }
    Ok(page)
}

/// All messages of one block, its checksum verified.
///
/// # Errors
/// [`Error::DataLoss`] if the bytes are missing or differ from what was stored.
pub async fn read_block(stores: &Stores, subject: &Subject, block: &Block) -> Result<Vec<Stored>> {
    let damaged = |problem: &str| damage(subject, block.first, block.end() - 1, problem);
    let (body, object) = match &block.placement {
        Placement::Inline(body) => (body.clone(), None),
        Placement::Slice { segment, offset, len } => {
            let body = stores.payload.read(PayloadKey::Segment(*segment), *offset, *len).await;
            let body = body.map_err(|error| match error {
                Error::DataLoss(problem) => damaged(&problem),
                other => other,
            })?;
            (body, None)
        }
        Placement::Object { object, size, sha256, part_crcs, record } => {
            let (subject, sequence, part_crcs) = (subject.clone(), block.first, part_crcs.clone());
            (
                record.clone(),
                Some(Object { subject, sequence, number: *object, size: *size, sha256: *sha256, part_crcs }),
            )
        }
    };
    if crc32fast::hash(&body) != block.crc {
        return Err(damaged("its checksum does not match"));
    }
    let records: Result<Vec<Record>, _> = record::decode(body).collect();
    let records = records.map_err(|_| damaged("its records cannot be told apart"))?;
    if records.len() as u64 != u64::from(block.count) {
        return Err(damaged("it holds another number of records than its row says"));
    }
    let stored = |(record, sequence)| Stored { sequence, record, object: object.clone() };
    Ok(records.into_iter().zip(block.first..).map(stored).collect())
}

fn damage(subject: &Subject, first: u64, last: u64, problem: &str) -> Error {
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
        let key = PayloadKey::Object(self.number);
        let damaged = |problem: &str| damage(&self.subject, self.sequence, self.sequence, problem);
        let bytes = stores.payload.read(key, offset, (self.size - offset).min(OBJECT_PART as u64)).await;
        let bytes = bytes.map_err(|error| match error {
            Error::DataLoss(problem) => damaged(&problem),
            other => other,
        })?;
        if self.part_crcs.get(index) != Some(&crc32fast::hash(&bytes)) {
            return Err(damaged(&format!("the checksum of part {index} of {key} does not match")));
        }
        Ok(bytes)
    }

    /// Reads all of it: for messages that fit the reader's limit.
    ///
    /// # Errors
    /// As for [`read_part`](Self::read_part).
    pub async fn read_all(&self, stores: &Stores) -> Result<Bytes> {
        let mut data = bytes::BytesMut::with_capacity(usize::try_from(self.size).unwrap_or(0));
        for part in 0..self.parts() {
            data.extend_from_slice(&self.read_part(stores, part).await?);
        }
        Ok(data.freeze())
    }
}
