use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tokio_stream::StreamExt;

use crate::{
    Client, ConsumerSettings, Deliveries, Delivery, Result, answers::Answer, client::MESSAGE_BYTES, worker::Opening,
};

/// How long the last answers may take to be confirmed when work ends.
const CONFIRMING_MAX: Duration = Duration::from_secs(30);

/// A durable consumer: the broker remembers what is done. Its workers share its messages, each of which is leased to one
/// of them at a time, and delivered again until one says that it is done.
#[derive(Clone, Debug)]
pub struct Consumer {
    pub(crate) client: Client,
    pub(crate) opening: Opening,
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
    /// default. A message that is larger comes alone. Once the next one does not fit, nothing comes until one is settled:
    /// who gathers messages before settling the first needs a window for all of them, with some room for their headers.
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
    /// [`Error::NotFound`](crate::Error::NotFound) if there is no such consumer and no settings were given;
    /// [`Error::Invalid`](crate::Error::Invalid) if the settings are bad or not those of the consumer.
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

    /// The same, until `stop` resolves: then takes no more messages, gives back those that no handler has begun with, and
    /// waits for the handlers.
    ///
    /// # Errors
    /// Why no more messages come; [`Error::LeaseLost`](crate::Error::LeaseLost) if the last answers are not confirmed
    /// within 30 s.
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
        // Handlers may take long: what they have not begun with is for others meanwhile.
        deliveries.leave();
        while handlers.join_next().await.is_some() {}
        let drained = deliveries.drain(CONFIRMING_MAX).await;
        failure.map_or(drained, Err)
    }
}
