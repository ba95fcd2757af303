use std::{pin::Pin, time::Instant};

use minitoolstream_proto::{
    AckRequest, AckResponse, Detached, FetchRequest, GetLastSequenceRequest, GetLastSequenceResponse, Message,
    Notification, ReadMessageRequest, ReadMessageResponse, SubscribeRequest, egress_service_server::EgressService,
};
use tokio::sync::oneshot;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::{
    Broker, follow,
    ingress::name_request,
    outlet::outlet,
    status::{label, status},
};
use crate::{
    actors::storage::MovePosition,
    error::{Error, Result},
    metrics::Service,
    store::{
        Ack,
        reader::{self, Page, Stored},
    },
    types::{DurableName, RequestId, Subject},
};

/// What a client takes in one message if it does not say: below gRPC's default limit of 4 MiB, with room for headers.
const MESSAGE_BYTES_DEFAULT: u32 = 4_000_000;

/// Messages of a Fetch that names no batch size.
const BATCH_DEFAULT: usize = 10;

/// Messages read from the store at a time.
pub(super) const PAGE_MESSAGES: usize = 4096;

/// Room that a page may take in memory, besides one large message.
const PAGE_BYTES: usize = 2 << 20;

/// What a message takes in memory besides its data, about.
const MESSAGE_OVERHEAD: usize = 256;

