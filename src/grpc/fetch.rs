//! Reads of stored messages, a page at a time.

use minitoolstream_proto::{FetchRequest, Message};

use super::{Broker, outlet::Outlet, reading::Reading, status::status};
use crate::{
    admission::Permit,
    broker::read::{Found, MESSAGE_OVERHEAD, PAGE_BYTES},
    error::{Error, Result},
    metrics::Service,
    store::reader::Page,
    types::{Subject, SubjectFilter},
};

/// What a client takes in one message if it does not say: below gRPC's default limit of 4 MiB, with room for headers.
const MESSAGE_BYTES_DEFAULT: u32 = 4_000_000;

/// Messages of a Fetch that names no batch size.
const BATCH_DEFAULT: usize = 10;

/// Messages read from the store at a time.
pub(super) const PAGE_MESSAGES: usize = 4096;

/// Subjects looked up at a time.
pub(super) const SUBJECTS_PAGE: usize = 1000;

/// What a reader asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// How many more messages.
    pub(super) messages: usize,
    /// The largest data it takes in one message.
    pub(super) message_bytes: usize,
}

/// The limit on data in one message, as asked for.
pub(super) fn message_bytes(asked: u32) -> usize {
    let bytes = if asked == 0 { MESSAGE_BYTES_DEFAULT } else { asked };
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// A read in progress.
pub(super) struct Fetch {
    pub(super) broker: Broker,
    pub(super) reading: Reading,
    pub(super) wanted: Wanted,
}

impl Fetch {
    /// Sends all that is wanted and there.
    pub(super) async fn send_all(&mut self, outlet: &Outlet<Message>) {
        let ended = loop {
            match self.page().await {
                Ok((messages, permit, more)) => {
                    if !messages.is_empty() && outlet.send(messages, permit).await.is_err() {
                        return;
                    }
                    if !more {
                        break None;
                    }
                }
                Err(error) => break Some(status(&error)),
            }
        };
        outlet.end(ended);
    }

    /// Reads one page; the last value is true if there may be more now.
    pub(super) async fn page(&mut self) -> Result<(Vec<Message>, Permit, bool)> {
        let broker = &self.broker;
        let permit = broker.admission.read(PAGE_BYTES).await?;
        let limit = self.wanted.messages.min(PAGE_MESSAGES);
        let page = self.reading.page(broker, limit).await?;
        let more = !page.is_end && page.messages.len() < self.wanted.messages;
        let Page { messages: found, next, damage, .. } = page;
        // Good messages before the damage are delivered first; the next page then begins with the refusal.
        if let (Some(damage), true) = (damage, found.is_empty()) {
            match &self.reading.subject {
                Some(subject) => broker.metrics.messages(Service::Egress, subject, damage.label(), 1),
                None => broker.metrics.refused(Service::Egress, damage.label(), 1),
            }
            tracing::error!(filter = %self.reading.filter, next, error = %damage, "a damaged block was refused");
            return Err(damage);
        }
        let (mut bytes, mut next, mut more, mut permit) = (0, next, more, permit);
        let mut messages: Vec<Message> = Vec::with_capacity(found.len());
        let mut counts: Vec<(Subject, u64)> = Vec::new();
        for stored in found {
            if let Some(object) =
                stored.object.as_ref().filter(|object| object.size <= self.wanted.message_bytes as u64)
            {
                // One large message is a page of its own, with a permit for all of it.
                if !messages.is_empty() {
                    let number = if self.reading.subject.is_some() { stored.sequence } else { stored.stream_sequence };
                    (next, more) = (number, true);
                    break;
                }
                let size = usize::try_from(object.size).unwrap_or(usize::MAX);
                drop(std::mem::take(&mut permit));
                permit = broker.admission.read(size).await?;
            }
            match counts.last_mut() {
                Some((subject, count)) if *subject == stored.subject => *count += 1,
                _ => counts.push((stored.subject.clone(), 1)),
            }
            let message = broker.to_wire(stored, self.wanted.message_bytes).await?;
            bytes += message.data.len();
            messages.push(message);
        }
        // Taken for a whole page before it was known how little there is.
        permit.shrink_to(bytes + messages.len() * MESSAGE_OVERHEAD);
        self.reading.next = next;
        self.wanted.messages -= messages.len();
        for (subject, count) in counts {
            broker.metrics.messages(Service::Egress, &subject, "ok", count);
        }
        broker.metrics.bytes(Service::Egress, bytes as u64);
        Ok((messages, permit, more && self.wanted.messages > 0))
    }
}

impl Broker {
    pub(super) fn check_fetch(&self, request: &FetchRequest) -> Result<Wanted> {
        let messages = match usize::try_from(request.batch_size) {
            Ok(0) if request.follow => usize::MAX,
            Ok(0) => BATCH_DEFAULT,
            Ok(size) if request.follow || size <= self.config.batch_max => size,
            _ => {
                let problem = format!("{} is out of range: 1 to {}", request.batch_size, self.config.batch_max);
                return Err(Error::invalid("batch_size", problem));
            }
        };
        Ok(Wanted { messages, message_bytes: message_bytes(request.max_message_bytes) })
    }

    /// Sends the last message of each subject that matches.
    pub(super) async fn send_last(
        &self,
        filter: &SubjectFilter,
        message_bytes: usize,
        outlet: &Outlet<Message>,
    ) -> Result<()> {
        let mut after = String::new();
        loop {
            let rows = self.stores.metadata.subjects(filter, &after, SUBJECTS_PAGE).await?;
            for row in &rows {
                let Some(Found { message: stored, mut permit }) = self.last_of(row).await? else { continue };
                if let Some(object) = &stored.object {
                    let sent = usize::try_from(object.size).ok().filter(|size| *size <= message_bytes).unwrap_or(0);
                    permit = self.admission.read(sent + MESSAGE_OVERHEAD).await?;
                }
                let message = self.to_wire(stored, message_bytes).await?;
                permit.shrink_to(message.data.len() + MESSAGE_OVERHEAD);
                if outlet.send(vec![message], permit).await.is_err() {
                    return Ok(());
                }
            }
            match rows.last() {
                Some(row) if rows.len() == SUBJECTS_PAGE => row.subject.as_str().clone_into(&mut after),
                _ => return Ok(()),
            }
        }
    }
}
