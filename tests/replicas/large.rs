//! Messages of any size through any broker.

use std::time::Duration;

use minitoolstream_client::NewMessage;

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
