//! Connections that reach their age: whoever uses the client library notices nothing, and whoever does not is told.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use minitoolstream_client::{
    Connect, ConsumerSettings, Error, Fetch, NewMessage,
    proto::{FetchRequest, UploadHeader, UploadRequest, upload_request::Frame},
};
use minitoolstream_testkit::{Proxy, TestBroker, http};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::api::{Api, message};

const PATIENCE: Duration = Duration::from_secs(20);

async fn start(age: &str, grace: &str) -> TestBroker {
    TestBroker::start(&[("SERVER_CONNECTION_AGE", age), ("SERVER_CONNECTION_AGE_GRACE", grace)]).await
}

/// How many connections became old.
async fn aged(broker: &TestBroker) -> u64 {
    let (_, page) = http::get(&broker.http.to_string(), "/metrics").await;
    let line = page.lines().find(|line| line.starts_with("minitoolstream_aged_connections_total "));
    line.and_then(|line| line.rsplit_once(' ')).unwrap().1.parse().unwrap()
}

/// A port that nobody listens on.
fn dead() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn p4_publishing_and_consuming_go_on_over_many_ages() {
    const COUNT: u32 = 400;
    let broker = start("300ms", "10s").await;
    let (client, worker, follower) = (broker.client().await, broker.client().await, broker.client().await);
    let consumer = worker.consumer("w").settings(ConsumerSettings::of("a"));
    consumer.create(ConsumerSettings::of("a")).await.unwrap();
    let consuming = async {
        let mut deliveries = consumer.messages().await.unwrap();
        let mut seen = BTreeMap::new();
        while seen.len() < COUNT as usize {
            let delivery = deliveries.next().await.unwrap().unwrap();
            let before = seen.insert(delivery.message.sequence, delivery.attempt);
            assert_eq!((before, delivery.attempt), (None, 1), "{} is delivered once", delivery.message.sequence);
            delivery.ack().await.unwrap();
        }
        deliveries.drain(PATIENCE).await.unwrap();
        seen
    };
    let following = async {
        let messages = follower.fetch(Fetch::from_sequence("a", 1).follow()).await.unwrap().take(COUNT as usize);
        messages.map(|message| message.unwrap().sequence).collect::<Vec<_>>().await
    };
    let told = async {
        let mut notifications = follower.subscribe("a", "", Some(0)).await.unwrap();
        while notifications.next().await.unwrap().unwrap().sequence < u64::from(COUNT) {}
    };
    let publishing = async {
        // Without a message id: what becomes of each is known all the same.
        let publisher = client.publisher();
        let mut pending = Vec::new();
        for number in 0..COUNT {
            pending.push(publisher.send(NewMessage::new("a", format!("{number}"))).await);
            sleep(Duration::from_millis(5)).await;
        }
        let mut sequences = Vec::new();
        for ack in pending {
            sequences.push(ack.await.unwrap().sequence);
        }
        sequences
    };
    let all = async { tokio::join!(publishing, consuming, following, told) };
    let (published, consumed, followed, ()) = timeout(PATIENCE, all).await.unwrap();
    let expected: Vec<_> = (1..=u64::from(COUNT)).collect();
    assert_eq!((&published, &followed), (&expected, &expected));
    assert_eq!(consumed.into_keys().collect::<Vec<_>>(), expected);
    assert!(aged(&broker).await >= 12, "three connections became old every 300 ms for two seconds");
    let info = consumer.info().await.unwrap();
    assert_eq!((info.acked, info.unacked, info.redeliverable), (u64::from(COUNT), 0, 0), "{info:?}");
    broker.stop().await;
}

