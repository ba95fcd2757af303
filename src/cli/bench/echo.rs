use std::{pin::Pin, process::ExitCode};

use futures_util::{Stream, StreamExt};
use minitoolstream_client::proto::{
    AbortUploadRequest, AbortUploadResponse, GetUploadRequest, GetUploadResponse, PublishAck, PublishBatchRequest,
    PublishBatchResponse, PublishRequest, PublishResponse, PublishStreamRequest, PublishStreamResponse, UploadRequest,
    UploadResponse,
    ingress_service_server::{IngressService, IngressServiceServer},
    upload_request::Frame,
};
use serde_json::json;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming, transport::Server};

use crate::cli::output;

/// Acknowledges every frame at once and stores nothing: what gRPC alone can do.
struct Echo;

#[tonic::async_trait]
impl IngressService for Echo {
    async fn publish(&self, _: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        Ok(Response::new(PublishResponse::default()))
    }

    async fn publish_batch(&self, _: Request<PublishBatchRequest>) -> Result<Response<PublishBatchResponse>, Status> {
        Ok(Response::new(PublishBatchResponse::default()))
    }

    type PublishStreamStream = Pin<Box<dyn Stream<Item = Result<PublishStreamResponse, Status>> + Send>>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let acks = request.into_inner().map(|frame| {
            let frame = frame?;
            let count = u32::try_from(frame.messages.len()).unwrap_or(u32::MAX);
            let ack = PublishAck { first_id: frame.first_id, count, first_sequence: 1, ..Default::default() };
            Ok(PublishStreamResponse { acks: vec![ack], draining: false })
        });
        Ok(Response::new(Box::pin(acks)))
    }

    async fn upload(&self, request: Request<Streaming<UploadRequest>>) -> Result<Response<UploadResponse>, Status> {
        let (mut frames, mut size) = (request.into_inner(), 0);
        while let Some(frame) = frames.message().await? {
            if let Some(Frame::Data(data)) = frame.frame {
                size += data.len() as u64;
            }
        }
        Ok(Response::new(UploadResponse { sequence: 1, size, ..Default::default() }))
    }

    async fn get_upload(&self, _: Request<GetUploadRequest>) -> Result<Response<GetUploadResponse>, Status> {
        Err(Status::not_found("nothing is stored"))
    }

    async fn abort_upload(&self, _: Request<AbortUploadRequest>) -> Result<Response<AbortUploadResponse>, Status> {
        Err(Status::not_found("nothing is stored"))
    }
}

/// Serves on a free port of loopback until killed.
pub(super) async fn serve() -> anyhow::Result<ExitCode> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    output::print_json(&json!({ "ingress": listener.local_addr()?.to_string() }))?;
    let service = IngressServiceServer::new(Echo).max_decoding_message_size(64 << 20);
    Server::builder()
        .initial_stream_window_size(2 << 20)
        .initial_connection_window_size(4 << 20)
        .add_service(service)
        .serve_with_incoming(TcpListenerStream::new(listener).map(|stream| {
            let stream = stream?;
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(stream)
        }))
        .await?;
    Ok(ExitCode::SUCCESS)
}
