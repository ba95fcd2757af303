use std::{collections::VecDeque, time::Duration};

use minitoolstream_client::proto::{
    ConsumeRequest, ConsumeResponse, ConsumerInfo, ConsumerRequest, ConsumerSettings, CreateConsumerRequest, Credit,
    Delivery, LeaseRefused, OpenConsumer, consumer_service_client::ConsumerServiceClient,
    egress_service_client::EgressServiceClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A worker that says on the wire what a test wants it to say, and nothing by itself.
pub(crate) struct Worker {
    requests: Option<mpsc::Sender<ConsumeRequest>>,
    responses: Streaming<ConsumeResponse>,
    waiting: VecDeque<Delivery>,
    /// Leases whose answers were carried out.
    pub(crate) settled: Vec<u64>,
    /// Leases whose answers were not.
    pub(crate) refused: Vec<LeaseRefused>,
    /// Frames with nothing in them.
    pub(crate) heartbeats: usize,
    pub(crate) draining: bool,
}

/// What a worker opens: a consumer by name, with settings for a filter.
pub(crate) fn open(name: &str, filter: &str) -> OpenConsumer {
    let settings = ConsumerSettings { filter: filter.into(), ..Default::default() };
    OpenConsumer { durable_name: name.into(), settings: Some(settings), ..Default::default() }
}

pub(crate) fn seconds(seconds: f64) -> Option<prost_types::Duration> {
    Some(Duration::from_secs_f64(seconds).try_into().unwrap())
}

pub(crate) async fn channel(address: impl std::fmt::Display) -> Channel {
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

pub(crate) async fn info(address: impl std::fmt::Display, name: &str) -> Result<ConsumerInfo, Status> {
    let mut service = ConsumerServiceClient::new(channel(address).await);
    Ok(service.get_consumer(ConsumerRequest { name: name.into() }).await?.into_inner())
}

pub(crate) async fn create(
    address: impl std::fmt::Display,
    name: &str,
    settings: ConsumerSettings,
) -> Result<ConsumerInfo, Status> {
    let mut service = ConsumerServiceClient::new(channel(address).await);
    let request = CreateConsumerRequest { name: name.into(), settings: Some(settings) };
    Ok(service.create_consumer(request).await?.into_inner())
}

impl Worker {
    /// Opens a stream with credit for so many messages, on a connection of its own.
    pub(crate) async fn open(address: impl std::fmt::Display, open: OpenConsumer, messages: u32) -> Self {
        Self::try_open(address, open, Credit { messages, bytes: 64 << 20 }).await.unwrap()
    }

    pub(crate) async fn try_open(
        address: impl std::fmt::Display,
        open: OpenConsumer,
        credit: Credit,
    ) -> Result<Self, Status> {
        let (requests, stream) = mpsc::channel(1000);
        requests.send(ConsumeRequest { open: Some(open), credit: Some(credit), ..Default::default() }).await.unwrap();
        let mut egress = EgressServiceClient::new(channel(address).await).max_decoding_message_size(usize::MAX);
        let mut responses = egress.consume(ReceiverStream::new(stream)).await?.into_inner();
        let first = responses.message().await?.unwrap();
        assert!(first.opened.is_some(), "{first:?}");
        Ok(Self {
            requests: Some(requests),
            responses,
            waiting: VecDeque::new(),
            settled: Vec::new(),
            refused: Vec::new(),
            heartbeats: 0,
            draining: false,
        })
    }

    pub(crate) async fn say(&self, request: ConsumeRequest) {
        self.requests.as_ref().unwrap().send(request).await.unwrap();
    }

    /// Says that nothing more will be asked, and waits for the end.
    pub(crate) async fn finish(&mut self) -> Status {
        self.requests = None;
        self.end().await
    }

    /// The next delivery.
    pub(crate) async fn next(&mut self) -> Delivery {
        loop {
            if let Some(delivery) = self.waiting.pop_front() {
                return delivery;
            }
            self.frame().await.unwrap();
        }
    }

    /// The next so many, as (sequence, attempt).
    pub(crate) async fn take(&mut self, count: usize) -> Vec<(u64, u32)> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let delivery = self.next().await;
            taken.push((delivery.message.unwrap().sequence, delivery.attempt));
        }
        taken
    }

    /// True if nothing is delivered for this long.
    pub(crate) async fn is_silent_for(&mut self, time: Duration) -> bool {
        let delivery = async {
            while self.waiting.is_empty() {
                self.frame().await.unwrap();
            }
        };
        tokio::time::timeout(time, delivery).await.is_err()
    }

    /// Acks, and waits until the broker says that it is done.
    pub(crate) async fn ack(&mut self, lease: u64) {
        self.say(ConsumeRequest { ack: vec![lease], ..Default::default() }).await;
        assert_eq!(self.outcome(lease).await, Ok(()));
    }

    /// Waits for what became of an answer.
    pub(crate) async fn outcome(&mut self, lease: u64) -> Result<(), LeaseRefused> {
        loop {
            if let Some(index) = self.settled.iter().position(|settled| *settled == lease) {
                self.settled.remove(index);
                return Ok(());
            }
            if let Some(index) = self.refused.iter().position(|refused| refused.lease_id == lease) {
                return Err(self.refused.remove(index));
            }
            self.frame().await.unwrap();
        }
    }

    /// The end of the stream.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            match self.frame().await {
                Ok(()) => {}
                Err(status) => return status,
            }
        }
    }

    /// Takes one frame in.
    pub(crate) async fn frame(&mut self) -> Result<(), Status> {
        let frame = tokio::time::timeout(PATIENCE, self.responses.message()).await;
        let frame = frame.map_err(|_| Status::deadline_exceeded("nothing came in time"))??;
        let frame = frame.ok_or_else(|| Status::ok("the stream has ended"))?;
        self.heartbeats += usize::from(frame == ConsumeResponse::default());
        self.draining |= frame.draining;
        let done = frame.settled.iter().chain(&frame.extended);
        self.settled.extend(done.flat_map(|run| (run.first_id..).take(run.count as usize)));
        self.refused.extend(frame.refused);
        self.waiting.extend(frame.deliveries);
        Ok(())
    }
}
