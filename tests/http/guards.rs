//! What must not happen: other sites that write, damage that looks whole, clients that hold others up.

use std::{
    os::unix::fs::FileExt,
    process::Stdio,
    time::{Duration, Instant},
};

use minitoolstream_testkit::http;
use tokio::{io::AsyncWriteExt, net::TcpStream, process::Command};

use crate::curl::{Stage, received, until};

const MIB: usize = 1 << 20;

const DOWNLOADS: &str = r#"minitoolstream_latency_seconds_count{operation="http_get",service="egress"}"#;

#[tokio::test]
async fn pages_of_other_sites_cannot_write() {
    let stage = Stage::set(&[]).await;
    let own = format!("Origin: http://{}", stage.broker.http);
    for header in ["Origin: http://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site"] {
        let refused = stage.curl(&["-d", "x", "-H", header], "/v1/messages/a").await.expect(403);
        assert!(refused.error().contains("may not write"), "{}", refused.error());
        stage.curl(&["-X", "DELETE", "-H", header], "/v1/uploads/a").await.expect(403);
    }
    // One who sends much is told, too.
    let (file, _) = stage.file("data", 20 * MIB);
    for expect in ["Expect: 100-continue", "Expect:"] {
        let args = ["-T", &file, "-H", expect, "-H", "Origin: http://evil.example"];
        stage.curl(&args, "/v1/messages/a").await.expect(403);
    }
    stage.curl(&["-d", "x", "-H", &own, "-H", "Sec-Fetch-Site: same-origin"], "/v1/messages/a").await.expect(201);
    stage.broker.stop().await;
}

#[tokio::test]
async fn damage_breaks_the_transfer() {
    let stage = Stage::set(&[]).await;
    let (file, data) = stage.file("data", 3 * MIB);
    stage.curl(&["-T", &file], "/v1/messages/a").await.expect(201);
    let object = stage.objects().pop().unwrap();
    let object = std::fs::File::options().write(true).open(object).unwrap();
    let middle = 3 * MIB / 2;
    object.write_all_at(&[!data[middle]], middle as u64).unwrap();
    let cut = stage.curl(&[], "/v1/messages/a/1").await;
    assert_eq!((cut.exit, cut.status), (18, 200), "curl notices that bytes are missing");
    assert!(cut.body.len() <= MIB && data.starts_with(&cut.body), "{} bytes were served", cut.body.len());
    assert!(stage.curl(&["-r", "2097152-"], "/v1/messages/a/1").await.expect(206).body == data[2 * MIB..]);
    let refused = stage.curl(&["-r", "1048576-"], "/v1/messages/a/1").await.expect(500);
    assert!(refused.error().contains("is damaged"), "{}", refused.error());
    stage.broker.stop().await;
}

#[tokio::test]
async fn health_answers_while_slow_transfers_run() {
    let stage = Stage::set(&[]).await;
    let (file, _) = stage.file("data", 64 * MIB);
    stage.curl(&["-T", &file], "/v1/messages/a").await.expect(201);
    let slow = |args: &[&str], path: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-o", "/dev/null", "--limit-rate", "200k"]).args(args).arg(stage.url(path));
        curl.stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap()
    };
    let mut transfers = Vec::new();
    for _ in 0..4 {
        transfers.push(slow(&[], "/v1/messages/a/1"));
        transfers.push(slow(&["-T", &file], "/v1/messages/slow"));
    }
    until("the uploads run", async || stage.objects().len() == 5).await;
    for path in ["/livez", "/readyz", "/healthz", "/metrics"].repeat(5) {
        let since = Instant::now();
        assert_eq!(http::get(stage.broker.http, path).await.0, 200);
        assert!(since.elapsed() < Duration::from_secs(3), "{path} took {:?}", since.elapsed());
    }
    for transfer in &mut transfers {
        assert!(transfer.try_wait().unwrap().is_none(), "a slow transfer was cut");
    }
    drop(transfers);
    stage.broker.stop().await;
}

#[tokio::test]
async fn clients_that_stall_are_dropped() {
    let stage = Stage::set(&[("LIMITS_STALL_TIMEOUT", "500ms")]).await;
    let (file, _) = stage.file("data", 64 * MIB);
    stage.curl(&["-T", &file], "/v1/messages/a").await.expect(201);
    let mut reader = TcpStream::connect(stage.broker.http).await.unwrap();
    let request = format!("GET /v1/messages/a/1 HTTP/1.1\r\nHost: {}\r\n\r\n", stage.broker.http);
    reader.write_all(request.as_bytes()).await.unwrap();
    until("the reader is dropped", async || http::metric(stage.broker.http, DOWNLOADS).await == 1).await;
    drop(reader);
    let mut writer = TcpStream::connect(stage.broker.http).await.unwrap();
    writer.write_all(&stage.put_head("a", 100, "Connection: close\r\n")).await.unwrap();
    writer.write_all(b"some of it").await.unwrap();
    let answer = received(writer).await.expect(408);
    assert!(answer.error().contains("500ms"), "{}", answer.error());
    stage.broker.stop().await;
}
