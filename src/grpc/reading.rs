//! Where a read stands: in one subject by its sequences, or among several by the order of the stream.

use std::collections::HashMap;

use minitoolstream_proto::{FetchRequest, SubscribeRequest};

use super::{Broker, fetch::SUBJECTS_PAGE, validate::past_time};
use crate::{
    error::{Error, Result},
    store::reader::{self, Page},
    types::{DurableName, Subject, SubjectFilter, Timestamp},
};

/// Positions of a consumer that a read over several subjects remembers.
const POSITIONS_MAX: usize = 10_000;

/// Where a read stands.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// Which subjects.
    pub(super) filter: SubjectFilter,
    /// The next sequence of the one subject, or the next stream sequence.
    pub(super) next: u64,
    /// Set if the filter stands for one subject, and `next` is one of its sequences.
    pub(super) subject: Option<Subject>,
    /// Messages at or before the acked position of this consumer are passed over, where `next` is a stream sequence.
    after: Option<DurableName>,
    positions: HashMap<Subject, u64>,
    /// Messages accepted before are passed over.
    since: Timestamp,
}

impl Reading {
    fn of_subject(subject: Subject, next: u64) -> Self {
        let filter = SubjectFilter::one(&subject);
        Self { subject: Some(subject), ..Self::of_stream(filter, next) }
    }

    fn of_stream(filter: SubjectFilter, next: u64) -> Self {
        Self { filter, next, subject: None, after: None, positions: HashMap::new(), since: Timestamp::default() }
    }

    pub(super) async fn page(&mut self, broker: &Broker, limit: usize) -> Result<Page> {
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

impl Broker {
    /// Where a read begins: where it was asked to, and after the acked position.
    pub(super) async fn read_from(&self, request: &FetchRequest) -> Result<Reading> {
        let filter = SubjectFilter::parse("subject", &request.subject)?;
        let given =
            [request.start_sequence.is_some(), request.start_stream_sequence.is_some(), request.start_time.is_some()];
        if given.into_iter().filter(|given| *given).count() > 1 {
            let problem = "goes with no other start: give one of start_sequence, start_stream_sequence, start_time";
            return Err(Error::invalid("start_sequence", problem));
        }
        let after = durable(&request.durable_name)?;
        if let Some(time) = request.start_time {
            let since = past_time("start_time", time)?;
            let next = self.stores.metadata.stream_at(&filter, since).await?;
            return Ok(Reading { since, after, ..Reading::of_stream(filter, next) });
        }
        if let Some(next) = request.start_stream_sequence {
            return Ok(Reading { after, ..Reading::of_stream(filter, next.max(1)) });
        }
        self.read_after(filter, after, request.start_sequence).await
    }

    /// Where notifications begin.
    pub(super) async fn notified_from(&self, request: SubscribeRequest) -> Result<Reading> {
        let filter = SubjectFilter::parse("subject", &request.subject)?;
        let mut reading = self.read_after(filter, durable(&request.durable_name)?, None).await?;
        match (request.start_sequence, &reading.subject) {
            (Some(after), Some(_)) => reading.next = reading.next.max(after.saturating_add(1)),
            (Some(_), None) => return Err(sequence_of_several("start_sequence")),
            (None, _) => {}
        }
        Ok(reading)
    }

    async fn read_after(
        &self,
        filter: SubjectFilter,
        after: Option<DurableName>,
        start: Option<u64>,
    ) -> Result<Reading> {
        match (filter.subject(), start, after) {
            (Some(subject), start, after) => {
                let position = match after {
                    Some(durable) => self.stores.metadata.position(&durable, &subject).await?,
                    None => 0,
                };
                Ok(Reading::of_subject(subject, start.unwrap_or(1).max(position + 1)))
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
}

/// The name of a consumer, if one was given.
fn durable(name: &str) -> Result<Option<DurableName>> {
    if name.is_empty() { Ok(None) } else { DurableName::parse("durable_name", name).map(Some) }
}

fn sequence_of_several(field: &str) -> Error {
    let problem = "belongs to one subject: give start_stream_sequence or start_time with wildcards";
    Error::invalid(field, problem)
}
