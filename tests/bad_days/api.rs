use minitoolstream_client::proto::{
    FetchRequest, Message, PublishBatchRequest, PublishRequest, PublishResult,
    egress_service_client::EgressServiceClient, ingress_service_client::IngressServiceClient,
};
use tonic::{Status, Streaming, transport::Channel};

/// The calls as they are on the wire: these tests look at statuses, which a client library would turn into something
/// else or repeat.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) ingress: IngressServiceClient<Channel>,
    pub(crate) egress: EgressServiceClient<Channel>,
}

impl Api {
    /// Over one connection of its own.
    pub(crate) async fn connect(address: impl std::fmt::Display) -> Self {
        Self::over(Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap())
    }

    /// Over a connection that others use, too.
    pub(crate) fn over(channel: Channel) -> Self {
        Self {
            ingress: IngressServiceClient::new(channel.clone()).max_encoding_message_size(usize::MAX),
            egress: EgressServiceClient::new(channel).max_decoding_message_size(usize::MAX),
        }
    }

    pub(crate) async fn publish(&self, request: PublishRequest) -> Result<u64, Status> {
        self.ingress.clone().publish(request).await.map(|response| response.into_inner().sequence)
    }

    pub(crate) async fn publish_batch(&self, messages: Vec<PublishRequest>) -> Result<Vec<PublishResult>, Status> {
        let answer = self.ingress.clone().publish_batch(PublishBatchRequest { messages }).await;
        answer.map(|response| response.into_inner().results)
    }

    pub(crate) async fn open_fetch(&self, request: FetchRequest) -> Result<Streaming<Message>, Status> {
        self.egress.clone().fetch(request).await.map(tonic::Response::into_inner)
    }

    /// Everything from a sequence on, and how the stream ended.
    pub(crate) async fn fetch(&self, subject: &str, start: u64) -> (Vec<Message>, Result<(), Status>) {
        let request = FetchRequest {
            subject: subject.into(),
            start_sequence: Some(start),
            batch_size: 10_000,
            max_message_bytes: u32::MAX,
            ..Default::default()
        };
        self.read(request).await
    }

    /// What a request gives, and how the stream ended.
    pub(crate) async fn read(&self, request: FetchRequest) -> (Vec<Message>, Result<(), Status>) {
        let mut messages = Vec::new();
        let mut stream = match self.open_fetch(request).await {
            Ok(stream) => stream,
            Err(status) => return (messages, Err(status)),
        };
        loop {
            match stream.message().await {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return (messages, Ok(())),
                Err(status) => return (messages, Err(status)),
            }
        }
    }
}

/// A message of `len` bytes, each of them `fill`.
pub(crate) fn message(subject: &str, fill: u8, len: usize) -> PublishRequest {
    PublishRequest { subject: subject.into(), data: vec![fill; len].into(), ..Default::default() }
}

/// The sequences of messages.
pub(crate) fn sequences(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(|message| message.sequence).collect()
}
