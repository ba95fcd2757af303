use std::{sync::Arc, time::Duration};

use minitoolstream_proto::{
    ConsumerInfo, ConsumerRequest, CreateConsumerRequest, ListConsumersRequest, RedriveRequest, ResetConsumerRequest,
    UpdateConsumerRequest, consumer_service_client::ConsumerServiceClient,
};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::transport::Channel;

use crate::{
    Client, ConsumerSettings, Deliveries, Delivery, Error, Result, Start, answers::Answer, client::MESSAGE_BYTES,
    worker::Opening,
};

/// Most dead letters that one request names.
const REDRIVEN_MAX: usize = 10_000;

/// How long the last answers may take to be confirmed when work ends.
const CONFIRMING_MAX: Duration = Duration::from_secs(30);

/// A durable consumer: the broker remembers what is done. Its workers share its messages, each of which is leased to one
/// of them at a time, and delivered again until one says that it is done.
#[derive(Clone, Debug)]
pub struct Consumer {
    client: Client,
    opening: Opening,
}

impl Client {
    /// The durable consumer of a name. With an empty name, a consumer that lives as long as its stream and leaves nothing
    /// behind; it needs [`settings`](Consumer::settings).
    pub fn consumer(&self, name: impl Into<String>) -> Consumer {
        let opening = Opening {
            name: name.into(),
            settings: None,
            window_messages: 1000,
            window_bytes: 16 << 20,
            max_message_bytes: MESSAGE_BYTES,
            heartbeat: Duration::from_secs(15),
            auto_extend: true,
            max_hold: Duration::from_hours(1),
            patience: Duration::from_mins(10),
        };
        Consumer { client: self.clone(), opening }
    }

    /// Lists durable consumers in the order of their names, page by page.
    pub fn consumers(&self) -> Consumers {
        Consumers { client: self.clone(), request: Some(ListConsumersRequest::default()) }
    }

    /// Publishes dead letters of a subject to where they came from, or to another subject, and removes them. Those of
    /// the given sequences, or all if there are none.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad subject. Repeating the call after another error is safe: each letter moves once.
    pub async fn redrive(&self, subject: &str, sequences: &[u64], to: Option<&str>) -> Result<Redriven> {
        let mut redriven = Redriven::default();
        let all: &[u64] = &[];
        let parts = sequences.chunks(REDRIVEN_MAX).chain(sequences.is_empty().then_some(all));
        for part in parts {
            let request = RedriveRequest {
                subject: subject.into(),
                sequences: part.into(),
                to_subject: to.unwrap_or_default().into(),
            };
            let response = self.repeat(|| {
                let (mut service, request) = (self.consumer_service(), request.clone());
                async move { service.redrive(request).await }
            });
            let response = response.await?;
            redriven.count += response.redriven;
            redriven.not_found.extend(response.not_found);
        }
        Ok(redriven)
    }

    fn consumer_service(&self) -> ConsumerServiceClient<Channel> {
        ConsumerServiceClient::new(self.channel.clone())
    }
}

/// What a redrive did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redriven {
    /// How many letters were published again.
    pub count: u64,
    /// Sequences that were asked for and hold no dead letter.
    pub not_found: Vec<u64>,
}

/// How this worker takes messages.
impl Consumer {
    /// Creates the consumer when work begins, if there is none. If there is one, these must be its settings.
    #[must_use]
    pub fn settings(mut self, settings: ConsumerSettings) -> Self {
        self.opening.settings = Some(settings);
        self
    }

    /// Most messages, and most bytes of data, that this worker holds without having settled them; 1,000 and 16 MiB by
    /// default. A message that is larger comes alone.
    #[must_use]
    pub fn window(mut self, messages: u32, bytes: u64) -> Self {
        self.opening.window_messages = messages.max(1);
        self.opening.window_bytes = bytes.max(1);
        self
    }

    /// The largest data to receive with a message, 16 MiB by default; [`Delivery::data`] reads larger ones.
    #[must_use]
    pub fn max_message_bytes(mut self, bytes: u32) -> Self {
        self.opening.max_message_bytes = bytes;
        self
    }

