use std::{pin::Pin, time::Instant};

use minitoolstream_proto::{
    AbortUploadRequest, AbortUploadResponse, GetUploadRequest, GetUploadResponse, PublishBatchRequest,
    PublishBatchResponse, PublishRequest, PublishResponse, PublishResult, PublishStreamRequest, PublishStreamResponse,
    UploadRequest, UploadResponse, ingress_service_server::IngressService,
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Broker,
    connection::ConnectionInfo,
    inflow::Permits,
    publish_stream,
    status::{label, publish_error, status},
    validate,
};
use crate::{
    actors::publisher::{Results, Submitted},
    admission::{ConnectionAdmission, Permit},
    error::{Error, Result},
    metrics::Service,
    types::{Draft, Published, RequestId, Subject},
};

/// Publishing over gRPC.
#[derive(Clone)]
pub(super) struct Ingress(pub(super) Broker);

#[tonic::async_trait]
impl IngressService for Ingress {
    #[tracing::instrument(skip_all, fields(request, client_request))]
    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        let started = Instant::now();
        let (limits, id, permit) = (limits(&request)?, name_request(&request), permits(&request).next());
        let result = self.0.submit(id, vec![request.into_inner()], &limits, permit).await.results().await.pop();
        self.0.metrics.latency(Service::Ingress, "publish", started.elapsed());
        match result.unwrap_or_else(|| Err(Error::outcome_unknown())) {
            Ok(published) => Ok(Response::new(PublishResponse {
                sequence: published.sequence,
                duplicate: published.duplicate,
                scheduled: published.is_scheduled(),
                object_name: published.object.unwrap_or_default(),
                ..Default::default()
            })),
            Err(error) => Err(status(&error)),
        }
    }

    #[tracing::instrument(skip_all, fields(request, client_request))]
    async fn publish_batch(
        &self,
        request: Request<PublishBatchRequest>,
    ) -> Result<Response<PublishBatchResponse>, Status> {
        let started = Instant::now();
        let (limits, id, permit) = (limits(&request)?, name_request(&request), permits(&request).next());
        let messages = request.into_inner().messages;
        validate::batch_len("messages", messages.len(), &self.0.config).map_err(|error| status(&error))?;
        let results = self.0.submit(id, messages, &limits, permit).await.results().await;
        let results = results.into_iter().map(wire_result).collect();
        self.0.metrics.latency(Service::Ingress, "publish_batch", started.elapsed());
        Ok(Response::new(PublishBatchResponse { results }))
    }

    async fn upload(&self, _: Request<Streaming<UploadRequest>>) -> Result<Response<UploadResponse>, Status> {
        Err(Status::unimplemented("upload"))
    }

    async fn get_upload(&self, _: Request<GetUploadRequest>) -> Result<Response<GetUploadResponse>, Status> {
        Err(Status::unimplemented("upload"))
    }

    async fn abort_upload(&self, _: Request<AbortUploadRequest>) -> Result<Response<AbortUploadResponse>, Status> {
        Err(Status::unimplemented("upload"))
    }

    type PublishStreamStream = Pin<Box<dyn Stream<Item = Result<PublishStreamResponse, Status>> + Send>>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let (limits, permits) = (limits(&request)?, permits(&request));
        let acks = publish_stream::serve(self.0.clone(), limits, permits, request.into_inner());
        Ok(Response::new(Box::pin(acks)))
    }
}

/// Messages that were validated and handed over, and whose results are to come.
pub(super) struct InFlight {
    broker: Broker,
    bytes: u64,
    /// Subjects of consecutive drafts, each with how many follow it.
    runs: Vec<(Subject, usize)>,
    refused: Vec<(usize, Error)>,
    submitted: Result<Submitted>,
}

