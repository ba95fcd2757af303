use futures_util::{Stream, StreamExt};
use minitoolstream_proto::{
    self as proto, AckRequest, CheckRequest, CheckResponse, FetchLastRequest, FetchRequest, GetLastSequenceRequest,
    ListSubjectsRequest, PurgeSubjectRequest, SubjectInfo, SubscribeRequest, admin_service_client::AdminServiceClient,
    egress_service_client::EgressServiceClient,
};
use tonic::{Status, Streaming};

use crate::{
    Connect, Error, Fetch, Message, Messages, Notification, Notifications, Publisher, PublisherOptions, Result,
    channels::Channels,
    message::{go_on_after, has_wildcards},
    stream::{Opening, reopening},
};

/// Largest message that a response may carry: the broker's own limits are below.
const DECODE_MAX: usize = 512 << 20;

/// Data asked for in one message by default.
pub(crate) const MESSAGE_BYTES: u32 = 16 << 20;

/// Connections to brokers, one to each address; cloning shares them.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) channels: Channels,
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
        Publisher::start(self.channels.clone(), self.connect.backoff, options)
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
        let first = self.open_fetch(&request).await?;
        if !request.follow {
            return Ok(Messages::new(first.map(|message| Ok(Message::from(message?)))));
        }
        let limit = usize::try_from(request.batch_size).ok().filter(|limit| *limit > 0);
        let open = |client: Client, request: FetchRequest| -> Opening<_> {
            Box::pin(async move { client.open_fetch(&request).await })
        };
        let stream = reopening(first, self.clone(), request, open, go_on_after);
        // The broker ends it, too; but the connection may break before that is heard.
        Ok(Messages::new(stream.take(limit.unwrap_or(usize::MAX))))
    }

    async fn open_fetch(&self, request: &FetchRequest) -> Result<Streaming<minitoolstream_proto::Message>> {
        let stream = self.repeat(|| {
            let (mut egress, request) = (self.egress(), request.clone());
            async move { egress.fetch(request).await }
        });
        stream.await
    }

    /// Reads the last message of each subject that matches, in the order of their names.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad filter; what fails later comes through the stream.
    pub async fn fetch_last(&self, filter: &str) -> Result<Messages> {
        self.fetch_last_within(filter, MESSAGE_BYTES).await
    }

    /// The place of the last message of all subjects that match, in the order of all messages; 0 if there is none.
    /// Reads the last message of each subject, without large data.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad filter.
    pub async fn last_stream_sequence(&self, filter: &str) -> Result<u64> {
        let mut messages = self.fetch_last_within(filter, 1).await?;
        let mut last = 0;
        while let Some(message) = messages.next().await {
            last = last.max(message?.stream_sequence);
        }
        Ok(last)
    }

    async fn fetch_last_within(&self, filter: &str, max_message_bytes: u32) -> Result<Messages> {
        let request = FetchLastRequest { subject: filter.into(), max_message_bytes };
        let stream = self.repeat(|| {
            let (mut egress, request) = (self.egress(), request.clone());
            async move { egress.fetch_last(request).await }
        });
        Ok(Messages::new(stream.await?.map(|message| Ok(Message::from(message?)))))
    }

    /// Tells when a subject has messages after the consumer's position; `durable` may be empty.
    ///
    /// The subject may hold wildcards if `after` is `None`. What was told may then be told again after a broken
    /// connection.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad subject or name; what fails later comes through the stream.
    pub async fn subscribe(&self, subject: &str, durable: &str, after: Option<u64>) -> Result<Notifications> {
        let request = SubscribeRequest { subject: subject.into(), start_sequence: after, durable_name: durable.into() };
        let first = self.open_subscribe(&request).await?;
        let open = |client: Client, request: SubscribeRequest| -> Opening<_> {
            Box::pin(async move { client.open_subscribe(&request).await })
        };
        let go_on_after = |request: &mut SubscribeRequest, last: &Notification| {
            if !has_wildcards(&request.subject) {
                request.start_sequence = Some(last.sequence);
            }
        };
        Ok(Notifications::new(reopening(first, self.clone(), request, open, go_on_after)))
    }

    async fn open_subscribe(&self, request: &SubscribeRequest) -> Result<Streaming<proto::Notification>> {
        let stream = self.repeat(|| {
            let (mut egress, request) = (self.egress(), request.clone());
            async move { egress.subscribe(request).await }
        });
        stream.await
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

    /// Removes messages of a subject, up to and including a sequence or all; gives how many. The subject may hold
    /// wildcards if `up_to` is `None`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the subject never had a message.
    pub async fn purge(&self, subject: &str, up_to: Option<u64>) -> Result<u64> {
        let request = PurgeSubjectRequest { subject: subject.into(), up_to_sequence: up_to, keep_last: None };
        self.purge_with(request).await
    }

    /// Removes all but the last messages, so many of each subject that matches; gives how many were removed.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the subject never had a message.
    pub async fn purge_but_last(&self, subject: &str, keep: u64) -> Result<u64> {
        let request = PurgeSubjectRequest { subject: subject.into(), up_to_sequence: None, keep_last: Some(keep) };
        self.purge_with(request).await
    }

    async fn purge_with(&self, request: PurgeSubjectRequest) -> Result<u64> {
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
        Ok(stream.map(|event| event.map_err(Error::from)))
    }

    pub(crate) fn egress(&self) -> EgressServiceClient<Channels> {
        EgressServiceClient::new(self.channels.clone()).max_decoding_message_size(DECODE_MAX)
    }

    fn admin(&self) -> AdminServiceClient<Channels> {
        AdminServiceClient::new(self.channels.clone())
    }

    /// Repeats a call that changes nothing when it is repeated.
    pub(crate) async fn repeat<T, F>(&self, call: impl Fn() -> F) -> Result<T>
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
