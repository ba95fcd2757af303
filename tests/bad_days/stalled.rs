//! P6: clients that announce messages and do not send them, or vanish in the middle of one. What others publish, ack and
//! read goes on.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::Frame;
use minitoolstream_client::proto::{AckRequest, FetchRequest, GetLastSequenceRequest};
use minitoolstream_testkit::TestBroker;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tonic::{body::Body, transport::Channel};
use tower_service::Service;

use crate::api::{Api, message};

const MIB: usize = 1 << 20;

/// Every call of the API.
const CALLS: [&str; 27] = [
    "IngressService/Publish",
    "IngressService/PublishBatch",
    "IngressService/PublishStream",
    "IngressService/Upload",
    "IngressService/GetUpload",
    "IngressService/AbortUpload",
    "EgressService/Subscribe",
    "EgressService/Fetch",
    "EgressService/Consume",
    "EgressService/FetchLast",
    "EgressService/ReadMessage",
    "EgressService/GetLastSequence",
    "EgressService/AckMessage",
    "ConsumerService/CreateConsumer",
    "ConsumerService/GetConsumer",
    "ConsumerService/ListConsumers",
    "ConsumerService/UpdateConsumer",
    "ConsumerService/PauseConsumer",
    "ConsumerService/ResumeConsumer",
    "ConsumerService/ResetConsumer",
    "ConsumerService/DeleteConsumer",
    "ConsumerService/Redrive",
    "AdminService/ListSubjects",
    "AdminService/PurgeSubject",
    "AdminService/Check",
    "ConsumerService/NoSuchCall",
    "NoSuchService/Call",
];

