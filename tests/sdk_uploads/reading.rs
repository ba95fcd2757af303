//! Reads of large messages, while the network breaks.

use minitoolstream_client::{Error, Message};
use minitoolstream_testkit::{Proxy, Towards};
use tokio::io::AsyncReadExt;

use crate::world::{Killable, MIB, client_of, data, read_all, start, upload};

#[tokio::test]
async fn a_reader_goes_on_at_its_place() {
    let broker = start().await;
    let data = data(24 * MIB);
    upload(&broker.client().await, "a", &data).await;
    let proxy = Proxy::start(broker.ingress);
    let client = client_of(&proxy).await;
    for (after, cuts) in [0, 1000, 7 * MIB as u64, 20 * MIB as u64].into_iter().zip(1..) {
        let reader = client.open(("a", 1)).await.unwrap();
        proxy.cut_after(Towards::Client, after);
        assert!(read_all(reader).await.unwrap() == data, "cut after {after}");
        assert_eq!(proxy.cuts(), cuts);
    }
    let mut reader = client.open(("a", 1)).range(MIB as u64, Some(10 * MIB as u64)).await.unwrap();
    proxy.cut_after(Towards::Client, 5 * MIB as u64);
    let mut part = Vec::new();
    reader.read_to_end(&mut part).await.unwrap();
    assert!(part == data[MIB..11 * MIB], "a range ends where it should");
    broker.stop().await;
}

#[tokio::test]
async fn a_reader_goes_on_after_the_broker_was_killed() {
    let mut world = Killable::start();
    let data = data(16 * MIB);
    upload(&world.broker.client(), "a", &data).await;
    let proxy = world.proxy();
    let client = client_of(&proxy).await;
    let mut reader = client.open(("a", 1)).attempts(100).await.unwrap();
    let mut begin = vec![0; 3 * MIB];
    reader.read_exact(&mut begin).await.unwrap();
    world.broker.crash_and_restart();
    assert_eq!(reader.position(), begin.len() as u64);
    let rest = read_all(reader).await.unwrap();
    assert!([begin, rest].concat() == data);
}

#[tokio::test]
async fn what_cannot_be_read_is_told() {
    let broker = start().await;
    let client = broker.client().await;
    upload(&client, "a", &data(2 * MIB)).await;
    assert!(matches!(client.open(("a", 2)).await, Err(Error::NotFound(_))));
    assert!(matches!(client.open(("nobody.published.here", 1)).await, Err(Error::NotFound(_))));
    let size = 2 * MIB as u64;
    assert!(matches!(client.open(("a", 1)).range(size + 1, None).await, Err(Error::Invalid(_))));
    let end = client.open(("a", 1)).range(size - 1, 5).await.unwrap();
    assert_eq!(read_all(end).await.unwrap(), data(2 * MIB)[2 * MIB - 1..]);
    let none = client.open(("a", 1)).range(5, 0).await.unwrap();
    assert_eq!(read_all(none).await.unwrap(), b"");
    // In memory, it is the same.
    let small = Message::from(minitoolstream_client::proto::Message { data: "small".into(), ..Default::default() });
    assert_eq!(read_all(client.open(&small).range(1, 3).await.unwrap()).await.unwrap(), b"mal");
    assert_eq!(read_all(client.open(&small).range(5, 3).await.unwrap()).await.unwrap(), b"");
    assert!(matches!(client.open(&small).range(6, None).await, Err(Error::Invalid(_))));

    let mut purged = client.open(("a", 1)).await.unwrap();
    client.purge("a", None).await.unwrap();
    assert!(matches!(client.open(("a", 1)).await, Err(Error::NotFound(_))));
    let read = async {
        while purged.piece().await?.is_some() {}
        Ok::<_, Error>(())
    };
    let ended = read.await;
    assert!(matches!(ended, Ok(()) | Err(Error::NotFound(_))), "{ended:?}");
    broker.stop().await;
}
