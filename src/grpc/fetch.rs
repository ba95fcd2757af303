//! Reads of stored messages, a page at a time: of one subject by its sequences, or of several by the order of the stream.

use std::collections::HashMap;

use minitoolstream_proto::{FetchRequest, Message, SubscribeRequest};

use super::{
    Broker,
    outlet::Outlet,
    status::{label, status},
    validate::past_time,
};
use crate::{
    admission::Permit,
    error::{Error, Result},
    metrics::Service,
    store::{
        SubjectRow,
        reader::{self, Page, Stored},
    },
    types::{DurableName, Subject, SubjectFilter, Timestamp},
};

/// What a client takes in one message if it does not say: below gRPC's default limit of 4 MiB, with room for headers.
const MESSAGE_BYTES_DEFAULT: u32 = 4_000_000;

/// Messages of a Fetch that names no batch size.
const BATCH_DEFAULT: usize = 10;

/// Messages read from the store at a time.
pub(super) const PAGE_MESSAGES: usize = 4096;

/// Room that a page may take in memory, besides one large message.
pub(super) const PAGE_BYTES: usize = 2 << 20;

/// What a message takes in memory besides its data, about.
pub(super) const MESSAGE_OVERHEAD: usize = 256;

/// Subjects looked up at a time.
const SUBJECTS_PAGE: usize = 1000;

/// Positions of a consumer that a read over several subjects remembers.
const POSITIONS_MAX: usize = 10_000;

/// What a reader asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// How many more messages.
    pub(super) messages: usize,
    /// The largest data it takes in one message.
    pub(super) message_bytes: usize,
}

/// Where a read stands.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// Which subjects.
    pub(super) filter: SubjectFilter,
    /// The next sequence of the one subject, or the next stream sequence.
    pub(super) next: u64,
    /// Set if the filter stands for one subject, and `next` is one of its sequences.
    pub(super) subject: Option<Subject>,
    /// Messages at or before the acked position of this consumer are passed over, in a read of several subjects.
    after: Option<DurableName>,
    positions: HashMap<Subject, u64>,
    /// Messages accepted before are passed over.
    since: Timestamp,
}

