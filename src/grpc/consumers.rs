//! Looking after consumers over gRPC.

use std::time::Duration;

use minitoolstream_proto::{
    BackOff, ConsumerInfo, ConsumerRequest, ConsumerSettings, CreateConsumerRequest, ListConsumersRequest,
    ListConsumersResponse, RedriveRequest, RedriveResponse, ResetConsumerRequest, Start as WireStart,
    UpdateConsumerRequest, consumer_service_server::ConsumerService, start::From,
};
use tonic::{Request, Response, Status};

use super::{
    Broker,
    egress::wire_time,
    status::{status, wire_duration},
    validate,
};
use crate::{
    block::letter::ORIGINAL_SUBJECT,
    consumer::{Patch, Settings, Start, WAIT_MAX},
    error::{Error, Result},
    store::{ConsumerChange, ConsumerView, Move, NewConsumer, reader},
    types::{ConsumerName, Subject, SubjectFilter, Timestamp},
};

const PAGE_DEFAULT: u32 = 100;
const PAGE_MAX: u32 = 1_000;

/// Dead letters of one call.
const REDRIVE_MAX: usize = 10_000;

/// Letters looked at together.
const REDRIVE_PAGE: usize = 500;

/// Looking after consumers over gRPC.
#[derive(Clone)]
pub(super) struct Consumers(pub(super) Broker);

/// A consumer's name given by a user.
pub(super) fn name(field: &str, name: &str) -> Result<ConsumerName> {
    let name = ConsumerName::parse(field, name)?;
    if name.as_str().starts_with('$') {
        let problem = format!("'{name}' begins with '$', which is reserved for the broker: give another");
        return Err(Error::invalid(field, problem));
    }
    Ok(name)
}

/// Settings as a user gave them.
pub(super) fn patch(settings: &ConsumerSettings, now: Timestamp) -> Result<Patch> {
    let wait = |field: &str, given: &Option<prost_types::Duration>, max| {
        given.map(|given| validate::duration(field, given, [Duration::ZERO, max])).transpose()
    };
    let back_off = settings.back_off.as_ref().map(|list| {
        let delay =
            |delay: &prost_types::Duration| validate::duration("settings.back_off", *delay, [Duration::ZERO, WAIT_MAX]);
        list.delays.iter().map(delay).collect::<Result<Vec<_>>>()
    });
    let filter = match settings.filter.as_str() {
        "" => None,
        filter => Some(SubjectFilter::parse("settings.filter", filter)?),
    };
    let dead_letters = settings.dead_letter_subject.as_deref();
    Ok(Patch {
        filter,
        start: settings.start.as_ref().map(|given| start(given, now)).transpose()?,
        ack_wait: wait("settings.ack_wait", &settings.ack_wait, WAIT_MAX)?,
        max_deliver: settings.max_deliver,
        max_ack_pending: settings.max_ack_pending.map(|max| usize::try_from(max).unwrap_or(usize::MAX)),
        back_off: back_off.transpose()?,
        dead_letters: dead_letters.map(|name| Subject::parse("settings.dead_letter_subject", name)).transpose()?,
        dead_letter_ttl: wait("settings.dead_letter_ttl", &settings.dead_letter_ttl, TTL_MAX)?,
    })
}

/// Longest life of a dead letter.
const TTL_MAX: Duration = Duration::from_secs(3650 * 86_400);

fn start(start: &WireStart, now: Timestamp) -> Result<Start> {
    match &start.from {
        None | Some(From::All(())) => Ok(Start::All),
        Some(From::New(())) => Ok(Start::New),
        Some(From::Sequence(sequence)) => Ok(Start::Sequence((*sequence).max(1))),
        Some(From::StreamSequence(sequence)) => Ok(Start::StreamSequence((*sequence).max(1))),
        Some(From::Time(time)) => {
            let time = validate::past_time("settings.start.time", *time)?;
            if time > now {
                return Err(Error::invalid("settings.start.time", "lies ahead: give a time that has passed, or new"));
            }
            Ok(Start::at(time))
        }
    }
}

#[tonic::async_trait]
impl ConsumerService for Consumers {
    async fn create_consumer(&self, request: Request<CreateConsumerRequest>) -> Result<Response<ConsumerInfo>, Status> {
        answer(self.create(request.into_inner()).await)
    }

    async fn get_consumer(&self, request: Request<ConsumerRequest>) -> Result<Response<ConsumerInfo>, Status> {
        answer(self.get(&request.get_ref().name).await)
    }