/// Consuming over gRPC.
#[derive(Clone)]
pub(super) struct Egress(pub(super) Broker);

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl EgressService for Egress {
    type SubscribeStream = Responses<Notification>;
    type FetchStream = Responses<Message>;
    type ReadMessageStream = Responses<ReadMessageResponse>;
    type ConsumeStream = Responses<minitoolstream_proto::ConsumeResponse>;
    type FetchLastStream = Responses<Message>;

    async fn consume(&self, _: Request<tonic::Streaming<minitoolstream_proto::ConsumeRequest>>) -> Result<Response<Self::ConsumeStream>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn fetch_last(&self, _: Request<minitoolstream_proto::FetchLastRequest>) -> Result<Response<Responses<Message>>, Status> {
        Err(Status::unimplemented(""))
    }

    #[tracing::instrument(skip_all, fields(request, client_request))]
    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Responses<Notification>>, Status> {
        name_request(&request);
        let request = request.into_inner();
        let started = self.0.start_of(&request.subject, &request.durable_name, None).await;
        let (subject, position) = started.map_err(|error| status(&error))?;
        let next = position.max(request.start_sequence.map_or(1, |after| after.saturating_add(1)));
        let stream = follow::notifications(&self.0, &subject, next).map_err(|error| status(&error))?;
        Ok(Response::new(Box::pin(stream)))
    }

    #[tracing::instrument(skip_all, fields(request, client_request))]
    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Responses<Message>>, Status> {
        let started = Instant::now();
        name_request(&request);
        let request = request.into_inner();
        let wanted = self.0.check_fetch(&request).map_err(|error| status(&error))?;
        let begin = self.0.start_of(&request.subject, &request.durable_name, request.start_sequence).await;
        let (subject, from) = begin.map_err(|error| status(&error))?;
        if request.follow {
            let stream = follow::messages(&self.0, &subject, from, wanted).map_err(|error| status(&error))?;
            return Ok(Response::new(Box::pin(stream)));
        }
        let (outlet, stream) = outlet(self.0.config.stall_timeout);
        let broker = self.0.clone();
        tokio::spawn(async move {
            let mut fetch = Fetch { broker, subject, next: from, wanted };
            let ended = loop {
                match fetch.page().await {
                    Ok((messages, permit, more)) => {
                        if outlet.send(messages, permit).await.is_err() {
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
            fetch.broker.metrics.latency(Service::Egress, "fetch", started.elapsed());
        });
        Ok(Response::new(Box::pin(stream)))
    }

    #[tracing::instrument(skip_all, fields(request, client_request))]
    async fn read_message(
        &self,
        request: Request<ReadMessageRequest>,
    ) -> Result<Response<Responses<ReadMessageResponse>>, Status> {
        name_request(&request);
        let request = request.into_inner();
        let found = self.0.find(&request.subject, request.sequence).await.map_err(|error| status(&error))?;
        let (outlet, stream) = outlet(self.0.config.stall_timeout);
        let broker = self.0.clone();
        tokio::spawn(async move {
            let ended = broker.send_data(&found, &outlet).await;
            outlet.end(ended.err().map(|error| status(&error)));
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn get_last_sequence(
        &self,
        request: Request<GetLastSequenceRequest>,
    ) -> Result<Response<GetLastSequenceResponse>, Status> {
        let last = async {
            let subject = Subject::parse("subject", &request.get_ref().subject)?;
            let row = self.0.stores.metadata.subject(&subject).await?;
            Ok(row.map_or(0, |row| row.last))
        };
        let last_sequence = last.await.map_err(|error: Error| status(&error))?;
        Ok(Response::new(GetLastSequenceResponse { last_sequence }))
    }

    #[tracing::instrument(skip_all, fields(request, client_request))]
    async fn ack_message(&self, request: Request<AckRequest>) -> Result<Response<AckResponse>, Status> {
        let started = Instant::now();
        let id = name_request(&request);
        let position = self.0.ack(id, request.into_inner()).await.map_err(|error| status(&error))?;
        self.0.metrics.latency(Service::Egress, "ack", started.elapsed());
        Ok(Response::new(AckResponse { success: true, position, ..Default::default() }))
    }
}

/// What a reader asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// How many more messages.
    pub(super) messages: usize,
    /// The largest data it takes in one message.
    pub(super) message_bytes: usize,
}

/// A read in progress.
pub(super) struct Fetch {
    pub(super) broker: Broker,
    pub(super) subject: Subject,
    pub(super) next: u64,
    pub(super) wanted: Wanted,
}

impl Fetch {
    /// Reads one page; the last value is true if there may be more now.
    pub(super) async fn page(&mut self) -> Result<(Vec<Message>, crate::admission::Permit, bool)> {
        let Self { broker, subject, .. } = self;
        let permit = broker.admission.read(PAGE_BYTES).await?;
        let limit = self.wanted.messages.min(PAGE_MESSAGES);
        let page = reader::read(&broker.stores, subject, self.next, limit, broker.clock.now()).await?;
        let more = !page.is_end() && page.messages.len() < self.wanted.messages;
        let Page { messages: found, next, damage, .. } = page;
        // Good messages before the damage are delivered first; the next page then begins with the refusal.
        if let (Some(damage), true) = (damage, found.is_empty()) {
            broker.metrics.messages(Service::Egress, subject, label(&damage), 1);
            tracing::error!(%subject, sequence = next, error = %damage, "a damaged block was refused");
            return Err(damage);
        }
        let (mut bytes, mut next, mut more, mut permit) = (0, next, more, permit);
        let mut messages = Vec::with_capacity(found.len());
        for stored in found {
            if let Some(object) =
                stored.object.as_ref().filter(|object| object.size <= self.wanted.message_bytes as u64)
            {
                // One large message is a page of its own, with a permit for all of it.
                if !messages.is_empty() {
                    (next, more) = (stored.sequence, true);
                    break;
                }
                let size = usize::try_from(object.size).unwrap_or(usize::MAX);
                drop(std::mem::take(&mut permit));
                permit = broker.admission.read(size).await?;
            }
            let message = broker.to_wire(subject, stored, self.wanted.message_bytes).await?;
            bytes += message.data.len();
            messages.push(message);
        }
        // Taken for a whole page before it was known how little there is.
        permit.shrink_to(bytes + messages.len() * MESSAGE_OVERHEAD);
        self.next = next;
        self.wanted.messages -= messages.len();
        if !messages.is_empty() {
            broker.metrics.messages(Service::Egress, subject, "ok", messages.len() as u64);
        }
        broker.metrics.bytes(Service::Egress, bytes as u64);
        Ok((messages, permit, more && self.wanted.messages > 0))
    }
}

impl Broker {
    fn check_fetch(&self, request: &FetchRequest) -> Result<Wanted> {
        let messages = match usize::try_from(request.batch_size) {
            Ok(0) if request.follow => usize::MAX,
            Ok(0) => BATCH_DEFAULT,
            Ok(size) if request.follow || size <= self.config.batch_max => size,
            _ => {
                let problem = format!("{} is out of range: 1 to {}", request.batch_size, self.config.batch_max);
                return Err(Error::invalid("batch_size", problem));
            }
        };
        let message_bytes = match request.max_message_bytes {
            0 => MESSAGE_BYTES_DEFAULT,
            bytes => bytes,
        };
        Ok(Wanted { messages, message_bytes: usize::try_from(message_bytes).unwrap_or(usize::MAX) })
    }

    /// The subject of a read, and the sequence that it begins with: the one asked for, or the one after the position.
    async fn start_of(&self, subject: &str, durable: &str, start: Option<u64>) -> Result<(Subject, u64)> {
        let subject = Subject::parse("subject", subject)?;
        let from = match (start, durable) {
            (Some(start), _) => start.max(1),
            (None, "") => 1,
            (None, durable) => {
                let durable = DurableName::parse("durable_name", durable)?;
                self.stores.metadata.position(&durable, &subject).await? + 1
            }
        };
        Ok((subject, from))
    }

    async fn ack(&self, id: RequestId, request: AckRequest) -> Result<u64> {
        if self.draining.is_cancelled() {
            return Err(Error::draining());
        }
        let ack = Ack {
            durable: DurableName::parse("durable_name", &request.durable_name)?,
            subject: Subject::parse("subject", &request.subject)?,
            sequence: request.sequence,
        };
        let (reply, answer) = oneshot::channel();
        let delivered = self.storage.tell(MovePosition { request: id, ack, reply })?;
        delivered.answer(answer).await.unwrap_or_else(|| Err(Error::outcome_unknown()))
    }

    async fn find(&self, subject: &str, sequence: u64) -> Result<Stored> {
        let subject = Subject::parse("subject", subject)?;
        let page = reader::read(&self.stores, &subject, sequence.max(1), 1, self.clock.now()).await?;
        match (page.messages.into_iter().next(), page.damage) {
            (Some(found), _) if found.sequence == sequence => Ok(found),
            (_, Some(damage)) if page.next == sequence => Err(damage),
            _ => Err(Error::NotFound(format!(
                "'{subject}' has no message {sequence}: it expired, was purged, or was never published (the last is {})",
                page.last
            ))),
        }
    }

    async fn send_data(&self, found: &Stored, outlet: &super::outlet::Outlet<ReadMessageResponse>) -> Result<()> {
        let Some(object) = &found.object else {
            let data = found.record.data.clone();
            let permit = self.admission.read(data.len()).await?;
            let _ = outlet.send(vec![ReadMessageResponse { data }], permit).await;
            return Ok(());
        };
        for part in 0..object.parts() {
            let permit = self.admission.read(crate::block::OBJECT_PART).await?;
            let data = object.read_part(&self.stores, part).await?;
            if outlet.send(vec![ReadMessageResponse { data }], permit).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn to_wire(&self, subject: &Subject, stored: Stored, bytes_max: usize) -> Result<Message> {
        let Stored { sequence, record, object } = stored;
        let size = object.as_ref().map_or(record.data.len() as u64, |object| object.size);
        let fits = size <= bytes_max as u64;
        let detached = (!fits).then(|| Detached {
            size,
            sha256: object.as_ref().map_or_else(Default::default, |object| object.sha256.to_vec().into()),
        });
        let data = match &object {
            Some(object) if fits => object.read_all(&self.stores).await?,
            None if fits => record.data,
            _ => Default::default(),
        };
        Ok(Message {
            subject: subject.as_str().into(),
            sequence,
            data,
            headers: record.headers.into_iter().collect(),
            timestamp: Some(wire_time(record.created.0)),
            detached,
            stream_sequence: 0,
        })
    }
}

/// Milliseconds since the Unix epoch as the wire has them.
pub(super) fn wire_time(millis: u64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(millis / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis % 1000 * 1_000_000).unwrap_or(0),
    }
}
