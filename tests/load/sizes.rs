//! P3: what publish accepted, every consumer can receive.

use futures_util::StreamExt;
use minitoolstream_client::{Fetch, NewMessage};
use minitoolstream_testkit::TestBroker;

#[tokio::test]
async fn p3_what_is_published_can_be_fetched_at_every_size() {
    let broker = TestBroker::start(&[]).await;
    let client = broker.client().await;
    let publisher = client.publisher();
    let sizes = [0, 1, 8 * 1024 - 24, 8 * 1024, 1 << 20, (1 << 20) + 1, 4 << 20, 8 << 20];
    for (size, sequence) in sizes.into_iter().zip(1..) {
        let data = vec![u8::try_from(sequence).unwrap(); size];
        let published = publisher.publish(NewMessage::new("sizes", data)).await.unwrap();
        assert_eq!(published.sequence, sequence);
    }
    let mut messages = client.fetch(Fetch::from_sequence("sizes", 1).limit(100)).await.unwrap();
    for (size, sequence) in sizes.into_iter().zip(1..) {
        let message = messages.next().await.unwrap().unwrap();
        assert_eq!((message.sequence, message.size()), (sequence, size as u64));
        let byte = u8::try_from(sequence).unwrap();
        assert!(message.data.unwrap().iter().all(|found| *found == byte), "{size} bytes");
    }
    assert!(messages.next().await.is_none());
    broker.stop().await;
}
