//! Messages of any size through any broker.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use minitoolstream_client::NewMessage;
use minitoolstream_testkit::{Cluster, Process};

use crate::start;

/// Data that says where it is.
fn data(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_an_upload_goes_on_at_another_broker() {
    let mut cluster = start(&[]);
    let all = data(60 << 20);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("film");
    std::fs::write(&file, &all).unwrap();
    let (first, second) = (cluster.ingress[0].client(), cluster.ingress[1].client());
    let upload = first.upload(NewMessage::new("films", "")).id("film").attempts(1).from_file(file.clone());
    let upload = tokio::spawn(upload);
    let kept = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            match second.get_upload("film").await.map_or(0, |upload| upload.offset) {
                0 => tokio::time::sleep(Duration::from_millis(2)).await,
                kept => return kept,
            }
        }
    });
    let kept = kept.await.expect("some of it is kept");
    cluster.ingress[0].kill();
    let _ = upload.await;
    let uploaded = second.upload(NewMessage::new("films", "")).id("film").from_file(&file).await.unwrap();
    eprintln!("{kept} bytes were kept of the first broker");
    assert_eq!((uploaded.sequence, uploaded.size), (1, all.len() as u64));
    for egress in &cluster.egress {
        let client = egress.client();
        let mut reader = client.open(("films", 1)).await.unwrap();
        let mut at = 0;
        while let Some(piece) = reader.piece().await.unwrap() {
            assert!(all[at..at + piece.len()] == piece, "{at}");
            at += piece.len();
        }
        assert_eq!(at, all.len());
        let mut range = client.open(("films", 1)).range(30 << 20, 1000).await.unwrap();
        assert_eq!(range.piece().await.unwrap().unwrap(), all[30 << 20..(30 << 20) + 1000]);
    }
}

/// Puts a part of an upload over HTTP; gives the status and the body of the answer.
fn put(broker: &Process, first: usize, part: &[u8], size: usize) -> (u16, serde_json::Value) {
    let range = format!("Content-Range: bytes {first}-{}/{size}", first + part.len() - 1);
    let url = format!("http://{}/v1/messages/films", broker.address("http"));
    let mut curl = Command::new("curl");
    curl.args([
        "-sS",
        "--max-time",
        "60",
        "-T",
        "-",
        "-w",
        "\n%{http_code}",
        "-H",
        "Mts-Upload-Id: film",
        "-H",
        &range,
    ]);
    let mut child = curl.arg(url).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // The rest of a pipe that is refused stays with us.
    let _ = child.stdin.take().unwrap().write_all(part);
    let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let (body, status) = output.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[test]
fn a_part_over_http_of_which_nothing_can_be_kept_is_refused() {
    const PART: usize = 8 << 20;
    let (binary, home) = (env!("CARGO_BIN_EXE_minitoolstream"), env!("CARGO_TARGET_TMPDIR"));
    let cluster = Cluster::start(binary, home, 1, &[]);
    let (broker, all) = (&cluster.ingress[0], data(PART + 2000));
    for kept in [0, PART] {
        let (status, refused) = put(broker, kept, &all[kept..kept + 1000], all.len());
        let refused = refused["error"].as_str().unwrap();
        assert!(status == 400 && refused.contains("at least 8388608 bytes"), "{status} {refused}");
        if kept == 0 {
            let (status, answer) = put(broker, 0, &all[..PART + 1000], all.len());
            assert_eq!((status, &answer["offset"]), (202, &PART.into()), "{answer}");
        }
    }
    let (status, answer) = put(broker, PART, &all[PART..], all.len());
    assert_eq!((status, &answer["size"]), (201, &all.len().into()), "{answer}");
}
