use minitoolstream_proto::{
    ConsumerInfo, ConsumerRequest, CreateConsumerRequest, ListConsumersRequest, ResetConsumerRequest,
    UpdateConsumerRequest, consumer_service_client::ConsumerServiceClient,
};

use crate::{Client, Consumer, ConsumerSettings, Result, Start, channels::Channels};

impl Client {
    /// Lists durable consumers in the order of their names, page by page.
    pub fn consumers(&self) -> Consumers {
        Consumers { client: self.clone(), request: Some(ListConsumersRequest::default()) }
    }

    pub(crate) fn consumer_service(&self) -> ConsumerServiceClient<Channels> {
        ConsumerServiceClient::new(self.channels.clone())
    }
}

/// Looking after the consumer.
impl Consumer {
    /// Creates it. Creating one that exists with the same settings changes nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if the settings are bad, or those of the one that exists are others.
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
    /// [`Error::NotFound`](crate::Error::NotFound) if there is none of this name.
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
    /// [`Error::Invalid`](crate::Error::Invalid) for bad settings, and for a filter or start;
    /// [`Error::NotFound`](crate::Error::NotFound) if there is none of this name.
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
    /// [`Error::NotFound`](crate::Error::NotFound) if there is none of this name.
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
    /// [`Error::NotFound`](crate::Error::NotFound) if there is none of this name.
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
    /// [`Error::NotFound`](crate::Error::NotFound) if there is none of this name,
    /// [`Error::Invalid`](crate::Error::Invalid) for a start that its filter cannot have.
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
    /// [`Error::NotFound`](crate::Error::NotFound) if there is none of this name (any more).
    pub async fn delete(&self) -> Result<()> {
        let call = self.client.repeat(|| {
            let (mut service, request) = (self.client.consumer_service(), self.request());
            async move { service.delete_consumer(request).await }
        });
        call.await
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