    async fn list_consumers(
        &self,
        request: Request<ListConsumersRequest>,
    ) -> Result<Response<ListConsumersResponse>, Status> {
        self.list(request.into_inner()).await.map(Response::new).map_err(|error| status(&error))
    }

    async fn update_consumer(&self, request: Request<UpdateConsumerRequest>) -> Result<Response<ConsumerInfo>, Status> {
        let request = request.into_inner();
        let patch = patch(&request.settings.unwrap_or_default(), self.0.clock.now()).map_err(|error| status(&error))?;
        answer(self.change(&request.name, ConsumerChange::Update(patch)).await)
    }

    async fn pause_consumer(&self, request: Request<ConsumerRequest>) -> Result<Response<ConsumerInfo>, Status> {
        answer(self.change(&request.get_ref().name, ConsumerChange::Pause(true)).await)
    }

    async fn resume_consumer(&self, request: Request<ConsumerRequest>) -> Result<Response<ConsumerInfo>, Status> {
        answer(self.change(&request.get_ref().name, ConsumerChange::Pause(false)).await)
    }

    async fn reset_consumer(&self, request: Request<ResetConsumerRequest>) -> Result<Response<ConsumerInfo>, Status> {
        let request = request.into_inner();
        let now = self.0.clock.now();
        let start =
            request.start.as_ref().map(|given| start(given, now)).transpose().map_err(|error| status(&error))?;
        answer(self.change(&request.name, ConsumerChange::Reset(start)).await)
    }

    async fn delete_consumer(&self, request: Request<ConsumerRequest>) -> Result<Response<()>, Status> {
        let deleted = self.change(&request.get_ref().name, ConsumerChange::Delete).await;
        deleted.map(|_| Response::new(())).map_err(|error| status(&error))
    }

    async fn redrive(&self, request: Request<RedriveRequest>) -> Result<Response<RedriveResponse>, Status> {
        self.redrive_letters(request.into_inner()).await.map(Response::new).map_err(|error| status(&error))
    }
}

impl Consumers {
    async fn create(&self, request: CreateConsumerRequest) -> Result<ConsumerView> {
        let new = NewConsumer {
            name: name("name", &request.name)?,
            is_durable: true,
            patch: patch(&request.settings.unwrap_or_default(), self.0.clock.now())?,
            dead_letter_ttl: self.0.config.dead_letter_ttl,
            consumers_max: self.0.config.consumers,
            now: self.0.clock.now(),
        };
        self.0.stores.metadata.create_consumer(new).await
    }

    async fn get(&self, given: &str) -> Result<ConsumerView> {
        let name = name("name", given)?;
        let found = self.0.stores.metadata.consumer(&name).await?;
        found.ok_or_else(|| {
            Error::NotFound(format!("there is no consumer '{name}': see 'minitoolstream consumer list' for the names"))
        })
    }

    async fn list(&self, request: ListConsumersRequest) -> Result<ListConsumersResponse> {
        let page_size = if request.page_size == 0 { PAGE_DEFAULT } else { request.page_size.min(PAGE_MAX) };
        let limit = usize::try_from(page_size).unwrap_or(usize::MAX);
        let views = self.0.stores.metadata.consumers(&request.page_token, limit).await?;
        let next_page_token = match views.last() {
            Some(last) if views.len() == limit => last.name.to_string(),
            _ => String::new(),
        };
        Ok(ListConsumersResponse { consumers: views.iter().map(info).collect(), next_page_token })
    }

    async fn change(&self, given: &str, change: ConsumerChange) -> Result<ConsumerView> {
        let name = name("name", given)?;
        let is_deletion = matches!(change, ConsumerChange::Delete);
        let view = self.0.stores.metadata.change_consumer(&name, change).await?;
        if is_deletion {
            self.0.rings.end(&name);
        } else {
            // Its workers look at what it is now.
            self.0.rings.ring(&name, true, None, self.0.clock.now());
        }
        Ok(view)
    }

