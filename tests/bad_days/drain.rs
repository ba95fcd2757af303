//! A broker that is asked to stop: it tells its clients, and none of them can hold it up.

use std::{
    net::{SocketAddr, TcpStream},
    process::ExitStatus,
    time::{Duration, Instant},
};

use minitoolstream_client::proto::{FetchRequest, PublishStreamRequest, PublishStreamResponse, SubscribeRequest};
use minitoolstream_testkit::{Process, http};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::api::{Api, message, sequences};

const BINARY: &str = env!("CARGO_BIN_EXE_minitoolstream");

/// What a stop takes besides waiting for clients, on a busy machine.
const OVERHEAD: Duration = Duration::from_secs(3);

struct Stopping(JoinHandle<(ExitStatus, Duration)>);

impl Stopping {
    /// Asks a broker to stop.
    fn begin(mut process: Process) -> Self {
        Self(tokio::task::spawn_blocking(move || {
            let since = Instant::now();
            (process.terminate(), since.elapsed())
        }))
    }

    /// It stops in good order, within this time.
    async fn ends_within(self, deadline: Duration) {
        let (status, took) = self.0.await.unwrap();
        assert!(status.success(), "{status}");
        assert!(took < deadline, "it took {took:?}");
    }
}

fn assert_shutting_down(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("shutting down"), "{status:?}");
}

fn follow(subject: &str) -> FetchRequest {
    FetchRequest {
        subject: subject.into(),
        start_sequence: Some(1),
        follow: true,
        max_message_bytes: u32::MAX,
        ..Default::default()
    }
}

#[tokio::test]
async fn open_streams_end_with_the_reason_and_what_was_sent_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(BINARY, dir.path(), &[]);
    let api = Api::connect(process.address("ingress")).await;
    api.publish(message("a", 1, 1)).await.unwrap();
    let subscribe = SubscribeRequest { subject: "a".into(), start_sequence: None, durable_name: String::new() };
    let mut notifications = api.egress.clone().subscribe(subscribe).await.unwrap().into_inner();
    assert_eq!(notifications.message().await.unwrap().unwrap().sequence, 1);
    let mut follower = api.open_fetch(follow("a")).await.unwrap();
    assert_eq!(follower.message().await.unwrap().unwrap().sequence, 1);
    let (frames, outgoing) = mpsc::channel(1000);
    let mut acks = api.ingress.clone().publish_stream(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    // Many frames are on their way when the broker is asked to stop.
    for first_id in 0..200 {
        frames.send(PublishStreamRequest { first_id, messages: vec![message("b", 1, 5000)] }).await.unwrap();
    }
    let first = acks.message().await.unwrap().unwrap();
    let stopping = Stopping::begin(process);
    let stored_of = |response: PublishStreamResponse| -> u32 {
        let (stored, refused): (Vec<_>, Vec<_>) = response.acks.into_iter().partition(|ack| ack.error.is_none());
        let codes = refused.iter().map(|ack| Code::from(ack.error.as_ref().unwrap().code));
        assert!(codes.into_iter().all(|code| code == Code::Unavailable), "{refused:?}");
        stored.iter().map(|ack| ack.count).sum()
    };
    let mut stored = stored_of(first);
    let end = loop {
        match acks.message().await {
            Ok(Some(response)) => stored += stored_of(response),
            Ok(None) => panic!("the stream ended without a reason"),
            Err(status) => break status,
        }
    };
    assert_shutting_down(&end);
    assert_shutting_down(&notifications.message().await.unwrap_err());
    assert_shutting_down(&follower.message().await.unwrap_err());
    stopping.ends_within(OVERHEAD).await;
    let process = Process::start(BINARY, dir.path(), &[]);
    let api = Api::connect(process.address("ingress")).await;
    let (messages, _) = api.fetch("b", 1).await;
    // What was taken from the stream was answered; what was not taken is not stored.
    assert_eq!(sequences(&messages), (1..=u64::from(stored)).collect::<Vec<_>>());
}

#[tokio::test]
async fn silent_clients_cannot_hold_the_stop() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(BINARY, dir.path(), &[("SHUTDOWN_DEADLINE", "1s")]);
    let (ingress, status_page) = (process.address("ingress"), process.address("http"));
    let api = Api::connect(&ingress).await;
    for _ in 0..32 {
        api.publish(message("a", 1, 1 << 20)).await.unwrap();
    }
    // One that says nothing at all, one that reads nothing of a fetch, of a stream that follows, and of its acks.
    let nothing = TcpStream::connect(ingress.parse::<SocketAddr>().unwrap()).unwrap();
    let unread = api.open_fetch(FetchRequest { batch_size: 100, follow: false, ..follow("a") }).await.unwrap();
    let follower = api.open_fetch(follow("a")).await.unwrap();
    let (frames, outgoing) = mpsc::channel(10_000);
    let acks = api.ingress.clone().publish_stream(ReceiverStream::new(outgoing)).await.unwrap();
    frames.send(PublishStreamRequest { first_id: 0, messages: vec![message("b", 1, 1)] }).await.unwrap();
    let stopping = Stopping::begin(process);
    let since = Instant::now();
    loop {
        assert!(since.elapsed() < Duration::from_secs(1), "it is not ready any more once it was asked to stop");
        let (status, body) = http::get(&status_page, "/readyz").await;
        if status == 503 {
            assert!(body.contains("the broker is shutting down"), "{body}");
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(http::get(&status_page, "/livez").await.0, 200, "it is alive until its end");
    let refused = api.publish(message("a", 1, 1)).await.unwrap_err();
    // The broker's answer, or the transport's if the connection was told to go away first.
    assert!(matches!(refused.code(), Code::Unavailable | Code::Cancelled), "{refused:?}");
    stopping.ends_within(Duration::from_secs(1) + OVERHEAD).await;
    drop((nothing, unread, follower, frames, acks));
}
