use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::Stream;
use minitoolstream_proto::{
    AckRequest, CheckRequest, CheckResponse, FetchRequest, GetLastSequenceRequest, ListSubjectsRequest, Notification,
    PurgeSubjectRequest, ReadMessageRequest, ReadMessageResponse, SubjectInfo, SubscribeRequest,
    admin_service_client::AdminServiceClient, egress_service_client::EgressServiceClient,
};
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::{Backoff, Error, Fetch, Message, Publisher, PublisherOptions, Result};

/// Largest message that a response may carry: the broker's own limits are below.
const DECODE_MAX: usize = 512 << 20;

/// Data asked for in one message by default.
const MESSAGE_BYTES: u32 = 16 << 20;

/// HTTP/2 windows: large enough for large messages at full speed.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// How to reach a broker.
#[derive(Clone, Debug)]
pub struct Connect {
    address: String,
    backoff: Backoff,
    attempts: u32,
    connect_timeout: Duration,
}

impl Connect {
    /// To the broker at an address such as `http://127.0.0.1:50051`; without a scheme, `http://` is meant.
    pub fn to(address: impl Into<String>) -> Self {
        let mut address = address.into();
        if !address.contains("://") {
            address.insert_str(0, "http://");
        }
        Self { address, backoff: Backoff::default(), attempts: 5, connect_timeout: Duration::from_secs(5) }
    }

    /// Waits between attempts.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How often a call that can be repeated is tried in all (at least once).
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the address is none, [`Error::Unavailable`] if nobody answers there.
    pub async fn connect(self) -> Result<Client> {
        let endpoint = self.endpoint()?;
        let mut failures = 0;
        let channel = loop {
            match endpoint.connect().await {
                Ok(channel) => break channel,
                Err(error) => {
                    failures += 1;
                    if failures >= self.attempts {
                        let address = &self.address;
                        return Err(Error::unavailable(format!(
                            "no broker answers at {address} ({}): start one with 'minitoolstream serve', or give another \
                             address",
                            source(&error)
                        )));
                    }
                    self.backoff.sleep(failures, None).await;
                }
            }
        };
        Ok(Client { channel, connect: self })
    }

    /// A client that connects with its first call.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the address is none.
    pub fn connect_lazy(self) -> Result<Client> {
        Ok(Client { channel: self.endpoint()?.connect_lazy(), connect: self })
    }

    fn endpoint(&self) -> Result<Endpoint> {
        let endpoint = Endpoint::from_shared(self.address.clone()).map_err(|error| {
            Error::Invalid(format!(
                "'{}' is no address ({error}): give one such as http://127.0.0.1:50051",
                self.address
            ))
        })?;
        Ok(endpoint
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20)))
    }
}

/// A connection to a broker; cloning shares it.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) channel: Channel,
    pub(crate) connect: Connect,
}

impl Client {
    /// Connects to the broker at an address, with the defaults of [`Connect`].
    ///
    /// # Errors
    /// Those of [`Connect::connect`].
    pub async fn connect(address: impl Into<String>) -> Result<Self> {
        Connect::to(address).connect().await
    }

    /// A publisher over one stream, with default options.
    pub fn publisher(&self) -> Publisher {
        self.publisher_with(PublisherOptions::default())
    }

    /// A publisher over one stream.
    pub fn publisher_with(&self, options: PublisherOptions) -> Publisher {
        Publisher::start(self.channel.clone(), self.connect.backoff, options)
    }

    /// Reads messages. The stream ends after the last one, or follows if asked to.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad subject or range; what fails later comes through the stream.
    pub async fn fetch(&self, fetch: Fetch) -> Result<Messages> {
        let mut request = fetch.request;
        if request.max_message_bytes == 0 {
            request.max_message_bytes = MESSAGE_BYTES;
        }
        let follow = request.follow;
        let first = self.open_fetch(&request).await?;
        let stream = reopening(first, self.clone(), follow, move |client, last| {
            let mut request = request.clone();
            if let Some(Message { sequence, .. }) = last {
                request.start_sequence = Some(sequence + 1);
            }
            Box::pin(async move { client.open_fetch(&request).await })
        });
        Ok(Messages { stream: Box::pin(stream) })
    }

