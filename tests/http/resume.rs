//! Uploads that break off.

use minitoolstream_client::proto::{GetUploadRequest, ingress_service_client::IngressServiceClient};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_stream::StreamExt;
use tonic::Code;

use crate::curl::{Stage, bytes, received, sha256, until};

const LEN: usize = 5_000_000;

const ID: &str = "Mts-Upload-Id: film 1";

async fn offset(stage: &Stage) -> usize {
    stage.curl(&["-I"], "/v1/uploads/film%201").await.expect(200).header("upload-offset").parse().unwrap()
}

#[tokio::test]
async fn an_interrupted_upload_goes_on_where_it_was_kept() {
    let stage = Stage::set(&[]).await;
    let (file, data) = stage.file("film.mp4", LEN);
    let mut request = stage.put_head("films/film.mp4", LEN, &format!("{ID}\r\n"));
    request.extend_from_slice(&data[..LEN / 2]);
    let broken = stage.raw(&request, true).await.expect(400);
    assert!(broken.error().contains("bytes are kept"), "{}", broken.error());
    let kept = offset(&stage).await;
    assert!(kept > 0 && kept <= LEN / 2, "{kept}");
    stage.curl(&[], "/v1/messages/films/last").await.expect(404);
    let wrong = stage.curl(&["-H", ID, "-C", "1", "-T", &file], "/v1/messages/films/").await.expect(412);
    assert!(wrong.error().contains(&format!("continue it at offset {kept}")), "{}", wrong.error());
    let rest = ["-H", ID, "-C", &kept.to_string(), "-T", &file];
    let answer = stage.curl(&rest, "/v1/messages/films/").await.expect(201);
    assert_eq!(answer.json()["sha256"], sha256(&data));
    assert!(stage.curl(&[], "/v1/messages/films/1").await.expect(200).body == data);
    let standing = stage.curl(&[], "/v1/uploads/film%201").await.expect(200);
    assert_eq!(standing.json()["published"]["sequence"], 1);
    assert_eq!((standing.header("location"), offset(&stage).await), ("/v1/messages/films/1", LEN));
    let again = stage.curl(&["-H", ID, "-T", &file], "/v1/messages/films/").await.expect(200);
    assert_eq!(again.json()["duplicate"], true);
    let other = stage.curl(&["-H", ID, "-T", &file], "/v1/messages/other/").await.expect(412);
    assert!(other.error().contains("as 1 of 'films'"), "{}", other.error());
    stage.curl(&["-X", "DELETE"], "/v1/uploads/film%201").await.expect(412);
    stage.broker.stop().await;
}

#[tokio::test]
async fn parts_of_a_small_message_make_it() {
    let stage = Stage::set(&[]).await;
    let part = |range: &'static str, data: &'static str| {
        let stage = &stage;
        async move {
            let args = ["-H", ID, "-H", range, "-X", "PUT", "-H", "Content-Type: text/plain", "--data-binary", data];
            stage.curl(&args, "/v1/messages/parts").await
        }
    };
    let first = part("Content-Range: bytes 0-4/11", "hello").await.expect(202);
    assert_eq!((first.header("upload-offset"), offset(&stage).await), ("5", 5));
    part("Content-Range: bytes 5-10/11", " world").await.expect(201);
    let read = stage.curl(&[], "/v1/messages/parts/1").await.expect(200);
    assert_eq!((read.body.as_slice(), read.header("content-type")), (&b"hello world"[..], "text/plain"));
    stage.broker.stop().await;
}

#[tokio::test]
async fn an_upload_is_aborted() {
    let stage = Stage::set(&[]).await;
    let mut request = stage.put_head("films", LEN, &format!("{ID}\r\n"));
    request.extend_from_slice(&bytes(LEN / 2));
    stage.raw(&request, true).await.expect(400);
    stage.curl(&["-X", "DELETE"], "/v1/uploads/film%201").await.expect(204);
    stage.curl(&["-I"], "/v1/uploads/film%201").await.expect(404);
    let mut ingress = IngressServiceClient::connect(format!("http://{}", stage.broker.ingress)).await.unwrap();
    let status = ingress.get_upload(GetUploadRequest { upload_id: "film 1".into() }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    nothing_is_left(&stage).await;
    stage.broker.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_behind() {
    let stage = Stage::set(&[]).await;
    for size in [10, LEN] {
        let mut stream = TcpStream::connect(stage.broker.http).await.unwrap();
        stream.write_all(&stage.put_head("films", 2 * size, "")).await.unwrap();
        stream.write_all(&bytes(size)).await.unwrap();
        if size == LEN {
            until("bytes are written", async || !stage.objects().is_empty()).await;
        }
        drop(stream);
        nothing_is_left(&stage).await;
    }
    stage.curl(&[], "/v1/messages/films/last").await.expect(404);
    stage.broker.stop().await;
}

#[tokio::test]
async fn a_broker_that_stops_keeps_what_came_and_says_so() {
    let stage = Stage::set(&[]).await;
    let mut stream = TcpStream::connect(stage.broker.http).await.unwrap();
    stream.write_all(&stage.put_head("films", LEN, &format!("{ID}\r\n"))).await.unwrap();
    stream.write_all(&bytes(LEN / 2)).await.unwrap();
    until("bytes are written", async || !stage.objects().is_empty()).await;
    let stopping = tokio::spawn(stage.broker.stop());
    let answer = received(stream).await.expect(503);
    assert!(answer.error().contains("shutting down"), "{}", answer.error());
    assert_ne!(answer.header("retry-after"), "");
    stopping.await.unwrap();
}

/// The reaper removed all bytes, and nothing refers to them.
async fn nothing_is_left(stage: &Stage) {
    until("no object is left", async || stage.objects().is_empty()).await;
    let client = stage.broker.client().await;
    let mut events = client.check().await.unwrap();
    while let Some(event) = events.next().await {
        let event = format!("{:?}", event.unwrap());
        assert!(!event.contains("Finding("), "{event}");
    }
}
