//! Reading one message of any size, whole or a range of it, verified and part by part.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::JoinHandle;

use super::Broker;
use crate::{
    admission::Permit,
    consumer::window,
    error::{Error, Result},
    metrics::Service,
    store::{
        SubjectRow,
        reader::{self, Page, Stored},
    },
    types::{Subject, SubjectFilter},
};

/// Parts read while one is given: a disk does more at a time than one after another.
const AHEAD: usize = 2;

/// Bytes given at a time.
const PIECE: usize = 1 << 20;

/// Messages looked at together when the last one is looked for.
const LOOK_MAX: usize = 4096;

/// Room that a page of messages may take in memory, besides one large message.
pub(crate) const PAGE_BYTES: usize = 2 << 20;

/// What a message takes in memory besides its data, about.
pub(crate) const MESSAGE_OVERHEAD: usize = 256;

/// One who gives leases.
#[async_trait]
pub(crate) trait Lessor: Send + Sync {
    /// The stream sequence of what is leased; `None` if the lease is not held.
    async fn leased(&self, lease: u64) -> Option<u64>;
}

/// Who gives leases in this process: streams tell themselves apart in the ids of their leases.
#[derive(Default)]
pub struct Lessors(Mutex<HashMap<u64, Vec<Weak<dyn Lessor>>>>);

impl Lessors {
    /// Makes the leases of a stream known, as long as it lives. `seed` is that of its [`Window`](window::Window).
    pub(crate) fn add(&self, seed: u64, lessor: Weak<dyn Lessor>) {
        let mut lessors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lessors.retain(|_, of_stream| {
            of_stream.retain(|lessor| lessor.strong_count() > 0);
            !of_stream.is_empty()
        });
        lessors.entry(window::stream_of_seed(seed)).or_default().push(lessor);
    }

    async fn leased(&self, lease: u64) -> Option<u64> {
        let of_stream = {
            let lessors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            lessors.get(&window::stream_of_lease(lease)).cloned().unwrap_or_default()
        };
        for lessor in of_stream {
            if let Some(lessor) = lessor.upgrade()
                && let Some(at) = lessor.leased(lease).await
            {
                return Some(at);
            }
        }
        None
    }
}

/// A message that was found, and a permit for the data that came with it: none for those of an object.
pub(crate) struct Found {
    pub(crate) message: Stored,
    pub(crate) permit: Permit,
}

impl Found {
    /// `permit` was taken for a whole page, before it was known how little there is.
    fn new(message: Stored, mut permit: Permit) -> Self {
        // Who waits for room for parts of an object must have none: two could wait for each other.
        permit.shrink_to(if message.object.is_some() { 0 } else { message.record.data.len() + MESSAGE_OVERHEAD });
        Self { message, permit }
    }
}

impl Broker {
    /// A message by subject and sequence.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not there (any more), [`Error::DataLoss`] if it is damaged, [`Error::Exhausted`] if there
    /// is no room to read it.
    pub(crate) async fn find(&self, subject: &Subject, sequence: u64) -> Result<Found> {
        let permit = self.admission.read(PAGE_BYTES).await?;
        let page = reader::read(&self.stores, subject, sequence.max(1), 1, self.clock.now()).await?;
        let there = |stored: &Stored| stored.sequence == sequence;
        match only(page, sequence, there)? {
            Some(found) => Ok(Found::new(found, permit)),
            None => {
                let last = self.stores.metadata.subject(subject).await?.map_or(0, |row| row.last);
                Err(Error::NotFound(format!(
                    "'{subject}' has no message {sequence}: it expired, was purged, or was never published (the last is \
                     {last})"
                )))
            }
        }
    }

    /// A message that is leased.
    ///
    /// # Errors
    /// [`Error::Precondition`] if the lease is not held; as for [`find`](Self::find).
    pub(crate) async fn find_leased(&self, lease: u64) -> Result<Found> {
        let at = self.lessors.leased(lease).await.ok_or_else(|| {
            Error::Precondition(format!(
                "lease {lease} is over, or was given by another broker: wait until the message is delivered again"
            ))
        })?;
        let permit = self.admission.read(PAGE_BYTES).await?;
        let page = reader::read_stream(&self.stores, &SubjectFilter::all(), at, 1, self.clock.now()).await?;
        let found = only(page, at, |stored: &Stored| stored.stream_sequence == at)?;
        let found = found.map(|found| Found::new(found, permit));
        found.ok_or_else(|| Error::NotFound(format!("what lease {lease} was given for has expired or was purged")))
    }

    /// The newest live message of a subject.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none; as for [`last_of`](Self::last_of).
    pub(crate) async fn find_last(&self, subject: &Subject) -> Result<Found> {
        let last = match self.stores.metadata.subject(subject).await? {
            Some(row) => self.last_of(&row).await?,
            None => None,
        };
        last.ok_or_else(|| Error::NotFound(format!("'{subject}' has no message: publish one first")))
    }

    /// The last live message of a subject: looked for backwards, as later ones may have expired.
    ///
    /// # Errors
    /// [`Error::DataLoss`] if a block on the way is damaged, [`Error::Exhausted`] if there is no room to read.
    pub(crate) async fn last_of(&self, row: &SubjectRow) -> Result<Option<Found>> {
        let permit = self.admission.read(PAGE_BYTES).await?;
        let (mut end, mut reach) = (row.last + 1, 1);
        while end > row.floor {
            let from = end.saturating_sub(reach).max(row.floor);
            let (mut next, mut found) = (from, None);
            while next < end {
                let page = reader::read(&self.stores, &row.subject, next, LOOK_MAX, self.clock.now()).await?;
                if let (Some(damage), true) = (page.damage, page.messages.is_empty()) {
                    return Err(damage);
                }
                next = page.next.max(next + 1);
                found = page.messages.into_iter().rev().find(|stored| stored.sequence < end).or(found);
            }
            if let Some(found) = found {
                return Ok(Some(Found::new(found, permit)));
            }
            (end, reach) = (from, (reach * 8).min(LOOK_MAX as u64));
        }
        Ok(None)
    }

