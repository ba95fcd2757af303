use std::{pin::Pin, sync::Arc, time::Instant};

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
    status::{publish_error, status},
    upload, validate,
};
use crate::{
    error::{Error, Result},
    metrics::Operation,
    types::{Published, RequestId},
};

/// Publishing over gRPC.
#[derive(Clone)]
pub(super) struct Ingress(pub(super) Broker);

#[tonic::async_trait]
impl IngressService for Ingress {
    #[tracing::instrument(skip_all, fields(request, client_request))]
    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        let started = Instant::now();
        let (connection, id, permit) = (connection(&request)?, name_request(&request), permits(&request).next());
        let result =
            self.0.submit(id, vec![request.into_inner()], &connection.admission, permit).await.results().await.pop();
        self.0.metrics.latency(Operation::Publish, started.elapsed());
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
        let (connection, id, permit) = (connection(&request)?, name_request(&request), permits(&request).next());
        let messages = request.into_inner().messages;
        validate::batch_len("messages", messages.len(), &self.0.config).map_err(|error| status(&error))?;
        let results = self.0.submit(id, messages, &connection.admission, permit).await.results().await;
        let results = results.into_iter().map(wire_result).collect();
        self.0.metrics.latency(Operation::PublishBatch, started.elapsed());
        Ok(Response::new(PublishBatchResponse { results }))
    }

    #[tracing::instrument(skip_all, fields(request, client_request))]
    async fn upload(&self, request: Request<Streaming<UploadRequest>>) -> Result<Response<UploadResponse>, Status> {
        let (connection, id, permits) = (connection(&request)?, name_request(&request), permits(&request));
        upload::serve(self.0.clone(), id, connection.admission.clone(), permits, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn get_upload(&self, request: Request<GetUploadRequest>) -> Result<Response<GetUploadResponse>, Status> {
        let found = self.0.find_upload(&request.get_ref().upload_id).await.map_err(|error| status(&error))?;
        Ok(Response::new(upload::standing(found)))
    }

    #[tracing::instrument(skip_all, fields(request, client_request))]
    async fn abort_upload(
        &self,
        request: Request<AbortUploadRequest>,
    ) -> Result<Response<AbortUploadResponse>, Status> {
        name_request(&request);
        self.0.abort_upload(&request.get_ref().upload_id).await.map_err(|error| status(&error))?;
        Ok(Response::new(AbortUploadResponse {}))
    }

    type PublishStreamStream = Pin<Box<dyn Stream<Item = Result<PublishStreamResponse, Status>> + Send>>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let (connection, permits) = (connection(&request)?, permits(&request));
        let acks = publish_stream::serve(self.0.clone(), connection, permits, request.into_inner());
        Ok(Response::new(Box::pin(acks)))
    }
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

/// The connection that a request came through.
pub(super) fn connection<T>(request: &Request<T>) -> Result<Arc<ConnectionInfo>, Status> {
    let info = request.extensions().get::<Arc<ConnectionInfo>>();
    info.cloned().ok_or_else(|| Status::internal("the request came through no connection"))
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
