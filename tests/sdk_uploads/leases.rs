//! Large messages of consumers.

use std::time::Duration;

use futures_util::StreamExt;
use minitoolstream_client::{Client, ConsumerSettings, Deliveries, Delivery, Error};
use minitoolstream_testkit::{Proxy, Towards};
use tokio::time::{sleep, timeout};

use crate::world::{MIB, PATIENCE, client_of, data, read_all, start, upload};

async fn consume(client: &Client, ack_wait: Duration) -> Deliveries {
    let settings = ConsumerSettings::of("a").ack_wait(ack_wait);
    client.consumer("w").settings(settings).max_message_bytes(1000).messages().await.unwrap()
}

async fn next(deliveries: &mut Deliveries) -> Delivery {
    timeout(PATIENCE, deliveries.next()).await.expect("a message comes").unwrap().unwrap()
}

#[tokio::test]
async fn a_delivery_is_read_while_its_lease_is_extended() {
    let broker = start().await;
    let client = broker.client().await;
    let data = data(8 * MIB);
    upload(&client, "a", &data).await;
    let mut deliveries = consume(&client, Duration::from_millis(300)).await;
    let delivery = next(&mut deliveries).await;
    assert_eq!((delivery.message.size(), delivery.message.data.as_ref()), (data.len() as u64, None));
    let mut reader = delivery.reader().await.unwrap();
    let mut read = reader.piece().await.unwrap().unwrap().to_vec();
    // Much longer than the ack wait.
    sleep(Duration::from_millis(1500)).await;
    assert!(delivery.lost().is_none());
    read.extend(read_all(reader).await.unwrap());
    assert!(read == data);
    let dir = tempfile::tempdir().unwrap();
    let saved = delivery.reader().save(dir.path().join("copy")).await.unwrap();
    assert_eq!(saved.size, data.len() as u64);
    delivery.ack().await.unwrap();
    assert_eq!(client.consumer("w").info().await.unwrap().acked, 1);
    drop(deliveries);
    broker.stop().await;
}

#[tokio::test]
async fn a_lost_lease_ends_a_read() {
    let broker = start().await;
    let data = data(24 * MIB);
    upload(&broker.client().await, "a", &data).await;
    let proxy = Proxy::start(broker.ingress);
    let client = client_of(&proxy).await;
    let mut deliveries = consume(&client, Duration::from_secs(30)).await;
    let delivery = next(&mut deliveries).await;
    let reader = delivery.reader().await.unwrap();
    proxy.cut_after(Towards::Client, 5 * MIB as u64);
    let error = read_all(reader).await.unwrap_err();
    assert!(matches!(error, Error::LeaseLost(_)), "{error:?}");
    let Err(error) = delivery.data().await else { panic!("it is read no more") };
    assert!(matches!(error, Error::LeaseLost(_)), "{error:?}");
    drop(delivery);
    let again = next(&mut deliveries).await;
    assert_eq!(again.attempt, 2);
    assert!(again.data().await.unwrap() == data);
    // Whoever continues may do so at an offset.
    let rest = again.reader().range(20 * MIB as u64, None).await.unwrap();
    assert!(read_all(rest).await.unwrap() == data[20 * MIB..]);
    again.ack().await.unwrap();
    drop(deliveries);
    broker.stop().await;
}
