//! P6: resident memory is bounded whatever comes in and whatever lies in store.

use futures_util::StreamExt;
use minitoolstream_client::{Fetch, NewMessage};
use minitoolstream_testkit::Process;

const CLIENTS: u8 = 24;

/// The formula of `admission.rs` for the default settings and two open streams of each client, that carried 4 MiB: half
/// of what the messages themselves take.
const BOUND_MIB: u64 = 64 + 4 * 16 + 4 * 16 + CLIENTS as u64 * (1 + 2 * 4);

#[tokio::test(flavor = "multi_thread")]
async fn load_p6_many_large_messages_stay_within_the_formula() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Process::start(env!("CARGO_BIN_EXE_minitoolstream"), dir.path(), &[]);
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|publisher| {
            let client = broker.client();
            tokio::spawn(async move {
                let publisher_subject = format!("videos.{publisher}");
                let stream = client.publisher();
                for _ in 0..8 {
                    let message = NewMessage::new(&publisher_subject, vec![publisher; 4 << 20]);
                    stream.publish(message).await.unwrap();
                }
                let mut messages = client.fetch(Fetch::from_sequence(&publisher_subject, 1)).await.unwrap();
                while let Some(message) = messages.next().await {
                    let data = message.unwrap().data.unwrap();
                    assert!(data.len() == 4 << 20 && data.iter().all(|byte| *byte == publisher));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let peak = broker.peak_memory_mib();
    eprintln!("peak resident memory: {peak} MiB");
    assert!(peak < BOUND_MIB, "{peak} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn load_p6_many_subjects_cost_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Process::start(env!("CARGO_BIN_EXE_minitoolstream"), dir.path(), &[]);
    let publisher = broker.client().publisher();
    let mut acks = Vec::new();
    for index in 0..50_000 {
        acks.push(publisher.send(NewMessage::new(format!("devices.{index}.state"), "on")).await);
    }
    for ack in acks {
        ack.await.unwrap();
    }
    let peak = broker.peak_memory_mib();
    eprintln!("peak resident memory: {peak} MiB");
    assert!(peak < 100, "{peak} MiB");
}
