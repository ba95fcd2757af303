//! Reading one message of any size, whole or a range of it, verified and part by part.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError, Weak},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::Broker;
use crate::{
    admission::Permit,
    consumer::window,
    error::{Error, Result},
    metrics::Service,
    store::reader::{self, Page, Stored},
    types::{Subject, SubjectFilter},
};

/// Bytes given at a time.
const PIECE: usize = 1 << 20;

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

impl Broker {
    /// A message by subject and sequence.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not there (any more), [`Error::DataLoss`] if it is damaged.
    pub(crate) async fn find(&self, subject: &Subject, sequence: u64) -> Result<Stored> {
        let page = reader::read(&self.stores, subject, sequence.max(1), 1, self.clock.now()).await?;
        let there = |stored: &Stored| stored.sequence == sequence;
        match only(page, sequence, there)? {
            Some(found) => Ok(found),
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
    pub(crate) async fn find_leased(&self, lease: u64) -> Result<Stored> {
        let at = self.lessors.leased(lease).await.ok_or_else(|| {
            Error::Precondition(format!(
                "lease {lease} is over, or was given by another broker: wait until the message is delivered again"
            ))
        })?;
        let page = reader::read_stream(&self.stores, &SubjectFilter::all(), at, 1, self.clock.now()).await?;
        let found = only(page, at, |stored: &Stored| stored.stream_sequence == at)?;
        found.ok_or_else(|| Error::NotFound(format!("what lease {lease} was given for has expired or was purged")))
    }

    /// Begins to read a range of a message's data.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it begins beyond the end.
    pub(crate) fn read_data(&self, message: Stored, offset: u64, length: Option<u64>) -> Result<DataRead> {
        let size = message.size();
        if offset > size {
            let problem = format!("{offset} is beyond the end: the message has {size} bytes");
            return Err(Error::invalid("offset", problem));
        }
        let end = offset.saturating_add(length.unwrap_or(u64::MAX)).min(size);
        Ok(DataRead { broker: self.clone(), message, at: offset, end, part: None })
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
    message: Stored,
    at: u64,
    end: u64,
    /// The part that is being given, with the offset of its first byte and the permit for its bytes.
    part: Option<(u64, Bytes, Permit)>,
}

impl DataRead {
    /// Whose data it is.
    pub(crate) fn message(&self) -> &Stored {
        &self.message
    }

    /// Bytes to come.
    pub(crate) fn left(&self) -> u64 {
        self.end - self.at
    }

    /// The next bytes, verified: at most 1 MiB, with a permit for them; `None` at the end.
    ///
    /// # Errors
    /// [`Error::DataLoss`] if they are damaged, [`Error::NotFound`] if the message went meanwhile.
    pub(crate) async fn next(&mut self) -> Result<Option<(Bytes, Permit)>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let is_there = |(start, bytes, _): &(u64, Bytes, Permit)| self.at < start + bytes.len() as u64;
        if !self.part.as_ref().is_some_and(is_there) {
            self.part = None;
            self.part = Some(self.read_part().await?);
        }
        let Some((start, bytes, permit)) = &self.part else { return Ok(None) };
        let from = usize::try_from(self.at - start).unwrap_or(usize::MAX);
        let len = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(PIECE).min(bytes.len() - from);
        let piece = bytes.slice(from..from + len);
        self.at += len as u64;
        self.broker.metrics.bytes(Service::Egress, len as u64);
        Ok(Some((piece, permit.clone())))
    }

    async fn read_part(&self) -> Result<(u64, Bytes, Permit)> {
        let Some(object) = &self.message.object else {
            let data = self.message.record.data.clone();
            let permit = self.broker.admission.read(data.len()).await?;
            return Ok((0, data, permit));
        };
        let part_bytes = object.part_bytes();
        let index = self.at / part_bytes;
        let len = part_bytes.min(object.size - index * part_bytes);
        let permit = self.broker.admission.read(usize::try_from(len).unwrap_or(usize::MAX)).await?;
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        match object.read_part(&self.broker.stores, index).await {
            Ok(bytes) => Ok((index as u64 * part_bytes, bytes, permit)),
            // What was removed cannot be read any more; that is no damage.
            Err(Error::DataLoss(_)) if !self.is_still_stored().await? => Err(Error::NotFound(format!(
                "message {} of '{}' expired or was purged while it was read; {} bytes of it were",
                self.message.sequence, self.message.subject, self.at
            ))),
            Err(error) => Err(error),
        }
    }

    async fn is_still_stored(&self) -> Result<bool> {
        let Stored { subject, sequence, .. } = &self.message;
        let scan = self.broker.stores.metadata.blocks(subject, *sequence, 1, 0).await?;
        Ok(scan.blocks.first().is_some_and(|block| block.first <= *sequence))
    }
}