/// The body of a request, as its pieces are sent; it does not end before the sender is dropped.
struct Pieces(mpsc::UnboundedReceiver<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// A call that has sent the front of a message.
struct Stalled {
    _pieces: mpsc::UnboundedSender<Bytes>,
    answer: tokio::task::JoinHandle<Option<u16>>,
}

impl Stalled {
    /// Announces `len` bytes and sends `sent` of them.
    fn new(mut channel: Channel, call: &str, len: usize, sent: usize) -> Self {
        let (pieces, body) = mpsc::unbounded_channel();
        let prefix = [&[0], u32::try_from(len).unwrap().to_be_bytes().as_slice()].concat();
        pieces.send(prefix.into()).unwrap();
        pieces.send(vec![0; sent].into()).unwrap();
        let request = http::Request::post(format!("http://broker/minitoolstream.{call}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(Pieces(body)))
            .unwrap();
        let answer = tokio::spawn(async move {
            std::future::poll_fn(|cx| channel.poll_ready(cx)).await.ok()?;
            Some(channel.call(request).await.ok()?.status().as_u16())
        });
        Self { _pieces: pieces, answer }
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        self.answer.abort();
    }
}

async fn connect(broker: &TestBroker) -> Channel {
    Channel::from_shared(format!("http://{}", broker.ingress)).unwrap().connect().await.unwrap()
}

/// Publishes small messages, and acks each; gives the longest time of both, and the 99th percentile.
async fn victim(api: &Api, messages: usize) -> (Duration, Duration) {
    let mut times = Vec::with_capacity(messages);
    for _ in 0..messages {
        let since = Instant::now();
        let sequence = api.publish(message("victim", 1, 1024)).await.expect("a publish of another client goes on");
        let ack = AckRequest { durable_name: "d".into(), subject: "victim".into(), sequence };
        api.egress.clone().ack_message(ack).await.expect("an ack of another client goes on");
        times.push(since.elapsed());
    }
    times.sort_unstable();
    (times[messages - 1], times[messages * 99 / 100])
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_messages_that_are_announced_and_not_sent_hold_up_nothing() {
    let broker = TestBroker::start(&[]).await;
    let api = Api::connect(broker.ingress).await;
    let mut stalled = Vec::new();
    for call in
        ["IngressService/PublishStream", "IngressService/Publish", "IngressService/Upload", "EgressService/Consume"]
    {
        for _ in 0..2 {
            let channel = connect(&broker).await;
            stalled.extend((0..4).map(|_| Stalled::new(channel.clone(), call, 4 * MIB, 1)));
        }
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (longest, p99) = victim(&api, 200).await;
    eprintln!("publish and ack beside {} stalled calls: p99 {p99:?}, longest {longest:?}", stalled.len());
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    // Large ones, too.
    let large = timeout(Duration::from_secs(5), api.publish(message("large", 1, 6 * MIB))).await;
    large.expect("what is announced takes no room").unwrap();
    drop(stalled);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_messages_that_stall_near_their_end_are_cut_and_leave_room_for_small_ones() {
    let broker = TestBroker::start(&[]).await;
    let api = Api::connect(broker.ingress).await;
    let mut stalled = Vec::new();
    for _ in 0..6 {
        let channel = connect(&broker).await;
        stalled.push(Stalled::new(channel, "IngressService/PublishStream", 7 * MIB, 7 * MIB - 1));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (longest, p99) = victim(&api, 200).await;
    eprintln!("publish and ack beside 6 messages that lack a byte: p99 {p99:?}, longest {longest:?}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    let since = Instant::now();
    while api.publish(message("large", 1, 6 * MIB)).await.is_err() {
        assert!(since.elapsed() < Duration::from_secs(20), "what stalls is cut");
    }
    eprintln!("a large one passed after {:?}", since.elapsed());
    drop(stalled);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_large_messages_that_arrive_together_all_arrive() {
    let broker =
        TestBroker::start(&[("LIMITS_INFLIGHT_BYTES", "9MiB"), ("LIMITS_CONNECTION_INFLIGHT_BYTES", "9MiB")]).await;
    let mut publishing = JoinSet::new();
    for client in 0..8 {
        let api = Api::connect(broker.ingress).await;
        publishing.spawn(async move {
            for _ in 0..4 {
                api.publish(message(&format!("large.{client}"), 1, 7 * MIB)).await.unwrap();
            }
        });
    }
    let all = async { while publishing.join_next().await.transpose().unwrap().is_some() {} };
    timeout(Duration::from_secs(60), all).await.expect("none waits for another for ever");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_p6_clients_that_vanish_in_the_middle_of_a_frame_of_every_call_hold_up_no_ack() {
    let broker = TestBroker::start(&[]).await;
    let api = Api::connect(broker.ingress).await;
    let mut worst = Duration::ZERO;
    for call in CALLS {
        let mut stalled = Vec::new();
        for sent in [0, 1, 1000, 300_000] {
            let channel = connect(&broker).await;
            stalled.extend((0..4).map(|_| Stalled::new(channel.clone(), call, MIB, sent)));
        }
        let (longest, p99) = victim(&api, 20).await;
        assert!(longest < Duration::from_secs(1), "{call}: {longest:?}");
        worst = worst.max(p99);
        // All at once, in the middle of their messages.
        drop(stalled);
        let (longest, _) = victim(&api, 20).await;
        assert!(longest < Duration::from_secs(1), "after {call}: {longest:?}");
    }
    eprintln!("publish and ack beside clients that vanish: p99 at most {worst:?}");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_a_connection_without_a_preface_is_cut() {
    let broker = TestBroker::start(&[]).await;
    let api = Api::connect(broker.ingress).await;
    let since = Instant::now();
    let mut silent = JoinSet::new();
    for bytes in [&b""[..], b"PRI * HTTP", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        for address in [broker.ingress, broker.egress] {
            silent.spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(bytes).await.unwrap();
                let mut rest = Vec::new();
                // Cut, with or without a word of HTTP/2.
                let _ = timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await.expect("it is cut");
            });
        }
    }
    while silent.join_next().await.transpose().unwrap().is_some() {}
    assert!(since.elapsed() > Duration::from_secs(4), "a slow network has time");
    // One that has spoken stays.
    api.publish(message("a", 1, 1)).await.unwrap();
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_a_client_may_cancel_all_of_its_calls_at_once() {
    let broker = TestBroker::start(&[]).await;
    let channel = connect(&broker).await;
    let api = Api::over(channel.clone());
    let follow = FetchRequest { subject: "a".into(), start_sequence: Some(1), follow: true, ..Default::default() };
    let mut following = api.open_fetch(follow).await.unwrap();
    for round in 0..10 {
        // Begun, and cancelled before the broker has looked at most of them.
        let calls: Vec<_> = (0..256)
            .map(|_| {
                let mut egress = api.egress.clone();
                let request = GetLastSequenceRequest { subject: "a".into() };
                tokio::spawn(async move { egress.get_last_sequence(request).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(round)).await;
        calls.iter().for_each(tokio::task::JoinHandle::abort);
        api.publish(message("a", 1, 1)).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        let next = timeout(Duration::from_secs(5), following.message()).await.expect("it is delivered");
        assert!(next.unwrap_or_else(|error| panic!("round {round}: {error}")).is_some(), "the connection goes on");
    }
    broker.stop().await;
}