    async fn redrive_letters(&self, request: RedriveRequest) -> Result<RedriveResponse> {
        let from = Subject::parse("subject", &request.subject)?;
        let to = match request.to_subject.as_str() {
            "" => None,
            subject => Some(Subject::parse("to_subject", subject)?),
        };
        if let Some(to) = to.as_ref().filter(|to| to.is_reserved() || **to == from) {
            return Err(Error::invalid("to_subject", format!("'{to}' holds dead letters itself: give another")));
        }
        if request.sequences.len() > REDRIVE_MAX {
            let problem = format!("are {}: at most {REDRIVE_MAX} are allowed", request.sequences.len());
            return Err(Error::invalid("sequences", problem));
        }
        let mut response = RedriveResponse::default();
        if !request.sequences.is_empty() {
            for sequence in request.sequences {
                match self.redrive_one(&from, sequence, to.as_ref()).await? {
                    Some(()) => response.redriven += 1,
                    None => response.not_found.push(sequence),
                }
            }
            return Ok(response);
        }
        // Resolved once: what is dead-lettered meanwhile, perhaps again, stays.
        let last = self.0.stores.metadata.subject(&from).await?.map_or(0, |row| row.last);
        let mut next = 1;
        while next <= last {
            let page = reader::read(&self.0.stores, &from, next, REDRIVE_PAGE, self.0.clock.now()).await?;
            for letter in page.messages.iter().filter(|letter| letter.sequence <= last) {
                match self.redrive_one(&from, letter.sequence, to.as_ref()).await? {
                    Some(()) => response.redriven += 1,
                    None => response.not_found.push(letter.sequence),
                }
            }
            next = page.next.max(next + 1);
            if page.damage.is_some() {
                // A letter is alone in its block: the others can be moved.
                response.not_found.push(page.next);
                next = page.next + 1;
            }
        }
        Ok(response)
    }

    /// Publishes one letter to where it came from, or elsewhere, and removes it; `None` if there is no such letter.
    async fn redrive_one(&self, from: &Subject, sequence: u64, to: Option<&Subject>) -> Result<Option<()>> {
        let now = self.0.clock.now();
        let to = match to {
            Some(to) => to.clone(),
            None => {
                let page = reader::read(&self.0.stores, from, sequence, 1, now).await?;
                let Some(letter) = page.messages.iter().find(|letter| letter.sequence == sequence) else {
                    return Ok(None);
                };
                let origin = letter.record.headers.iter().find(|(name, _)| name == ORIGINAL_SUBJECT);
                let Some((_, origin)) = origin else { return Ok(None) };
                Subject::parse("subject", origin)?
            }
        };
        let expires = validate::default_ttl(&to, &self.0.config).map(|ttl| now.after(ttl));
        let message = Move { from: from.clone(), sequence, to: to.clone(), expires };
        let (stores, heads) = (self.0.stores.clone(), self.0.heads.clone());
        // Transaction and head go together, whatever becomes of the caller.
        let moved = tokio::spawn(async move {
            let moved = stores.metadata.move_message(message, now).await?;
            if let Some(sequence) = moved {
                heads.raise(&to, sequence);
            }
            Ok(moved.map(drop))
        });
        moved.await.unwrap_or_else(|_| Err(Error::outcome_unknown()))
    }
}

fn answer(view: Result<ConsumerView>) -> Result<Response<ConsumerInfo>, Status> {
    view.map(|view| Response::new(info(&view))).map_err(|error| status(&error))
}

fn info(view: &ConsumerView) -> ConsumerInfo {
    ConsumerInfo {
        name: view.name.to_string(),
        settings: Some(wire_settings(&view.settings)),
        created: Some(wire_time(view.created.0)),
        paused: view.paused,
        workers: u32::try_from(view.workers).unwrap_or(u32::MAX),
        cursor: view.cursor,
        ack_floor: view.ack_floor,
        pending: view.lag.pending,
        unacked: view.lag.unacked,
        redeliverable: view.lag.redeliverable,
        passed: view.counts.passed,
        acked: view.counts.acked,
        dead_lettered: view.counts.dead_lettered,
        dropped: view.counts.dropped,
        expired: view.counts.expired,
        deliveries: view.counts.deliveries,
        redeliveries: view.counts.redeliveries,
    }
}

fn wire_settings(settings: &Settings) -> ConsumerSettings {
    ConsumerSettings {
        filter: settings.filter.to_string(),
        start: Some(WireStart { from: Some(wire_start(settings.start)) }),
        ack_wait: Some(wire_duration(settings.ack_wait)),
        max_deliver: Some(settings.max_deliver),
        max_ack_pending: Some(u32::try_from(settings.max_ack_pending).unwrap_or(u32::MAX)),
        back_off: Some(BackOff { delays: settings.back_off.iter().copied().map(wire_duration).collect() }),
        dead_letter_subject: settings.dead_letters.as_ref().map(Subject::to_string),
        dead_letter_ttl: Some(wire_duration(settings.dead_letter_ttl)),
    }
}

fn wire_start(start: Start) -> From {
    match start {
        Start::All => From::All(()),
        Start::New => From::New(()),
        Start::Sequence(sequence) => From::Sequence(sequence),
        Start::StreamSequence(sequence) => From::StreamSequence(sequence),
        Start::Time(time) => From::Time(wire_time(Timestamp(time).0)),
    }
}