/// The limit on data in one message, as asked for.
pub(super) fn message_bytes(asked: u32) -> usize {
    let bytes = if asked == 0 { MESSAGE_BYTES_DEFAULT } else { asked };
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl Reading {
    fn of_subject(subject: Subject, next: u64) -> Self {
        let filter = SubjectFilter::one(&subject);
        Self { subject: Some(subject), ..Self::of_stream(filter, next) }
    }

    fn of_stream(filter: SubjectFilter, next: u64) -> Self {
        Self { filter, next, subject: None, after: None, positions: HashMap::new(), since: Timestamp::default() }
    }

    async fn page(&mut self, broker: &Broker, limit: usize) -> Result<Page> {
        let (stores, now) = (&broker.stores, broker.clock.now());
        let mut page = match &self.subject {
            Some(subject) => reader::read(stores, subject, self.next, limit, now).await?,
            None => reader::read_stream(stores, &self.filter, self.next, limit, now).await?,
        };
        if self.since > Timestamp::default() {
            // Found by block: the first may hold earlier ones.
            page.messages.retain(|stored| stored.record.created >= self.since);
        }
        if self.after.is_some() {
            let mut kept = Vec::with_capacity(page.messages.len());
            for stored in page.messages {
                if self.is_after(broker, &stored.subject, stored.sequence).await? {
                    kept.push(stored);
                }
            }
            page.messages = kept;
        }
        Ok(page)
    }

    /// True if a sequence lies beyond what the consumer acked in its subject.
    pub(super) async fn is_after(&mut self, broker: &Broker, subject: &Subject, sequence: u64) -> Result<bool> {
        match self.after.clone() {
            Some(durable) => Ok(sequence > self.position(broker, &durable, subject).await?),
            None => Ok(true),
        }
    }

    async fn position(&mut self, broker: &Broker, durable: &DurableName, subject: &Subject) -> Result<u64> {
        if let Some(position) = self.positions.get(subject) {
            return Ok(*position);
        }
        let position = broker.stores.metadata.position(durable, subject).await?;
        if self.positions.len() >= POSITIONS_MAX {
            self.positions.clear();
        }
        self.positions.insert(subject.clone(), position);
        Ok(position)
    }
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
                Some(subject) => broker.metrics.messages(Service::Egress, subject, label(&damage), 1),
                None => broker.metrics.refused(Service::Egress, label(&damage), 1),
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

    /// Where a read begins: where it was asked to, or after the acked position.
    pub(super) async fn read_from(&self, request: &FetchRequest) -> Result<Reading> {
        let filter = SubjectFilter::parse("subject", &request.subject)?;
        let given =
            [request.start_sequence.is_some(), request.start_stream_sequence.is_some(), request.start_time.is_some()];
        if given.into_iter().filter(|given| *given).count() > 1 {
            let problem = "goes with no other start: give one of start_sequence, start_stream_sequence, start_time";
            return Err(Error::invalid("start_sequence", problem));
        }
        if let Some(time) = request.start_time {
            let since = past_time("start_time", time)?;
            let next = self.stores.metadata.stream_at(&filter, since).await?;
            return Ok(Reading { since, ..Reading::of_stream(filter, next) });
        }
        if let Some(next) = request.start_stream_sequence {
            return Ok(Reading::of_stream(filter, next.max(1)));
        }
        let start = request.start_sequence.map(|start| start.max(1));
        self.read_after(filter, &request.durable_name, start).await
    }

    /// Where notifications begin.
    pub(super) async fn notified_from(&self, request: SubscribeRequest) -> Result<Reading> {
        let filter = SubjectFilter::parse("subject", &request.subject)?;
        let mut reading = self.read_after(filter, &request.durable_name, None).await?;
        match (request.start_sequence, &reading.subject) {
            (Some(after), Some(_)) => reading.next = reading.next.max(after.saturating_add(1)),
            (Some(_), None) => return Err(sequence_of_several("start_sequence")),
            (None, _) => {}
        }
        Ok(reading)
    }

    async fn read_after(&self, filter: SubjectFilter, durable: &str, start: Option<u64>) -> Result<Reading> {
        let durable = match durable {
            "" => None,
            name => Some(DurableName::parse("durable_name", name)?),
        };
        match (filter.subject(), start, durable) {
            (Some(subject), Some(start), _) => Ok(Reading::of_subject(subject, start)),
            (Some(subject), None, None) => Ok(Reading::of_subject(subject, 1)),
            (Some(subject), None, Some(durable)) => {
                let position = self.stores.metadata.position(&durable, &subject).await?;
                Ok(Reading::of_subject(subject, position + 1))
            }
            (None, Some(_), _) => Err(sequence_of_several("start_sequence")),
            (None, None, None) => Ok(Reading::of_stream(filter, 1)),
            (None, None, Some(durable)) => {
                let next = self.first_unacked(&filter, &durable).await?;
                Ok(Reading { after: Some(durable), ..Reading::of_stream(filter, next) })
            }
        }
    }

    /// The lowest stream sequence behind a consumer's positions in all subjects that match. Looks at each of them.
    async fn first_unacked(&self, filter: &SubjectFilter, durable: &DurableName) -> Result<u64> {
        let (metadata, mut after) = (&self.stores.metadata, String::new());
        // If all is acked: what comes next.
        let mut first = metadata.stream_at(filter, Timestamp(u64::MAX)).await?;
        loop {
            let rows = metadata.subjects(filter, &after, SUBJECTS_PAGE).await?;
            for row in &rows {
                let position = metadata.position(durable, &row.subject).await?;
                let scan = metadata.blocks(&row.subject, position + 1, 1, 0).await?;
                if let Some(block) = scan.blocks.first() {
                    let skipped = (position + 1).saturating_sub(block.first);
                    first = first.min(block.stream_first + skipped);
                }
            }
            match rows.last() {
                Some(row) if rows.len() == SUBJECTS_PAGE => row.subject.as_str().clone_into(&mut after),
                _ => return Ok(first),
            }
        }
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
                let Some(stored) = self.last_of(row).await? else { continue };
                let size = stored.object.as_ref().map_or(stored.record.data.len() as u64, |object| object.size);
                let sent = usize::try_from(size).ok().filter(|size| *size <= message_bytes).unwrap_or(0);
                let permit = self.admission.read(sent + MESSAGE_OVERHEAD).await?;
                let message = self.to_wire(stored, message_bytes).await?;
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

    /// The last live message of a subject: looked for backwards, as later ones may have expired.
    async fn last_of(&self, row: &SubjectRow) -> Result<Option<Stored>> {
        let (mut end, mut reach) = (row.last + 1, 1);
        while end > row.floor {
            let from = end.saturating_sub(reach).max(row.floor);
            let (mut next, mut found) = (from, None);
            while next < end {
                let page = reader::read(&self.stores, &row.subject, next, PAGE_MESSAGES, self.clock.now()).await?;
                if let (Some(damage), true) = (page.damage, page.messages.is_empty()) {
                    return Err(damage);
                }
                next = page.next.max(next + 1);
                found = page.messages.into_iter().rev().find(|stored| stored.sequence < end).or(found);
            }
            if found.is_some() {
                return Ok(found);
            }
            (end, reach) = (from, (reach * 8).min(PAGE_MESSAGES as u64));
        }
        Ok(None)
    }
}

fn sequence_of_several(field: &str) -> Error {
    let problem = "belongs to one subject: give start_stream_sequence or start_time with wildcards";
    Error::invalid(field, problem)
}