    async fn open_fetch(&self, request: &FetchRequest) -> Result<Streaming<minitoolstream_proto::Message>> {
        let stream = self.repeat(|| {
            let (mut egress, request) = (self.egress(), request.clone());
            async move { egress.fetch(request).await }
        });
        stream.await
    }

    /// Tells when a subject has messages after the consumer's position; `durable` may be empty.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad subject or name; what fails later comes through the stream.
    pub async fn subscribe(&self, subject: &str, durable: &str, after: Option<u64>) -> Result<Notifications> {
        let request = SubscribeRequest { subject: subject.into(), start_sequence: after, durable_name: durable.into() };
        let first = self.open_subscribe(&request).await?;
        let stream = reopening(first, self.clone(), true, move |client, last| {
            let mut request = request.clone();
            if let Some(Notified(sequence)) = last {
                request.start_sequence = Some(*sequence);
            }
            Box::pin(async move { client.open_subscribe(&request).await })
        });
        Ok(Notifications { stream: Box::pin(stream) })
    }

    async fn open_subscribe(&self, request: &SubscribeRequest) -> Result<Streaming<Notification>> {
        let stream = self.repeat(|| {
            let (mut egress, request) = (self.egress(), request.clone());
            async move { egress.subscribe(request).await }
        });
        stream.await
    }

    /// Reads the data of one message of any size, in pieces.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the message is gone; what fails later comes through the stream.
    pub async fn read(
        &self,
        subject: &str,
        sequence: u64,
    ) -> Result<impl Stream<Item = Result<Bytes>> + Send + Unpin + use<>> {
        let request = ReadMessageRequest { subject: subject.into(), sequence };
        let stream = self.repeat(|| {
            let (mut egress, request) = (self.egress(), request.clone());
            async move { egress.read_message(request).await }
        });
        let pieces = |piece: Result<ReadMessageResponse, Status>| Ok(piece?.data);
        Ok(futures_util::StreamExt::map(stream.await?, pieces))
    }

    /// Acknowledges everything up to and including a sequence; gives the position afterwards, which never moves back.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a sequence beyond the end.
    pub async fn ack(&self, durable: &str, subject: &str, sequence: u64) -> Result<u64> {
        let request = AckRequest { durable_name: durable.into(), subject: subject.into(), sequence };
        let response = self.repeat(|| {
            let (mut egress, request) = (self.egress(), request.clone());
            async move { egress.ack_message(request).await }
        });
        Ok(response.await?.position)
    }

    /// The last sequence of a subject; 0 if it never had a message.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad subject.
    pub async fn last_sequence(&self, subject: &str) -> Result<u64> {
        let request = GetLastSequenceRequest { subject: subject.into() };
        let response = self.repeat(|| {
            let (mut egress, request) = (self.egress(), request.clone());
            async move { egress.get_last_sequence(request).await }
        });
        Ok(response.await?.last_sequence)
    }

    /// Lists subjects that match a filter (`*` one token, `>` the rest; empty: all), page by page.
    pub fn subjects(&self, filter: &str) -> Subjects {
        let request = ListSubjectsRequest { filter: filter.into(), ..Default::default() };
        Subjects { client: self.clone(), request: Some(request) }
    }

    /// Removes messages of a subject, up to and including a sequence or all; gives how many.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the subject never had a message.
    pub async fn purge(&self, subject: &str, up_to: Option<u64>) -> Result<u64> {
        let request = PurgeSubjectRequest { subject: subject.into(), up_to_sequence: up_to };
        let response = self.repeat(|| {
            let (mut admin, request) = (self.admin(), request.clone());
            async move { admin.purge_subject(request).await }
        });
        Ok(response.await?.purged)
    }

    /// Verifies every stored block and the books of every subject.
    ///
    /// # Errors
    /// If the check cannot begin; what fails later comes through the stream.
    pub async fn check(&self) -> Result<impl Stream<Item = Result<CheckResponse>> + Unpin + use<>> {
        let stream = self.admin().check(CheckRequest {}).await?.into_inner();
        Ok(futures_util::StreamExt::map(stream, |event| event.map_err(Error::from)))
    }

