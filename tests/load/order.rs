//! P2: nothing is skipped, and one stream's messages keep their order.

use std::time::Duration;

use futures_util::StreamExt;
use minitoolstream_client::{
    Client, Fetch, NewMessage,
    proto::{PublishRequest, ingress_service_client::IngressServiceClient},
};
use minitoolstream_testkit::TestBroker;
use tonic::transport::Endpoint;

const SUBJECT: &str = "orders.new";
const PUBLISHERS: usize = 50;
const EACH: u64 = 1_000;

/// The earlier version took a number first and inserted the row later, so that a consumer at the tip could acknowledge
/// past a slow publisher's message: of 5,000 it never saw 33.
#[tokio::test(flavor = "multi_thread")]
async fn load_p2_an_eager_consumer_skips_nothing_of_50_publishers() {
    let broker = TestBroker::start(&[]).await;
    let consumer = tokio::spawn(consume_everything(broker.client().await));
    let mut publishers = Vec::new();
    for publisher in 0..PUBLISHERS {
        let address = format!("http://{}", broker.ingress);
        let client = broker.client().await;
        publishers.push(tokio::spawn(async move {
            // Every fifth publishes call by call, as the first version's clients do.
            if publisher.is_multiple_of(5) {
                let channel = Endpoint::from_shared(address).unwrap().connect().await.unwrap();
                let mut calls = IngressServiceClient::new(channel);
                for index in 0..EACH {
                    let data = format!("{publisher}-{index}").into();
                    let request = PublishRequest { subject: SUBJECT.into(), data, ..Default::default() };
                    calls.publish(request).await.unwrap();
                }
            } else {
                let stream = client.publisher();
                let mut acks = Vec::new();
                for index in 0..EACH {
                    acks.push(stream.send(NewMessage::new(SUBJECT, format!("{publisher}-{index}"))).await);
                }
                for ack in acks {
                    ack.await.unwrap();
                }
            }
        }));
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let received = tokio::time::timeout(Duration::from_secs(60), consumer).await.expect("nothing is missing").unwrap();
    let mut next = [0; PUBLISHERS];
    for data in &received {
        let (publisher, index) = data.split_once('-').unwrap();
        let (publisher, index): (usize, u64) = (publisher.parse().unwrap(), index.parse().unwrap());
        assert_eq!(index, next[publisher], "messages of publisher {publisher} keep their order");
        next[publisher] += 1;
    }
    assert_eq!(next, [EACH; PUBLISHERS]);
    broker.stop().await;
}

/// Fetches from the acked position and acknowledges at once, until all messages were seen.
async fn consume_everything(client: Client) -> Vec<String> {
    let mut received: Vec<String> = Vec::new();
    while (received.len() as u64) < PUBLISHERS as u64 * EACH {
        let mut messages = client.fetch(Fetch::durable(SUBJECT, "eager").limit(500)).await.unwrap();
        let mut last = None;
        while let Some(message) = messages.next().await {
            let message = message.unwrap();
            assert_eq!(message.sequence, received.len() as u64 + 1, "no sequence is passed over");
            received.push(String::from_utf8(message.data.unwrap().to_vec()).unwrap());
            last = Some(message.sequence);
        }
        if let Some(last) = last {
            client.ack("eager", SUBJECT, last).await.unwrap();
        }
    }
    received
}