    /// Begins to read a range of a message's data.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it begins beyond the end.
    pub(crate) fn read_data(&self, found: Found, offset: u64, length: Option<u64>) -> Result<DataRead> {
        let Found { message, permit } = found;
        let size = message.size();
        if offset > size {
            let problem = format!("{offset} is beyond the end: the message has {size} bytes");
            return Err(Error::invalid("offset", problem));
        }
        let end = offset.saturating_add(length.unwrap_or(u64::MAX)).min(size);
        Ok(DataRead {
            broker: self.clone(),
            permit: message.object.is_none().then_some(permit),
            message: Arc::new(message),
            at: offset,
            end,
            part: None,
            ahead: VecDeque::new(),
        })
    }
}

fn only(page: Page, number: u64, is_it: impl Fn(&Stored) -> bool) -> Result<Option<Stored>> {
    match (page.messages.into_iter().next(), page.damage) {
        (Some(found), _) if is_it(&found) => Ok(Some(found)),
        (_, Some(damage)) if page.next == number => Err(damage),
        _ => Ok(None),
    }
}

/// A range of a message's data, being read.
pub(crate) struct DataRead {
    broker: Broker,
    message: Arc<Stored>,
    /// For the data that came with the message, until they are its only part.
    permit: Option<Permit>,
    at: u64,
    end: u64,
    /// The part that is being given.
    part: Option<Part>,
    /// Those after it, which are read meanwhile.
    ahead: VecDeque<JoinHandle<Result<Part>>>,
}

/// A verified part, with a permit for its bytes.
struct Part {
    /// Where it begins in the data.
    start: u64,
    bytes: Bytes,
    permit: Permit,
}

impl Part {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl DataRead {
    /// Whose data it is.
    pub(crate) fn message(&self) -> &Stored {
        &self.message
    }

    /// The next bytes, verified: at most 1 MiB, with a permit for them; `None` at the end.
    ///
    /// # Errors
    /// [`Error::DataLoss`] if they are damaged, [`Error::NotFound`] if the message went meanwhile.
    pub(crate) async fn next(&mut self) -> Result<Option<(Bytes, Permit)>> {
        if self.at >= self.end {
            return Ok(None);
        }
        if self.part.as_ref().is_none_or(|part| self.at >= part.end()) {
            self.part = None;
            let part = match self.ahead.pop_front() {
                Some(ahead) => ahead.await.map_err(|_| Error::outcome_unknown())??,
                None => read_part(self.broker.clone(), self.message.clone(), self.at, self.permit.take()).await?,
            };
            self.read_ahead(part.end());
            self.part = Some(part);
        }
        let Some(Part { start, bytes, permit }) = &self.part else { return Ok(None) };
        let from = usize::try_from(self.at - start).unwrap_or(usize::MAX);
        let len = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(PIECE).min(bytes.len() - from);
        let piece = bytes.slice(from..from + len);
        self.at += len as u64;
        self.broker.metrics.bytes(Service::Egress, len as u64);
        Ok(Some((piece, permit.clone())))
    }

    /// Begins to read the parts that begin at an offset, as long as there is room for them now: nobody waits for room with a
    /// part in hand.
    fn read_ahead(&mut self, after: u64) {
        let Some(object) = &self.message.object else { return };
        while self.ahead.len() < AHEAD {
            let at = after + self.ahead.len() as u64 * object.part_bytes();
            if at >= self.end {
                return;
            }
            let len = object.part_bytes().min(object.size - at);
            let Some(permit) = self.broker.admission.try_read(usize::try_from(len).unwrap_or(usize::MAX)) else {
                return;
            };
            let part = read_part(self.broker.clone(), self.message.clone(), at, Some(permit));
            self.ahead.push_back(tokio::spawn(part));
        }
    }
}

/// Reads the part of a message's data that holds an offset, under a permit or after waiting for one.
async fn read_part(broker: Broker, message: Arc<Stored>, at: u64, permit: Option<Permit>) -> Result<Part> {
    let (start, len) = match &message.object {
        Some(object) => {
            let start = at - at % object.part_bytes();
            (start, object.part_bytes().min(object.size - start))
        }
        None => (0, message.record.data.len() as u64),
    };
    let permit = match permit {
        Some(permit) => permit,
        None => broker.admission.read(usize::try_from(len).unwrap_or(usize::MAX)).await?,
    };
    let Some(object) = &message.object else {
        return Ok(Part { start, bytes: message.record.data.clone(), permit });
    };
    let index = usize::try_from(start / object.part_bytes()).unwrap_or(usize::MAX);
    match object.read_part(&broker.stores, index).await {
        Ok(bytes) => Ok(Part { start, bytes, permit }),
        // What was removed cannot be read any more; that is no damage.
        Err(Error::DataLoss(_)) if !is_still_stored(&broker, &message).await? => Err(Error::NotFound(format!(
            "message {} of '{}' expired or was purged while it was read; {at} bytes of it were",
            message.sequence, message.subject
        ))),
        Err(error) => Err(error),
    }
}

async fn is_still_stored(broker: &Broker, Stored { subject, sequence, .. }: &Stored) -> Result<bool> {
    let scan = broker.stores.metadata.blocks(subject, *sequence, 1, 0).await?;
    Ok(scan.blocks.first().is_some_and(|block| block.first <= *sequence))
}
