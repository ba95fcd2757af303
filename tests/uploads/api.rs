//! Uploads and reads as they are on the wire.

use bytes::Bytes;
use minitoolstream_client::proto::{
    AbortUploadRequest, GetUploadRequest, GetUploadResponse, Message, PublishRequest, ReadMessageRequest, UploadCommit,
    UploadHeader, UploadRequest, UploadResponse, egress_service_client::EgressServiceClient,
    ingress_service_client::IngressServiceClient, upload_request::Frame,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};

use crate::pattern::Pattern;

#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) ingress: IngressServiceClient<Channel>,
    pub(crate) egress: EgressServiceClient<Channel>,
}

/// A stream that uploads.
pub(crate) struct Upload {
    frames: mpsc::Sender<UploadRequest>,
    answer: JoinHandle<Result<UploadResponse, Status>>,
}

pub(crate) fn header(id: &str, subject: &str) -> UploadHeader {
    let message = Some(PublishRequest { subject: subject.into(), ..Default::default() });
    UploadHeader { upload_id: id.into(), message, ..Default::default() }
}

impl Api {
    pub(crate) async fn connect(address: impl std::fmt::Display) -> Self {
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { ingress: IngressServiceClient::new(channel.clone()), egress: EgressServiceClient::new(channel) }
    }

    /// Opens a stream with this header.
    pub(crate) async fn begin(&self, header: UploadHeader) -> Upload {
        let (frames, waiting) = mpsc::channel(4);
        frames.send(UploadRequest { frame: Some(Frame::Header(header)) }).await.unwrap();
        let mut ingress = self.ingress.clone();
        let answer =
            tokio::spawn(
                async move { ingress.upload(ReceiverStream::new(waiting)).await.map(tonic::Response::into_inner) },
            );
        Upload { frames, answer }
    }

    /// Uploads all of it at once.
    pub(crate) async fn upload(&self, header: UploadHeader, data: Pattern) -> Result<UploadResponse, Status> {
        let upload = self.begin(header).await;
        upload.send_all(data.pieces(0)).await;
        upload.commit(UploadCommit::default()).await
    }

    pub(crate) async fn get(&self, id: &str) -> Result<GetUploadResponse, Status> {
        let request = GetUploadRequest { upload_id: id.into() };
        self.ingress.clone().get_upload(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn abort(&self, id: &str) -> Result<(), Status> {
        self.ingress.clone().abort_upload(AbortUploadRequest { upload_id: id.into() }).await.map(drop)
    }

    /// The message and the pieces that come, and how the stream ended.
    pub(crate) async fn read(&self, request: ReadMessageRequest) -> Result<(Message, Vec<Bytes>), Status> {
        let mut stream = self.egress.clone().read_message(request).await?.into_inner();
        let (mut message, mut pieces) = (None, Vec::new());
        while let Some(response) = stream.message().await? {
            assert!(response.message.is_some() == message.is_none(), "it comes once, and first");
            message = message.or(response.message);
            pieces.push(response.data);
        }
        Ok((message.unwrap(), pieces))
    }

    /// A range of a message.
    pub(crate) async fn range(
        &self,
        subject: &str,
        sequence: u64,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Bytes, Status> {
        let request = ReadMessageRequest { subject: subject.into(), sequence, offset, length, lease_id: 0 };
        Ok(self.read(request).await?.1.concat().into())
    }

    /// Asserts that a message is this data, without holding it.
    pub(crate) async fn assert_is(&self, subject: &str, sequence: u64, data: Pattern) {
        let request = ReadMessageRequest { subject: subject.into(), sequence, ..Default::default() };
        let mut stream = self.egress.clone().read_message(request).await.unwrap().into_inner();
        let mut at = 0;
        while let Some(response) = stream.message().await.unwrap() {
            let mut found = response.data;
            while !found.is_empty() {
                let mut expected = data.piece(at);
                expected.truncate(found.len());
                let found = found.split_to(expected.len());
                assert!(found == expected, "{subject} {sequence} differs at {at} or soon after");
                at += found.len() as u64;
            }
        }
        assert_eq!(at, data.size, "{subject} {sequence}");
    }
}

impl Upload {
    /// Waits until the transport has taken all that was sent.
    pub(crate) async fn taken(&self) {
        while self.frames.capacity() < self.frames.max_capacity() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Sends data; false if the stream is over.
    pub(crate) async fn send(&self, data: Bytes) -> bool {
        self.frames.send(UploadRequest { frame: Some(Frame::Data(data)) }).await.is_ok()
    }

    pub(crate) async fn send_all(&self, pieces: impl Iterator<Item = Bytes>) {
        for piece in pieces {
            if !self.send(piece).await {
                return;
            }
        }
    }

    pub(crate) async fn commit(self, commit: UploadCommit) -> Result<UploadResponse, Status> {
        let _ = self.frames.send(UploadRequest { frame: Some(Frame::Commit(commit)) }).await;
        self.end().await
    }

    /// Ends the stream, and gives its answer.
    pub(crate) async fn end(self) -> Result<UploadResponse, Status> {
        drop(self.frames);
        self.answer.await.unwrap()
    }

    /// Goes away without a word.
    pub(crate) fn cut(self) {
        self.answer.abort();
    }

    /// The answer, without an end of the stream.
    pub(crate) async fn answer(self) -> Result<UploadResponse, Status> {
        self.answer.await.unwrap()
    }
}