    fn egress(&self) -> EgressServiceClient<Channel> {
        EgressServiceClient::new(self.channel.clone()).max_decoding_message_size(DECODE_MAX)
    }

    fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone())
    }

    /// Repeats a call that changes nothing when it is repeated.
    async fn repeat<T, F>(&self, call: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut failures = 0;
        loop {
            let error = match call().await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => Error::from(status),
            };
            failures += 1;
            if !error.is_transient() || failures >= self.connect.attempts {
                return Err(error);
            }
            self.connect.backoff.sleep(failures, error.retry_after()).await;
        }
    }
}

/// Messages as they arrive. One that follows goes on after a broken connection, with the next message.
pub struct Messages {
    stream: Pin<Box<dyn Stream<Item = Result<Message>> + Send>>,
}

impl Stream for Messages {
    type Item = Result<Message>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(cx)
    }
}

/// Notifications as they arrive; they go on after a broken connection.
pub struct Notifications {
    stream: Pin<Box<dyn Stream<Item = Result<Notified>> + Send>>,
}

impl Stream for Notifications {
    /// The latest sequence that can be read.
    type Item = Result<u64>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = std::task::ready!(self.stream.as_mut().poll_next(cx));
        Poll::Ready(item.map(|notified| notified.map(|Notified(sequence)| sequence)))
    }
}

/// The sequence that a notification tells.
#[derive(Clone, Copy)]
struct Notified(u64);

impl From<Notification> for Notified {
    fn from(notification: Notification) -> Self {
        Self(notification.sequence)
    }
}

type Opening<W> = Pin<Box<dyn Future<Output = Result<Streaming<W>>> + Send>>;

/// Items of a stream; if it is to `go_on`, one that breaks is opened again after the last item.
fn reopening<W, T>(
    first: Streaming<W>,
    client: Client,
    go_on: bool,
    open: impl Fn(Client, Option<&T>) -> Opening<W> + Send,
) -> impl Stream<Item = Result<T>> + Send
where
    W: Send + 'static,
    T: From<W> + Clone + Send,
{
    let state = (Some(first), None::<T>, 0_u32, open, client);
    futures_util::stream::unfold(state, move |(stream, last, failures, open, client)| async move {
        let (mut stream, mut last, mut failures) = (stream?, last, failures);
        loop {
            let error = match stream.message().await {
                Ok(Some(item)) => {
                    let item = T::from(item);
                    if go_on {
                        last = Some(item.clone());
                    }
                    return Some((Ok(item), (Some(stream), last, 0, open, client)));
                }
                Ok(None) => return None,
                Err(status) => Error::from(status),
            };
            failures += 1;
            if !go_on || !error.is_transient() || failures > client.connect.attempts {
                return Some((Err(error), (None, last, failures, open, client)));
            }
            client.connect.backoff.sleep(failures, error.retry_after()).await;
            match open(client.clone(), last.as_ref()).await {
                Ok(again) => stream = again,
                Err(error) => return Some((Err(error), (None, last, failures, open, client))),
            }
        }
    })
}

/// Pages of a listing.
#[derive(Debug)]
pub struct Subjects {
    client: Client,
    request: Option<ListSubjectsRequest>,
}

impl Subjects {
    /// The next page; `None` after the last.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad filter.
    pub async fn next_page(&mut self) -> Result<Option<Vec<SubjectInfo>>> {
        let Some(request) = self.request.take() else {
            return Ok(None);
        };
        let response = self.client.repeat(|| {
            let (mut admin, request) = (self.client.admin(), request.clone());
            async move { admin.list_subjects(request).await }
        });
        let response = response.await?;
        if !response.next_page_token.is_empty() {
            self.request = Some(ListSubjectsRequest { page_token: response.next_page_token, ..request });
        }
        Ok(Some(response.subjects))
    }
}

/// The innermost cause of an error: what the transport wraps it in says nothing to a user.
fn source(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