    /// Whether messages that are held are extended by the client, as they are by default. Without it, one that is not
    /// answered within the ack wait is delivered again.
    #[must_use]
    pub fn auto_extend(mut self, on: bool) -> Self {
        self.opening.auto_extend = on;
        self
    }

    /// How long a message is extended after it came, 1 h by default: one whose handler hangs is then delivered again.
    #[must_use]
    pub fn max_hold(mut self, hold: Duration) -> Self {
        self.opening.max_hold = hold;
        self
    }

    /// Silence after which the broker sends a sign of life, 15 s by default and at least 100 ms. After three times as
    /// long the connection is taken for broken.
    #[must_use]
    pub fn heartbeat(mut self, heartbeat: Duration) -> Self {
        self.opening.heartbeat = heartbeat.clamp(Duration::from_millis(100), Duration::from_hours(1));
        self
    }

    /// How long to try to get back to a broker that cannot be reached before giving up, 10 min by default.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.opening.patience = patience.min(Duration::from_hours(24 * 365));
        self
    }

    /// Begins to take messages.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such consumer and no settings were given; [`Error::Invalid`] if the settings
    /// are bad or not those of the consumer.
    pub async fn messages(&self) -> Result<Deliveries> {
        Deliveries::open(self.client.clone(), self.opening.clone()).await
    }

    /// Handles messages, at most `concurrency` at a time, each in a task of its own: acknowledges those whose handler
    /// gives `Ok`, and has the others, and those whose handler panics, delivered again after the back-off.
    ///
    /// # Errors
    /// Why no more messages come; it does not return otherwise.
    pub async fn for_each<F, W, E>(&self, concurrency: usize, handler: F) -> Result<()>
    where
        F: Fn(Arc<Delivery>) -> W,
        W: Future<Output = Result<(), E>> + Send + 'static,
        E: Send + 'static,
    {
        self.for_each_until(concurrency, std::future::pending::<()>(), handler).await
    }

    /// The same, until `stop` resolves: then takes no more messages and waits for the handlers.
    ///
    /// # Errors
    /// Why no more messages come; [`Error::LeaseLost`] if the last answers are not confirmed within 30 s.
    pub async fn for_each_until<F, W, E>(&self, concurrency: usize, stop: impl Future, handler: F) -> Result<()>
    where
        F: Fn(Arc<Delivery>) -> W,
        W: Future<Output = Result<(), E>> + Send + 'static,
        E: Send + 'static,
    {
        let mut deliveries = self.messages().await?;
        let mut handlers = JoinSet::new();
        tokio::pin!(stop);
        let failure = loop {
            tokio::select! {
                delivery = deliveries.next(), if handlers.len() < concurrency.max(1) => match delivery {
                    Some(Ok(delivery)) => {
                        let delivery = Arc::new(delivery);
                        let handled = handler(delivery.clone());
                        handlers.spawn(async move {
                            let answer = if handled.await.is_ok() { Answer::Ack } else { Answer::Nak(None) };
                            delivery.tell(answer);
                        });
                    }
                    Some(Err(error)) => break Some(error),
                    None => break None,
                },
                // A handler that panicked has let go of its message, which is an answer.
                Some(_) = handlers.join_next(), if !handlers.is_empty() => {}
                _ = &mut stop => break None,
            }
        };
        while handlers.join_next().await.is_some() {}
        let drained = deliveries.drain(CONFIRMING_MAX).await;
        failure.map_or(drained, Err)
    }
}

/// Looking after the consumer.
impl Consumer {
    /// Creates it. Creating one that exists with the same settings changes nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the settings are bad, or those of the one that exists are others.
    pub async fn create(&self, settings: ConsumerSettings) -> Result<ConsumerInfo> {
        let request = CreateConsumerRequest { name: self.opening.name.clone(), settings: Some(settings.settings) };
        let call = self.client.repeat(|| {
            let (mut service, request) = (self.client.consumer_service(), request.clone());
            async move { service.create_consumer(request).await }
        });
        call.await
    }