#[tokio::test]
async fn a_publisher_that_was_silent_over_an_age_loses_nothing() {
    let broker = start("200ms", "10s").await;
    let publisher = broker.client().await.publisher();
    for sequence in 1..=3 {
        // Without an id, so that nothing can be repeated; after the notice, and after the end of a stream.
        assert_eq!(publisher.publish(NewMessage::new("a", "data")).await.unwrap().sequence, sequence);
        sleep(Duration::from_millis(400)).await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn transfers_under_way_end_by_themselves_within_the_grace() {
    let broker = start("200ms", "10s").await;
    let client = broker.client().await;
    let data: Vec<u8> = (0..8_u32 << 20).map(|at| (at % 251) as u8).collect();
    // What a pipe gave cannot be sent again: it is done in one stream or not at all.
    let (mut pipe, end) = tokio::io::duplex(64 << 10);
    let feeding = async {
        for piece in data.chunks(1 << 20) {
            pipe.write_all(piece).await.unwrap();
            sleep(Duration::from_millis(100)).await;
        }
        drop(pipe);
    };
    let upload = client.upload(NewMessage::new("a", "")).attempts(1).from_reader(end);
    let (uploaded, ()) = tokio::join!(upload, feeding);
    assert_eq!(uploaded.unwrap().size, data.len() as u64);
    let mut reader = client.open(("a", 1)).attempts(1).await.unwrap();
    let mut read = Vec::new();
    while reader.read_buf(&mut read).await.unwrap() > 0 {
        if read.len() % (1 << 20) < (64 << 10) {
            sleep(Duration::from_millis(20)).await;
        }
    }
    assert!(read == data);
    assert!(aged(&broker).await >= 2, "the connections of both became old meanwhile");
    broker.stop().await;
}

#[tokio::test]
async fn p3_transfers_that_outlast_the_grace_go_on_where_they_were() {
    let broker = start("200ms", "100ms").await;
    let proxy = Proxy::start(broker.ingress);
    proxy.delay(Duration::from_millis(5));
    let client = Connect::to(proxy.address.to_string()).connect().await.unwrap();
    let data: Vec<u8> = (0..4_u32 << 20).map(|at| (at % 251) as u8).collect();
    let started = Instant::now();
    let uploaded = timeout(PATIENCE, client.upload(NewMessage::new("a", "")).from_bytes(data.clone())).await;
    assert_eq!(uploaded.unwrap().unwrap().size, data.len() as u64);
    let mut read = Vec::new();
    let mut reader = client.open(("a", 1)).await.unwrap();
    timeout(PATIENCE, reader.read_to_end(&mut read)).await.unwrap().unwrap();
    assert!(read == data);
    let (took, aged) = (started.elapsed(), aged(&broker).await);
    assert!(aged >= 2, "only {aged} connections became old in {took:?}");
    broker.stop().await;
}

#[tokio::test]
async fn who_does_not_leave_is_cut_after_the_grace() {
    let broker = start("300ms", "300ms").await;
    let api = Api::connect(broker.ingress).await;
    api.publish(message("a", 1, 1)).await.unwrap();
    let since = Instant::now();
    let request = FetchRequest { subject: "a".into(), start_sequence: Some(1), follow: true, ..Default::default() };
    let mut follower = api.open_fetch(request).await.unwrap();
    assert_eq!(follower.message().await.unwrap().unwrap().sequence, 1);
    // An upload that never ends.
    let (frames, outgoing) = mpsc::channel(1);
    let header = UploadHeader { upload_id: "u".into(), message: Some(message("a", 1, 0)), ..Default::default() };
    frames.send(UploadRequest { frame: Some(Frame::Header(header)) }).await.unwrap();
    let (mut ingress, cut) = (api.ingress.clone(), Instant::now());
    let uploading = tokio::spawn(async move { (ingress.upload(ReceiverStream::new(outgoing)).await, cut.elapsed()) });
    let told = timeout(PATIENCE, follower.message()).await.unwrap().unwrap_err();
    assert_eq!(told.code(), Code::Unavailable, "{told:?}");
    assert!(told.message().contains("has reached its age (server.connection_age): connect again"), "{told:?}");
    assert!(since.elapsed() >= Duration::from_millis(250), "{:?}", since.elapsed());
    assert!(!uploading.is_finished(), "it may go on for a while");
    // The first may come between the notice and the end: then the transport cancels it.
    let again = async { while api.publish(message("a", 1, 1)).await.is_err() {} };
    timeout(PATIENCE, again).await.expect("a new connection is opened");
    assert!(!uploading.is_finished(), "and the old one is still there");
    let (ended, took) = timeout(PATIENCE, uploading).await.unwrap().unwrap();
    assert!(ended.is_err() && took >= Duration::from_millis(500), "{took:?}");
    drop(frames);
    broker.stop().await;
}

#[tokio::test]
async fn without_an_age_connections_stay() {
    let broker = start("0", "100ms").await;
    let api = Api::connect(broker.ingress).await;
    api.publish(message("a", 1, 1)).await.unwrap();
    sleep(Duration::from_millis(600)).await;
    api.publish(message("a", 1, 1)).await.unwrap();
    assert_eq!(aged(&broker).await, 0);
    broker.stop().await;
}

#[tokio::test]
async fn a_broker_that_comes_later_gets_its_share() {
    let age = [("SERVER_CONNECTION_AGE", "200ms")];
    let (old, port) = (TestBroker::start(&age).await, dead().port().to_string());
    let addresses = format!("{},127.0.0.1:{port}", old.ingress);
    let client = Connect::to(addresses).connect().await.unwrap();
    let publisher = client.publisher();
    let mut number = 0;
    let mut publish = async || {
        number += 1;
        publisher.publish(NewMessage::new("a", "data").message_id(format!("{number}"))).await.unwrap();
        sleep(Duration::from_millis(5)).await;
    };
    for _ in 0..100 {
        publish().await;
    }
    let new = TestBroker::start(&[age[0], ("SERVER_PORT", &port)]).await;
    let has = async |broker: &TestBroker| broker.client().await.last_sequence("a").await.unwrap();
    let since = Instant::now();
    while has(&new).await < 50 {
        publish().await;
        assert!(since.elapsed() < PATIENCE, "it gets nothing");
    }
    let before = has(&old).await;
    while has(&old).await < before + 50 {
        publish().await;
        assert!(since.elapsed() < PATIENCE, "the first gets nothing any more");
    }
    // One goes: the other has all.
    old.stop().await;
    let before = has(&new).await;
    for _ in 0..50 {
        publish().await;
    }
    assert_eq!(has(&new).await, before + 50);
    new.stop().await;
}

#[tokio::test]
async fn calls_take_turns_and_a_dead_address_gets_none() {
    let [one, two] = [TestBroker::start(&[]).await, TestBroker::start(&[]).await];
    let addresses = format!("http://{},{},{}", dead(), one.ingress, two.ingress);
    let client = Connect::to(addresses).attempts(1).connect().await.unwrap();
    let (mut uploaded, since) = (0, Instant::now());
    let share = async |broker: &TestBroker| broker.client().await.last_sequence("a").await.unwrap();
    // The second connection may come up a moment later.
    while share(&one).await < 20 || share(&two).await < 20 {
        client.upload(NewMessage::new("a", "")).attempts(1).from_bytes("data").await.unwrap();
        uploaded += 1;
        assert!(since.elapsed() < PATIENCE, "{} and {}", share(&one).await, share(&two).await);
    }
    let shares = [share(&one).await, share(&two).await];
    assert!(shares[0].abs_diff(shares[1]) <= 20, "{shares:?} of {uploaded}");
    // One goes: that is noticed by one call, and the other has the rest.
    one.stop().await;
    let mut failed = 0;
    for _ in 0..20 {
        let ended = client.upload(NewMessage::new("a", "")).attempts(1).from_bytes("data").await;
        failed += u32::from(ended.is_err());
    }
    assert!(failed <= 2, "{failed} of 20 went to the one that is gone");
    two.stop().await;
}

#[tokio::test]
async fn a_name_stands_for_all_its_addresses() {
    let broker = TestBroker::start(&[]).await;
    // On many machines it is ::1, too, where nobody listens.
    let name = format!("dns:///localhost:{}", broker.ingress.port());
    let client = Connect::to(name).attempts(1).connect().await.unwrap();
    for _ in 0..20 {
        assert_eq!(client.last_sequence("a").await.unwrap(), 0);
    }
    broker.stop().await;
    let nobody = Connect::to("dns:///nobody.invalid:50051").attempts(1);
    for refused in [nobody.clone().connect().await.err(), nobody.connect_lazy().unwrap().last_sequence("a").await.err()]
    {
        let Some(Error::Unavailable { message, .. }) = refused else { panic!("{refused:?}") };
        assert!(message.contains("'dns:///nobody.invalid:50051' stands for no address"), "{message}");
        assert!(message.contains("check the name"), "{message}");
    }
}
