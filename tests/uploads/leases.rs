//! Large messages of consumers: detached, and read by lease.

use std::time::Duration;

use bytes::Bytes;
use minitoolstream_client::proto::{
    ConsumeRequest, ConsumerSettings, Credit, Delivery, OpenConsumer, ReadMessageRequest,
};
use minitoolstream_testkit::TestBroker;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::{
    api::{Api, header},
    pattern::Pattern,
};

struct Worker {
    requests: mpsc::Sender<ConsumeRequest>,
    responses: Streaming<minitoolstream_client::proto::ConsumeResponse>,
}

impl Worker {
    async fn open(api: &Api) -> Self {
        let settings = ConsumerSettings { filter: "a".into(), ..Default::default() };
        let open = OpenConsumer { durable_name: "w".into(), settings: Some(settings), ..Default::default() };
        let credit = Credit { messages: 10, bytes: 100 << 20 };
        let (requests, waiting) = mpsc::channel(10);
        let first = ConsumeRequest { open: Some(open), credit: Some(credit), ..Default::default() };
        requests.send(first).await.unwrap();
        let responses = api.egress.clone().consume(ReceiverStream::new(waiting)).await.unwrap().into_inner();
        Self { requests, responses }
    }

    async fn next(&mut self) -> Delivery {
        let next = async {
            loop {
                let response = self.responses.message().await.unwrap().unwrap();
                if let Some(delivery) = response.deliveries.into_iter().next() {
                    return delivery;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), next).await.expect("a delivery")
    }
}

fn by_lease(lease_id: u64, offset: u64) -> ReadMessageRequest {
    ReadMessageRequest { lease_id, offset, ..Default::default() }
}

#[tokio::test]
async fn p4_a_message_is_read_by_its_lease_while_that_is_held() {
    let broker = TestBroker::start(&[]).await;
    let api = Api::connect(broker.ingress).await;
    let data = Pattern::new(1, 9 << 20);
    api.upload(header("u", "a"), data).await.unwrap();
    let mut worker = Worker::open(&api).await;
    let delivery = worker.next().await;
    let message = delivery.message.clone().unwrap();
    assert_eq!(message.detached.map(|detached| detached.size), Some(data.size), "more than a message may carry");
    let (read, pieces) = api.read(by_lease(delivery.lease_id, 5 << 20)).await.unwrap();
    assert_eq!((read.subject.as_str(), read.sequence), ("a", 1));
    assert_eq!(Bytes::from(pieces.concat()), data.whole().slice(5 << 20..));
    let both = ReadMessageRequest { subject: "a".into(), sequence: 1, ..by_lease(delivery.lease_id, 0) };
    assert_eq!(api.read(both).await.unwrap_err().code(), Code::InvalidArgument);
    let unknown = api.read(by_lease(delivery.lease_id ^ 1, 0)).await.unwrap_err();
    assert_eq!(unknown.code(), Code::FailedPrecondition, "{unknown:?}");
    drop(worker);
    // Another worker goes on half-way.
    let mut other = Worker::open(&api).await;
    let again = other.next().await;
    assert_eq!(again.attempt, 2);
    let lost = api.read(by_lease(delivery.lease_id, 0)).await.unwrap_err();
    assert_eq!(lost.code(), Code::FailedPrecondition, "{lost:?}");
    let (_, pieces) = api.read(by_lease(again.lease_id, 8 << 20)).await.unwrap();
    assert_eq!(Bytes::from(pieces.concat()), data.whole().slice(8 << 20..));
    drop(other.requests);
    broker.stop().await;
}
