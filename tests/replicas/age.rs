//! Work wanders between brokers as connections reach their age.

use std::{collections::BTreeMap, time::Duration};

use futures_util::StreamExt;
use minitoolstream_client::{Client, Connect, ConsumerSettings, NewMessage};
use minitoolstream_testkit::Process;
use tokio::time::{sleep, timeout};

use crate::start;

const COUNT: u32 = 150;

async fn client_of_all(brokers: &[Process], key: &str) -> Client {
    let addresses: Vec<_> = brokers.iter().map(|broker| broker.address(key)).collect();
    Connect::to(addresses.join(",")).connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_a_worker_wanders_between_brokers_and_gets_each_message_once() {
    let mut cluster = start(&[("SERVER_CONNECTION_AGE", "300ms"), ("SERVER_CONNECTION_AGE_GRACE", "20s")]);
    let publisher = client_of_all(&cluster.ingress, "ingress").await.publisher();
    let worker = client_of_all(&cluster.egress, "egress").await.consumer("w").settings(ConsumerSettings::of("jobs"));
    worker.create(ConsumerSettings::of("jobs")).await.unwrap();
    let publishing = async {
        for number in 0..COUNT {
            // One in thirty comes without its data, which only the broker of its lease reads out.
            let size = if number % 30 == 0 { 5 << 20 } else { 10 };
            publisher.publish(NewMessage::new("jobs", vec![7; size])).await.unwrap();
            sleep(Duration::from_millis(10)).await;
        }
    };
    let working = async {
        let (mut seen, mut deliveries) = (BTreeMap::new(), worker.max_message_bytes(1 << 20).messages().await.unwrap());
        while seen.len() < COUNT as usize {
            let delivery = deliveries.next().await.unwrap().unwrap();
            let sequence = delivery.message.sequence;
            assert_eq!((seen.insert(sequence, ()), delivery.attempt), (None, 1), "{sequence} is delivered once");
            if delivery.message.data.is_none() {
                // Until then its connection has become old.
                sleep(Duration::from_millis(350)).await;
            }
            let data = delivery.data().await.unwrap();
            assert!(data.iter().all(|byte| *byte == 7));
            delivery.ack().await.unwrap();
        }
        deliveries.drain(Duration::from_secs(10)).await.unwrap();
    };
    let both = async { tokio::join!(publishing, working) };
    timeout(Duration::from_secs(60), both).await.expect("all is published and worked on");
    let info = cluster.egress[0].client().consumer("w").info().await.unwrap();
    assert_eq!((info.acked, info.unacked, info.redeliveries), (u64::from(COUNT), 0, 0), "{info:?}");
    for broker in cluster.brokers() {
        let (_, page) = minitoolstream_testkit::http::get(broker.address("http"), "/metrics").await;
        let aged = page.lines().find_map(|line| line.strip_prefix("minitoolstream_aged_connections_total "));
        assert!(aged.unwrap().parse::<u32>().unwrap() >= 2, "it had its share: {aged:?}");
    }
    cluster.stop();
}
