//! What is not published, and how that is told.

use minitoolstream_client::{Error, NewMessage};

use crate::world::{MIB, data, message, start, upload};

#[tokio::test]
async fn data_with_another_digest_are_not_published() {
    let broker = start().await;
    let client = broker.client().await;
    let error = client.upload(message("a")).sha256([7; 32]).from_bytes(data(2 * MIB)).await.unwrap_err();
    assert!(matches!(error, Error::DataLoss(_)), "{error:?}");
    assert_eq!(client.last_sequence("a").await.unwrap(), 0);
    broker.stop().await;
}

#[tokio::test]
async fn what_cannot_be_an_upload_is_refused_before_it_is_sent() {
    let broker = start().await;
    let client = broker.client().await;
    let with_data = client.upload(NewMessage::new("a", "data")).from_bytes("more").await.unwrap_err();
    assert!(matches!(&with_data, Error::Invalid(text) if text.contains("4 bytes of data of its own")), "{with_data:?}");
    let size = client.upload(message("a")).size(5).from_bytes("four").await.unwrap_err();
    assert!(matches!(&size, Error::Invalid(text) if text.contains("said to have 5 bytes")), "{size:?}");
    let short = client.upload(message("a")).size(5).from_reader(&b"four"[..]).await.unwrap_err();
    assert!(matches!(&short, Error::Invalid(text) if text.contains("ended after 4 bytes")), "{short:?}");
    let missing = client.upload(message("a")).from_file("/no/such/file").await.unwrap_err();
    assert!(matches!(&missing, Error::Other(text) if text.contains("'/no/such/file' cannot be read")), "{missing:?}");
    let dir = client.upload(message("a")).from_file("/").await.unwrap_err();
    assert!(matches!(&dir, Error::Invalid(text) if text.contains("no regular file")), "{dir:?}");
    let subject = client.upload(message("no subject")).from_bytes("x").await.unwrap_err();
    assert!(matches!(subject, Error::Invalid(_)), "{subject:?}");
    assert_eq!(client.last_sequence("a").await.unwrap(), 0);
    broker.stop().await;
}

#[tokio::test]
async fn the_rules_of_small_messages_hold() {
    let broker = start().await;
    let client = broker.client().await;
    let large = data(2 * MIB);
    assert_eq!(upload(&client, "a", &large).await.sequence, 1);
    let expecting = |last| message("a").expect_last_sequence(last);
    let conflict = client.upload(expecting(0)).from_bytes(large.clone()).await.unwrap_err();
    assert!(matches!(conflict, Error::Conflict(_)), "{conflict:?}");
    assert_eq!(client.upload(expecting(1)).from_bytes(large.clone()).await.unwrap().sequence, 2);
    for duplicate in [false, true] {
        let uploaded = client.upload(message("a").message_id("once")).from_bytes(large.clone()).await.unwrap();
        assert_eq!((uploaded.sequence, uploaded.duplicate), (3, duplicate));
    }
    let later = std::time::SystemTime::now() + std::time::Duration::from_hours(1);
    let scheduled = client.upload(message("a").deliver_at(later)).from_bytes(large).await.unwrap();
    assert_eq!((scheduled.sequence, scheduled.scheduled), (0, true));
    assert_eq!(client.last_sequence("a").await.unwrap(), 3);
    broker.stop().await;
}

#[tokio::test]
async fn an_upload_that_is_given_up_is_gone() {
    let broker = start().await;
    let client = broker.client().await;
    assert!(matches!(client.get_upload("nobody").await, Err(Error::NotFound(_))));
    assert!(matches!(client.get_upload("").await, Err(Error::Invalid(_))));
    // A reader that fails interrupts it.
    let (mut pipe, outlet) = tokio::io::duplex(1 << 16);
    let going = tokio::spawn(client.upload(message("a")).id("x").from_reader(outlet));
    tokio::io::AsyncWriteExt::write_all(&mut pipe, &data(MIB)).await.unwrap();
    let begun = async {
        while client.get_upload("x").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::world::PATIENCE, begun).await.unwrap();
    going.abort();
    client.abort_upload("x").await.unwrap();
    assert!(matches!(client.get_upload("x").await, Err(Error::NotFound(_))));
    assert_eq!(upload(&client, "a", b"after").await.sequence, 1);
    broker.stop().await;
}

#[tokio::test]
async fn an_upload_from_a_pipe_tells_what_ended_it() {
    let broker =
        minitoolstream_testkit::TestBroker::start(&[("LIMITS_UPLOAD_STREAMS", "1"), ("SHUTDOWN_DEADLINE", "300ms")])
            .await;
    let client = broker.client().await;
    let (mut pipe, outlet) = tokio::io::duplex(1 << 16);
    let first = tokio::spawn(client.upload(message("a")).id("x").size(9 * MIB as u64).from_reader(outlet));
    tokio::io::AsyncWriteExt::write_all(&mut pipe, &data(MIB)).await.unwrap();
    while client.get_upload("x").await.is_err() {
        tokio::task::yield_now().await;
    }
    let bytes = std::io::Cursor::new(data(9 * MIB));
    let refused = client.upload(message("a")).from_reader(bytes).await.unwrap_err().to_string();
    assert!(refused.contains("cannot be read again") && refused.contains("limits.upload_streams"), "{refused}");
    first.abort();
    broker.stop().await;
}
