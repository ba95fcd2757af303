//! Uploads that one version begins, and the other goes on with.

use std::time::Duration;

use minitoolstream_client::{Client, NewMessage};
use tokio::io::AsyncWriteExt;

use crate::world::data;

const SIZE: usize = 24 << 20;
/// More than S3 takes in one part.
const BEGINNING: usize = 20 << 20;

fn message() -> NewMessage {
    NewMessage::new("films.later", "")
}

fn all(id: &str) -> Vec<u8> {
    data(id.len(), SIZE)
}

/// Uploads a part, until the connection is lost.
pub(crate) async fn begin(client: &Client, id: &str) {
    let (mut pipe, reader) = tokio::io::duplex(1 << 20);
    let upload = client.upload(message()).id(id).attempts(1).from_reader(reader);
    let upload = tokio::spawn(upload);
    pipe.write_all(&all(id)[..BEGINNING]).await.unwrap();
    upload.abort();
    let is_kept = async {
        while client.get_upload(id).await.map_or(0, |upload| upload.offset) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), is_kept).await.expect("some of it is kept");
}

/// Goes on to the end, and reads it back.
pub(crate) async fn finish(client: &Client, reader: &Client, id: &str) {
    let kept = client.get_upload(id).await.unwrap();
    assert!(kept.offset > 0 && kept.published.is_none(), "{kept:?}");
    let uploaded = client.upload(message()).id(id).from_bytes(all(id)).await.unwrap();
    assert!(!uploaded.duplicate, "{uploaded:?}");
    read(reader, id, uploaded.sequence).await;
}

/// Reads what became a message.
pub(crate) async fn read(client: &Client, id: &str, sequence: u64) {
    let (mut reader, all, mut at) = (client.open(("films.later", sequence)).await.unwrap(), all(id), 0);
    while let Some(piece) = reader.piece().await.unwrap() {
        assert!(all[at..at + piece.len()] == piece, "{id}: other bytes at {at}");
        at += piece.len();
    }
    assert_eq!(at, all.len(), "{id}");
}
