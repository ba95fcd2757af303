//! After a crash the broker is ready at once, however much it holds.

use std::{collections::VecDeque, time::Duration};

use futures_util::StreamExt;
use minitoolstream_client::{Fetch, NewMessage, PublisherOptions};
use minitoolstream_testkit::Process;

const MESSAGES: u64 = 1_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn load_a_million_messages_are_ready_within_2_s_of_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Process::start(env!("CARGO_BIN_EXE_minitoolstream"), dir.path(), &[]);
    let client = broker.client();
    let publisher = client.publisher_with(PublisherOptions { in_flight_max: 20_000, ..PublisherOptions::default() });
    let mut acks = VecDeque::new();
    for index in 0..MESSAGES {
        let subject = format!("readings.{}", index % 10);
        acks.push_back(publisher.send(NewMessage::new(subject, index.to_string())).await);
        if acks.len() > 10_000 {
            acks.pop_front().unwrap().await.unwrap();
        }
    }
    for ack in acks {
        ack.await.unwrap();
    }
    let took = broker.crash_and_restart();
    let client = broker.client();
    let mut messages = client.fetch(Fetch::from_sequence("readings.7", MESSAGES / 10).limit(1)).await.unwrap();
    let last = messages.next().await.unwrap().unwrap();
    assert_eq!((last.sequence, &last.data.unwrap()[..]), (MESSAGES / 10, (MESSAGES - 3).to_string().as_bytes()));
    eprintln!("ready {took:?} after the start");
    assert!(took < Duration::from_secs(2), "{took:?}");
}
