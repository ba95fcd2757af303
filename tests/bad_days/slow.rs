//! P6: clients that do not read what they asked for.

use std::time::{Duration, Instant};

use minitoolstream_client::proto::{
    FetchRequest, PublishStreamRequest, SubscribeRequest, egress_service_client::EgressServiceClient,
    ingress_service_client::IngressServiceClient,
};
use minitoolstream_testkit::{Process, http};
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::api::{Api, message};

/// One stored message. There are a hundred.
const MESSAGE: usize = 1 << 20;

const MESSAGES: usize = 100;

/// The smallest limits that let such a message pass. By the formula of `admission.rs` they allow 64 + 4 x 4 + 4 x 4 MiB,
/// and a MiB for each connection.
const SETTINGS: [(&str, &str); 6] = [
    ("LIMITS_MESSAGE_MAX", "1MiB"),
    ("LIMITS_INFLIGHT_BYTES", "4MiB"),
    ("LIMITS_CONNECTION_INFLIGHT_BYTES", "4MiB"),
    ("LIMITS_READ_BYTES", "4MiB"),
    ("LIMITS_STALL_TIMEOUT", "500ms"),
    ("TTL_ENABLED", "false"),
];

/// HTTP/2 windows: one that holds a part of a message, and one that holds hardly anything.
const LARGE: u32 = 64 << 10;
const SMALL: u32 = 16;

const STALL: Duration = Duration::from_millis(500);

const MEMORY_MAX: u64 = 100 << 20;

struct Stage {
    process: Process,
    _dir: tempfile::TempDir,
}

impl Stage {
    /// A broker with a hundred megabytes in the subject `big`.
    async fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::start(env!("CARGO_BIN_EXE_minitoolstream"), dir.path(), &SETTINGS);
        let api = Api::connect(process.address("ingress")).await;
        for _ in 0..MESSAGES {
            api.publish(message("big", 1, MESSAGE)).await.unwrap();
        }
        Self { process, _dir: dir }
    }

    /// A connection of a client that takes so many bytes of each stream before it has read them.
    async fn connect(&self, window: u32) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.process.address("egress"))).unwrap();
        endpoint.initial_stream_window_size(window).connect().await.unwrap()
    }

    async fn egress(&self, window: u32) -> EgressServiceClient<Channel> {
        EgressServiceClient::new(self.connect(window).await).max_decoding_message_size(usize::MAX)
    }

    /// The most memory that the broker ever had.
    fn memory_peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() << 10
    }

    /// Others publish and read in good time, and memory is bounded.
    async fn others_are_served(&self) {
        let since = Instant::now();
        let api = Api::connect(self.process.address("ingress")).await;
        let sequence = api.publish(message("small", 1, 100)).await.unwrap();
        let (messages, end) = api.fetch("small", sequence).await;
        end.unwrap();
        assert_eq!(messages.len(), 1);
        assert!(since.elapsed() < 6 * STALL, "others waited for {:?}", since.elapsed());
    }

    async fn subscriptions(&self) -> u64 {
        http::metric(self.process.address("http"), "minitoolstream_live_subscriptions").await
    }
}

fn big(follow: bool) -> FetchRequest {
    FetchRequest {
        subject: "big".into(),
        start_sequence: Some(1),
        batch_size: 10_000,
        max_message_bytes: u32::MAX,
        follow,
        ..Default::default()
    }
}

/// Reads a stream at last: how many items there were before the end, and why it ended.
async fn read_at_last<T>(mut stream: Streaming<T>) -> (usize, Status) {
    let mut items = 0;
    loop {
        let item = tokio::time::timeout(Duration::from_secs(10), stream.message()).await;
        match item.expect("the stream has ended") {
            Ok(Some(_)) => items += 1,
            Ok(None) => panic!("the stream ended well after {items} items"),
            Err(status) => return (items, status),
        }
    }
}

fn assert_dropped(status: &Status) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("not read"), "{status:?}");
}

#[tokio::test]
async fn p6_fetches_that_nobody_reads() {
    let stage = Stage::set().await;
    let mut streams = Vec::new();
    for follow in [false, true, false, true, false, true, false, true] {
        streams.push(stage.egress(LARGE).await.fetch(big(follow)).await.unwrap().into_inner());
    }
    stage.others_are_served().await;
    let since = Instant::now();
    while stage.subscriptions().await > 0 {
        assert!(since.elapsed() < 20 * STALL, "they are not dropped");
        tokio::time::sleep(STALL / 10).await;
    }
    stage.others_are_served().await;
    drop(streams);
    let peak = stage.memory_peak();
    assert!(peak < MEMORY_MAX, "{} MiB", peak >> 20);
}

#[tokio::test]
async fn p6_one_that_reads_at_last_is_told_why_it_was_dropped() {
    let stage = Stage::set().await;
    for follow in [false, true] {
        let stream = stage.egress(LARGE).await.fetch(big(follow)).await.unwrap().into_inner();
        // Longer than the timeout, and shorter than what costs it the connection.
        tokio::time::sleep(STALL + 3 * STALL / 4).await;
        let (items, status) = read_at_last(stream).await;
        assert!(items < 5, "{items} were kept for a client that did not read");
        assert_dropped(&status);
    }
}

#[tokio::test]
async fn p6_a_subscription_that_nobody_reads() {
    let stage = Stage::set().await;
    let request = SubscribeRequest { subject: "news".into(), start_sequence: None, durable_name: String::new() };
    let stream = stage.egress(SMALL).await.subscribe(request).await.unwrap().into_inner();
    let api = Api::connect(stage.process.address("ingress")).await;
    let since = Instant::now();
    while stage.subscriptions().await == 1 {
        api.publish(message("news", 1, 1)).await.unwrap();
        assert!(since.elapsed() < 20 * STALL, "it is not dropped");
    }
    stage.others_are_served().await;
    let (_, status) = read_at_last(stream).await;
    assert_dropped(&status);
}

#[tokio::test]
async fn p6_acks_that_nobody_reads() {
    let stage = Stage::set().await;
    // Every other message is refused, so that each has an ack of its own.
    let frames = (0..20_000_u64).map(|first_id| PublishStreamRequest {
        first_id,
        messages: vec![message(if first_id % 2 == 0 { "acks" } else { "" }, 1, 4000)],
    });
    let mut ingress = IngressServiceClient::new(stage.connect(SMALL).await);
    let stream = ingress.publish_stream(tokio_stream::iter(frames)).await.unwrap().into_inner();
    tokio::time::sleep(4 * STALL).await;
    stage.others_are_served().await;
    let (_, status) = read_at_last(stream).await;
    assert_dropped(&status);
    let stored = Api::connect(stage.process.address("ingress")).await.fetch("acks", 1).await.0.len();
    assert!(stored < 9_000, "{stored} messages were taken from a client that did not read their acks");
    let peak = stage.memory_peak();
    assert!(peak < MEMORY_MAX, "{} MiB", peak >> 20);
}
