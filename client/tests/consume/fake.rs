use std::{net::SocketAddr, pin::Pin, time::Duration};

use futures_util::Stream;
use minitoolstream_client::{
    Client,
    proto::{
        AckRequest, AckResponse, ConsumeRequest, ConsumeResponse, ConsumerOpened, Delivery, FetchLastRequest,
        FetchRequest, GetLastSequenceRequest, GetLastSequenceResponse, LeaseRun, Message, Notification,
        ReadMessageRequest, ReadMessageResponse, SubscribeRequest,
        egress_service_server::{EgressService, EgressServiceServer},
    },
};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

const PATIENCE: Duration = Duration::from_secs(10);

/// A broker that says what a test tells it.
pub(crate) struct Fake {
    address: SocketAddr,
    opened: mpsc::Receiver<Worker>,
}

/// The broker's side of one stream.
pub(crate) struct Worker {
    pub(crate) requests: Streaming<ConsumeRequest>,
    pub(crate) responses: mpsc::Sender<Result<ConsumeResponse, Status>>,
}

impl Fake {
    /// Leases from here on are those of another broker: nothing can be read by them.
    pub(crate) const LEASE_OF_ANOTHER: u64 = 1000;

    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (workers, opened) = mpsc::channel(16);
        let server = Server::builder().add_service(EgressServiceServer::new(Service { workers }));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { address, opened }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address.to_string()).await.unwrap()
    }

    /// The next stream that is opened; gives what was asked for, too.
    pub(crate) async fn next(&mut self, ack_wait: Duration) -> (Worker, ConsumeRequest) {
        let mut worker = timeout(PATIENCE, self.opened.recv()).await.unwrap().unwrap();
        let asked = worker.hear().await.unwrap();
        let opened = ConsumerOpened { name: "c".into(), ack_wait: Some(ack_wait.try_into().unwrap()) };
        worker.say(ConsumeResponse { opened: Some(opened), ..Default::default() }).await;
        (worker, asked)
    }
}

impl Worker {
    pub(crate) async fn say(&self, response: ConsumeResponse) {
        self.responses.send(Ok(response)).await.unwrap();
    }

    /// Delivers messages; sequences are lease ids.
    pub(crate) async fn deliver(&self, ids: std::ops::RangeInclusive<u64>) {
        let deliveries = ids.map(|id| {
            let message = Message { subject: "s".into(), sequence: id, data: "data".into(), ..Default::default() };
            Delivery { lease_id: id, attempt: 1, backlog: 0, message: Some(message) }
        });
        self.say(ConsumeResponse { deliveries: deliveries.collect(), ..Default::default() }).await;
    }

    pub(crate) async fn settle(&self, first_id: u64, count: u32) {
        let settled = vec![LeaseRun { first_id, count }];
        self.say(ConsumeResponse { settled, ..Default::default() }).await;
    }

    /// The next frame; `None` at the end of the stream.
    pub(crate) async fn hear(&mut self) -> Option<ConsumeRequest> {
        timeout(PATIENCE, self.requests.message()).await.unwrap().unwrap()
    }
}

struct Service {
    workers: mpsc::Sender<Worker>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl EgressService for Service {
    type SubscribeStream = Responses<Notification>;
    type FetchStream = Responses<Message>;
    type ConsumeStream = Responses<ConsumeResponse>;
    type FetchLastStream = Responses<Message>;
    type ReadMessageStream = Responses<ReadMessageResponse>;

    async fn consume(
        &self,
        request: Request<Streaming<ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let (responses, outgoing) = mpsc::channel(16);
        self.workers.send(Worker { requests: request.into_inner(), responses }).await.unwrap();
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn read_message(
        &self,
        request: Request<ReadMessageRequest>,
    ) -> Result<Response<Self::ReadMessageStream>, Status> {
        if request.get_ref().lease_id >= Fake::LEASE_OF_ANOTHER {
            return Err(Status::failed_precondition("the lease was given by another broker"));
        }
        let pieces = ["so ", "large"].map(|piece| Ok(ReadMessageResponse { data: piece.into(), message: None }));
        Ok(Response::new(Box::pin(futures_util::stream::iter(pieces))))
    }

    async fn subscribe(&self, _: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn fetch(&self, _: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn fetch_last(&self, _: Request<FetchLastRequest>) -> Result<Response<Self::FetchLastStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_last_sequence(
        &self,
        _: Request<GetLastSequenceRequest>,
    ) -> Result<Response<GetLastSequenceResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn ack_message(&self, _: Request<AckRequest>) -> Result<Response<AckResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}