impl Broker {
    /// Validates messages, waits for permits (that for their bytes is there already), and hands the messages over. Calls awaited one after another store in
    /// their order.
    pub(super) async fn submit(
        &self,
        request: RequestId,
        messages: Vec<PublishRequest>,
        limits: &ConnectionAdmission,
        bytes_permit: Permit,
    ) -> InFlight {
        let now = self.clock.now();
        let mut drafts: Vec<Draft> = Vec::with_capacity(messages.len());
        let mut refused: Vec<(usize, Error)> = Vec::new();
        for (index, message) in messages.into_iter().enumerate() {
            let known = drafts.last().map(|draft| &draft.subject);
            match validate::draft(message, known, &self.config, now) {
                Ok(draft) => drafts.push(draft),
                Err(error) => refused.push((index, error)),
            }
        }
        let bytes: usize = drafts.iter().map(|draft| draft.data.len()).sum();
        let runs = runs(&drafts);
        let permit = match self.draining.is_cancelled() {
            true => Err(Error::draining()),
            false => limits.requests(drafts.len()).await.map(|permit| permit.and(bytes_permit)),
        };
        let submitted = permit.map(|permit| self.publishers.submit(request, drafts, permit));
        InFlight { broker: self.clone(), bytes: bytes as u64, runs, refused, submitted }
    }
}

impl InFlight {
    /// Waits until all messages are durable or refused; one result for each, in order.
    pub(super) async fn results(self) -> Results {
        let Self { broker, bytes, runs, refused, submitted } = self;
        let mut results = match submitted {
            Ok(submitted) => submitted.results().await,
            Err(error) => vec![Err(error); runs.iter().map(|(_, len)| len).sum()],
        };
        broker.metrics.bytes(Service::Ingress, bytes);
        let mut rest = results.as_slice();
        for (subject, len) in &runs {
            count(&broker, subject, &rest[..*len]);
            rest = &rest[*len..];
        }
        if !refused.is_empty() {
            broker.metrics.refused(Service::Ingress, "invalid", refused.len() as u64);
        }
        // The refused ones are few: each is put back where it stood.
        for (index, error) in refused {
            results.insert(index, Err(error));
        }
        results
    }
}

fn count(broker: &Broker, subject: &Subject, mut results: &[Result<Published>]) {
    while let Some(first) = results.first() {
        let word = outcome(first);
        let len = results.iter().take_while(|result| outcome(result) == word).count();
        broker.metrics.messages(Service::Ingress, subject, word, len as u64);
        results = &results[len..];
    }
}

fn outcome(result: &Result<Published>) -> &'static str {
    match result {
        Ok(Published { duplicate: false, .. }) => "ok",
        Ok(Published { duplicate: true, .. }) => "duplicate",
        Err(error) => label(error),
    }
}

/// Subjects of consecutive drafts, each with how many follow it.
fn runs(drafts: &[Draft]) -> Vec<(Subject, usize)> {
    let mut runs: Vec<(Subject, usize)> = Vec::new();
    for draft in drafts {
        match runs.last_mut() {
            Some((subject, len)) if *subject == draft.subject => *len += 1,
            _ => runs.push((draft.subject.clone(), 1)),
        }
    }
    runs
}

fn wire_result(result: Result<Published>) -> PublishResult {
    match result {
        Ok(published) => PublishResult {
            sequence: published.sequence,
            duplicate: published.duplicate,
            error: None,
            scheduled: published.is_scheduled(),
        },
        Err(error) => PublishResult { error: Some(publish_error(&error)), ..Default::default() },
    }
}

/// The permits of the messages in the request's body.
pub(super) fn permits<T>(request: &Request<T>) -> Permits {
    request.extensions().get::<Permits>().cloned().unwrap_or_default()
}

/// The limits of the connection that a request came through.
pub(super) fn limits<T>(request: &Request<T>) -> Result<ConnectionAdmission, Status> {
    match request.extensions().get::<ConnectionInfo>() {
        Some(info) => Ok(info.admission.clone()),
        None => Err(Status::internal("the request came through no connection")),
    }
}

/// Gives a request the id under which it appears in logs, and records it in the current span together with the
/// client's own `x-request-id`.
pub(super) fn name_request<T>(request: &Request<T>) -> RequestId {
    let id = RequestId::next();
    let span = tracing::Span::current();
    span.record("request", tracing::field::display(id));
    if let Some(given) = request.metadata().get("x-request-id").and_then(|given| given.to_str().ok()) {
        span.record("client_request", given.get(..64).unwrap_or(given));
    }
    id
}
