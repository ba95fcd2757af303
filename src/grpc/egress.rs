use std::{pin::Pin, time::Instant};

use bytes::Bytes;
use minitoolstream_proto::{
    AckRequest, AckResponse, ConsumeRequest, ConsumeResponse, Detached, FetchLastRequest, FetchRequest,
    GetLastSequenceRequest, GetLastSequenceResponse, Message, Notification, ReadMessageRequest, ReadMessageResponse,
    SubscribeRequest, egress_service_server::EgressService,
};
use tokio::sync::oneshot;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Broker, consume,
    fetch::{Fetch, message_bytes},
    follow,
    ingress::{connection, name_request, permits},
    outlet::{Outlet, outlet},
    status::status,
};
use crate::{
    actors::storage::MovePosition,
    admission::Permit,
    broker::read::DataRead,
    error::{Error, Result},
    metrics::Operation,
    store::{Ack, reader::Stored},
    types::{DurableName, RequestId, Subject, SubjectFilter},
};

/// Data of one response to ReadMessage.
const PIECE: usize = 256 << 10;

/// Consuming over gRPC.
#[derive(Clone)]
pub(super) struct Egress(pub(super) Broker);

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl EgressService for Egress {
    type SubscribeStream = Responses<Notification>;
    type FetchStream = Responses<Message>;
    type ReadMessageStream = Responses<ReadMessageResponse>;
    type ConsumeStream = Responses<ConsumeResponse>;
    type FetchLastStream = Responses<Message>;

    #[tracing::instrument(skip_all, fields(request, client_request))]
    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Responses<Notification>>, Status> {
        name_request(&request);
        let draining = connection(&request)?.draining.clone();
        let reading = self.0.notified_from(request.into_inner()).await.map_err(|error| status(&error))?;
        let stream = follow::notifications(&self.0, draining, reading).map_err(|error| status(&error))?;
        Ok(Response::new(Box::pin(stream)))
    }

    #[tracing::instrument(skip_all, fields(request, client_request))]
    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Responses<Message>>, Status> {
        let started = Instant::now();
        name_request(&request);
        let connection = connection(&request)?;
        let request = request.into_inner();
        let wanted = self.0.check_fetch(&request).map_err(|error| status(&error))?;
        let reading = self.0.read_from(&request).await.map_err(|error| status(&error))?;
        if request.follow {
            let draining = connection.draining.clone();
            let stream = follow::messages(&self.0, draining, reading, wanted).map_err(|error| status(&error))?;
            return Ok(Response::new(Box::pin(stream)));
        }
        let (outlet, stream) = outlet(self.0.config.stall_timeout);
        let mut fetch = Fetch { broker: self.0.clone(), reading, wanted };
        tokio::spawn(async move {
            fetch.send_all(&outlet).await;
            fetch.broker.metrics.latency(Operation::Fetch, started.elapsed());
        });
        Ok(Response::new(Box::pin(stream)))
    }

    #[tracing::instrument(skip_all, fields(request, client_request))]
    async fn fetch_last(&self, request: Request<FetchLastRequest>) -> Result<Response<Responses<Message>>, Status> {
        name_request(&request);
        let request = request.into_inner();
        let filter = SubjectFilter::parse("subject", &request.subject).map_err(|error| status(&error))?;
        let message_bytes = message_bytes(request.max_message_bytes);
        let (outlet, stream) = outlet(self.0.config.stall_timeout);
        let broker = self.0.clone();
        tokio::spawn(async move {
            let ended = broker.send_last(&filter, message_bytes, &outlet).await;
            outlet.end(ended.err().map(|error| status(&error)));
        });
        Ok(Response::new(Box::pin(stream)))
    }

    #[tracing::instrument(skip_all, fields(request, client_request))]
    async fn consume(
        &self,
        request: Request<Streaming<ConsumeRequest>>,
    ) -> Result<Response<Responses<ConsumeResponse>>, Status> {
        name_request(&request);
        let (connection, permits) = (connection(&request)?, permits(&request));
        let stream = consume::serve(&self.0, &connection.draining, request.into_inner(), permits).await?;
        Ok(Response::new(Box::pin(stream)))
    }

    #[tracing::instrument(skip_all, fields(request, client_request))]
    async fn read_message(
        &self,
        request: Request<ReadMessageRequest>,
    ) -> Result<Response<Responses<ReadMessageResponse>>, Status> {
        name_request(&request);
        let request = request.into_inner();
        let read = self.0.begin_read(request).await.map_err(|error| status(&error))?;
        let (outlet, stream) = outlet(self.0.config.stall_timeout);
        let broker = self.0.clone();
        tokio::spawn(async move {
            let ended = broker.send_data(read, &outlet).await;
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
        self.0.metrics.latency(Operation::Ack, started.elapsed());
        Ok(Response::new(AckResponse { success: true, position, ..Default::default() }))
    }
}

impl Broker {
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

    async fn begin_read(&self, request: ReadMessageRequest) -> Result<DataRead> {
        let ReadMessageRequest { subject, sequence, offset, length, lease_id } = request;
        let found = match (lease_id, subject.as_str()) {
            (0, subject) => self.find(&Subject::parse("subject", subject)?, sequence).await?,
            (lease, "") => self.find_leased(lease).await?,
            (_, _) => {
                return Err(Error::invalid("lease_id", "stands instead of subject and sequence: give one of both"));
            }
        };
        self.read_data(found, offset, length)
    }

    /// Sends the message without its data first, then the data.
    async fn send_data(&self, mut read: DataRead, outlet: &Outlet<ReadMessageResponse>) -> Result<()> {
        let mut message = self.to_wire(read.message().clone(), 0).await?;
        message.detached.get_or_insert_default();
        let mut first = ReadMessageResponse { data: Bytes::new(), message: Some(message) };
        while let Some((data, permit)) = read.next().await? {
            let mut pieces = Vec::with_capacity(data.len().div_ceil(PIECE));
            for at in (0..data.len()).step_by(PIECE) {
                let data = data.slice(at..data.len().min(at + PIECE));
                pieces.push(ReadMessageResponse { data, ..std::mem::take(&mut first) });
            }
            if outlet.send(pieces, permit).await.is_err() {
                return Ok(());
            }
        }
        if first.message.is_some() {
            let _ = outlet.send(vec![first], Permit::default()).await;
        }
        Ok(())
    }

    /// A message for the wire, without data larger than `bytes_max`.
    pub(super) async fn to_wire(&self, stored: Stored, bytes_max: usize) -> Result<Message> {
        let Stored { subject, sequence, stream_sequence, record, object } = stored;
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
            stream_sequence,
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