    /// Its settings and books.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none of this name.
    pub async fn info(&self) -> Result<ConsumerInfo> {
        let call = self.client.repeat(|| {
            let (mut service, request) = (self.client.consumer_service(), self.request());
            async move { service.get_consumer(request).await }
        });
        call.await
    }

    /// Replaces the settings that are given; start from [`ConsumerSettings::unchanged`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad settings, and for a filter or start; [`Error::NotFound`].
    pub async fn update(&self, settings: ConsumerSettings) -> Result<ConsumerInfo> {
        let request = UpdateConsumerRequest { name: self.opening.name.clone(), settings: Some(settings.settings) };
        let call = self.client.repeat(|| {
            let (mut service, request) = (self.client.consumer_service(), request.clone());
            async move { service.update_consumer(request).await }
        });
        call.await
    }

    /// Stops deliveries; what is out may still be settled.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none of this name.
    pub async fn pause(&self) -> Result<ConsumerInfo> {
        let call = self.client.repeat(|| {
            let (mut service, request) = (self.client.consumer_service(), self.request());
            async move { service.pause_consumer(request).await }
        });
        call.await
    }

    /// Goes on with deliveries.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none of this name.
    pub async fn resume(&self) -> Result<ConsumerInfo> {
        let call = self.client.repeat(|| {
            let (mut service, request) = (self.client.consumer_service(), self.request());
            async move { service.resume_consumer(request).await }
        });
        call.await
    }

    /// Begins anew, at its own start or another: what is out is lost to its workers, and its books are empty.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none of this name, [`Error::Invalid`] for a start that its filter cannot have.
    pub async fn reset(&self, start: Option<Start>) -> Result<ConsumerInfo> {
        let request = ResetConsumerRequest { name: self.opening.name.clone(), start: start.map(Into::into) };
        let call = self.client.repeat(|| {
            let (mut service, request) = (self.client.consumer_service(), request.clone());
            async move { service.reset_consumer(request).await }
        });
        call.await
    }

    /// Removes it and ends its streams. Its dead letters stay until they expire.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none of this name (any more).
    pub async fn delete(&self) -> Result<()> {
        let call = self.client.repeat(|| {
            let (mut service, request) = (self.client.consumer_service(), self.request());
            async move { service.delete_consumer(request).await }
        });
        call.await
    }

    /// The subject that its dead letters go to.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no consumer of this name.
    pub async fn dead_letter_subject(&self) -> Result<String> {
        let settings = self.info().await?.settings.unwrap_or_default();
        settings
            .dead_letter_subject
            .filter(|subject| !subject.is_empty())
            .ok_or_else(|| Error::NotFound(format!("consumer '{}' has no subject for dead letters", self.opening.name)))
    }

    /// Publishes its dead letters again: those of the given sequences of its dead-letter subject, or all if there are
    /// none, to where they came from or to another subject.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no consumer of this name; those of [`Client::redrive`].
    pub async fn redrive(&self, sequences: &[u64], to: Option<&str>) -> Result<Redriven> {
        let subject = self.dead_letter_subject().await?;
        self.client.redrive(&subject, sequences, to).await
    }

    fn request(&self) -> ConsumerRequest {
        ConsumerRequest { name: self.opening.name.clone() }
    }
}

/// Pages of a listing.
#[derive(Debug)]
pub struct Consumers {
    client: Client,
    request: Option<ListConsumersRequest>,
}

impl Consumers {
    /// The next page; `None` after the last.
    ///
    /// # Errors
    /// If the broker cannot be reached.
    pub async fn next_page(&mut self) -> Result<Option<Vec<ConsumerInfo>>> {
        let Some(request) = self.request.take() else {
            return Ok(None);
        };
        let response = self.client.repeat(|| {
            let (mut service, request) = (self.client.consumer_service(), request.clone());
            async move { service.list_consumers(request).await }
        });
        let response = response.await?;
        if !response.next_page_token.is_empty() {
            self.request = Some(ListConsumersRequest { page_token: response.next_page_token, ..request });
        }
        Ok(Some(response.consumers))
    }
}
