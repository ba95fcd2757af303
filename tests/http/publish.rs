//! A body becomes a message.

use std::process::Stdio;

use minitoolstream_client::{Fetch, NewMessage};
use tokio::process::Command;
use tokio_stream::StreamExt;

use crate::curl::{Stage, sha256};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

#[tokio::test]
async fn files_of_all_sizes_go_in_and_come_out() {
    let stage = Stage::set(&[]).await;
    let sizes = [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB - 1, MIB, MIB + 1, 64 * MIB];
    for (size, sequence) in sizes.into_iter().zip(1..) {
        let (file, data) = stage.file("film.mp4", size);
        let answer = stage.curl(&["-T", &file], "/v1/messages/films/").await.expect(201);
        let digest = sha256(&data);
        let expected = serde_json::json!({
            "subject": "films", "sequence": sequence, "size": size, "sha256": digest, "duplicate": false,
        });
        assert_eq!(answer.json(), expected);
        assert_eq!(answer.header("etag"), format!("\"{digest}\""));
        let location = answer.header("location").to_owned();
        assert_eq!(location, format!("/v1/messages/films/{sequence}"));
        let read = stage.curl(&[], &location).await.expect(200);
        assert!(read.body == data, "{size} bytes differ");
        assert_eq!(read.header("content-length"), size.to_string());
        assert_eq!(read.header("content-type"), "video/mp4");
        assert_eq!(read.header("etag"), format!("\"{digest}\""));
        assert_eq!(read.header("mts-sequence"), sequence.to_string());
        assert_eq!(read.header("mts-header-path"), "film.mp4");
        assert_eq!(read.header("content-disposition"), "inline; filename*=UTF-8''film.mp4");
    }
    stage.broker.stop().await;
}

#[tokio::test]
async fn a_pipe_of_unknown_length_goes_in() {
    let stage = Stage::set(&[]).await;
    for size in [0, 10, 3 * MIB] {
        let (file, data) = stage.file("data", size);
        let input = std::fs::File::open(file).unwrap();
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-T", "-", "-X", "POST", &stage.url("/v1/messages/pipe")]).stdin(Stdio::from(input));
        let output = curl.output().await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["sha256"], sha256(&data), "{answer}");
        assert!(stage.curl(&[], "/v1/messages/pipe/last").await.expect(200).body == data);
    }
    stage.broker.stop().await;
}

#[tokio::test]
async fn headers_and_options_of_a_request_are_those_of_the_message() {
    let stage = Stage::set(&[]).await;
    let post = |args: &'static [&'static str]| {
        let stage = &stage;
        async move { stage.curl(&[&["--data-binary", "hello"], args].concat(), "/v1/messages/a%2Fb").await }
    };
    let answer = post(&["-H", "Content-Type: text/plain", "-H", "Mts-Header-Trace-Id: 7", "-H", "Mts-Message-Id: m"]);
    assert_eq!(answer.await.expect(201).header("location"), "/v1/messages/a%2Fb/1");
    let read = stage.curl(&[], "/v1/messages/a%2Fb/1").await.expect(200);
    assert_eq!((read.header("content-type"), read.header("mts-header-trace-id")), ("text/plain", "7"));
    let again = post(&["-H", "Mts-Message-Id: m"]).await.expect(200);
    assert_eq!((again.json()["duplicate"].as_bool(), again.json()["sequence"].as_u64()), (Some(true), Some(1)));
    let conflict = post(&["-H", "Mts-Expected-Last-Sequence: 7"]).await.expect(409);
    assert!(conflict.error().contains("is 1, not 7"), "{}", conflict.error());
    post(&["-H", "Mts-Expected-Last-Sequence: 1"]).await.expect(201);
    let at = humantime::format_rfc3339_seconds(std::time::SystemTime::now() + std::time::Duration::from_secs(3600));
    let later =
        stage.curl(&["-d", "x", "-H", &format!("Mts-Deliver-At: {at}")], "/v1/messages/later").await.expect(202);
    assert_eq!((later.json()["scheduled"].as_bool(), later.header("location")), (Some(true), ""));
    for (header, text) in [
        ("Mts-Ttl: soon", "30s"),
        ("Mts-Header-Mts-Reason: x", "reserved"),
        ("Mts-Deliver-At: tomorrow", "tomorrow"),
        ("Mts-Sha256: 12", "no SHA-256"),
    ] {
        let refused = stage.curl(&["-d", "x", "-H", header], "/v1/messages/a").await.expect(400);
        assert!(refused.error().contains(text), "{}", refused.error());
        assert_eq!(refused.header("x-content-type-options"), "nosniff");
    }
    for wrong in ["/v1/messages/", "/v1/messages/a.*", "/v1/messages/%24sys", "/v1/messages/%FF"] {
        stage.curl(&["-d", "x"], wrong).await.expect(400);
    }
    let method = stage.curl(&["-X", "DELETE"], "/v1/messages/a/1").await.expect(405);
    assert!(method.header("allow").contains("PUT"));
    let nowhere = stage.curl(&[], "/v2").await.expect(404);
    assert!(nowhere.json()["paths"].as_array().unwrap().iter().any(|path| path == "/v1/uploads/{id}"));
    stage.broker.stop().await;
}

#[tokio::test]
async fn grpc_and_http_share_their_messages() {
    let stage = Stage::set(&[]).await;
    let client = stage.broker.client().await;
    let message = NewMessage::new("m", &b"from grpc"[..]).header("Title", "naïve €").header("odd name", "x");
    client.publisher().publish(message).await.unwrap();
    let read = stage.curl(&[], "/v1/messages/m/1").await.expect(200);
    assert_eq!(read.body, b"from grpc");
    assert_eq!(read.header("mts-header-title"), "na%C3%AFve%20%E2%82%AC");
    assert_eq!(read.header("mts-header-odd%20name"), "x");
    assert_eq!(read.header("content-type"), "application/octet-stream");
    stage.curl(&["-d", "from http", "-H", "Mts-Header-k: v"], "/v1/messages/m").await.expect(201);
    let mut messages = client.fetch(Fetch::from_sequence("m", 2)).await.unwrap();
    let found = messages.next().await.unwrap().unwrap();
    assert_eq!((&found.data.unwrap()[..], found.headers["k"].as_str()), (&b"from http"[..], "v"));
    stage.broker.stop().await;
}

#[tokio::test]
async fn a_wrong_digest_publishes_nothing() {
    let stage = Stage::set(&[]).await;
    for size in [10, 3 * MIB] {
        let (file, data) = stage.file("data", size);
        let right = format!("Mts-Sha256: {}", sha256(&data));
        let wrong = format!("Mts-Sha256: {}", sha256(b"other"));
        let refused = stage.curl(&["-T", &file, "-H", &wrong], "/v1/messages/digest").await.expect(422);
        assert!(refused.error().contains("SHA-256"), "{}", refused.error());
        stage.curl(&[], "/v1/messages/digest/last").await.expect(404);
        stage.curl(&["-T", &file, "-H", &right], "/v1/messages/right").await.expect(201);
    }
    stage.broker.stop().await;
}
