//! The same calls at every size.

use futures_util::StreamExt;
use minitoolstream_client::Fetch;
use tokio::io::AsyncReadExt;

use crate::world::{MIB, data, data_of, file, message, read_all, sha256, start};

const SIZES: [usize; 15] = [
    0,
    1,
    64 * 1024 - 1,
    64 * 1024,
    64 * 1024 + 1,
    256 * 1024 - 1,
    256 * 1024,
    256 * 1024 + 1,
    MIB - 1,
    MIB,
    MIB + 1,
    4 * MIB - 1,
    4 * MIB,
    4 * MIB + 1,
    64 * MIB,
];

#[tokio::test]
async fn what_goes_up_comes_down() {
    let broker = start().await;
    let client = broker.client().await;
    for (size, sequence) in SIZES.into_iter().zip(1..) {
        let data = data(size);
        let uploaded = client.upload(message("a")).from_bytes(data.clone()).await.unwrap();
        assert_eq!((uploaded.sequence, uploaded.size, uploaded.duplicate), (sequence, size as u64, false));
        assert_eq!(uploaded.sha256, Some(sha256(&data)), "{size}");
        let reader = client.open(("a", sequence)).await.unwrap();
        assert_eq!((reader.size(), reader.headers()["kind"].as_str()), (size as u64, "test"));
        assert!(reader.sha256().is_none_or(|digest| digest == sha256(&data)), "{size}");
        assert!(read_all(reader).await.unwrap() == data, "{size}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn messages_are_the_same_whether_their_data_come_along_or_not() {
    let broker = start().await;
    let client = broker.client().await;
    for size in [0, 1, 100_000, 3 * MIB] {
        client.upload(message("a")).from_bytes(data(size)).await.unwrap();
    }
    for limit in [1, 200_000, 10_000_000] {
        let mut messages = client.fetch(Fetch::from_sequence("a", 1).max_message_bytes(limit)).await.unwrap();
        for size in [0, 1, 100_000, 3 * MIB] {
            let message = messages.next().await.unwrap().unwrap();
            assert_eq!(message.data.is_some(), size <= limit as usize, "{size} of {limit}");
            assert_eq!(message.size(), size as u64);
            let whole = data(size);
            let reader = client.open(&message).await.unwrap();
            assert!(read_all(reader).await.unwrap() == whole, "{size} of {limit}");
            let middle = client.open(&message).range(size as u64 / 3, 777).await.unwrap();
            let end = whole.len().min(size / 3 + 777);
            assert!(read_all(middle).await.unwrap() == whole[size / 3..end], "{size} of {limit}");
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn files_and_readers_of_unknown_size_are_uploaded() {
    let broker = start().await;
    let client = broker.client().await;
    let dir = tempfile::tempdir().unwrap();
    let data = data(5 * MIB + 3);
    let path = file(dir.path(), &data);
    let from_file = client.upload(message("a")).sha256(sha256(&data)).from_file(&path).await.unwrap();
    assert_eq!((from_file.sequence, from_file.size), (1, data.len() as u64));
    let (mut pipe, outlet) = tokio::io::duplex(1000);
    let written = data.clone();
    tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut pipe, &written).await });
    let from_pipe = client.upload(message("a")).from_reader(outlet).await.unwrap();
    assert_eq!((from_pipe.sequence, from_pipe.sha256), (2, Some(sha256(&data))));
    let sized = client.upload(message("a")).size(10).from_reader(&b"ten bytes!"[..]).await.unwrap();
    assert_eq!((sized.sequence, sized.size), (3, 10));
    for sequence in [1, 2] {
        assert!(data_of(&client, "a", sequence).await == data);
    }
    let mut reader = client.open(("a", 1)).range(MIB as u64, None).await.unwrap();
    let mut copy = Vec::new();
    reader.read_to_end(&mut copy).await.unwrap();
    assert!(copy == data[MIB..], "as AsyncRead");
    broker.stop().await;
}
