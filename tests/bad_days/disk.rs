//! Full and read-only disks.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use minitoolstream_client::{Client, Error, Fetch, NewMessage};
use minitoolstream_testkit::{Process, SmallDisk, http};

const MIB: u64 = 1 << 20;

/// Room for the journal, a segment that is laid out, and some messages.
const DISK: u64 = 192 * MIB;

const BODY: usize = 50 << 10;

fn start(disk: &SmallDisk, free_min: &str) -> Process {
    let settings = [("DATA_FREE_MIN", free_min), ("TTL_ENABLED", "false")];
    Process::start(env!("CARGO_BIN_EXE_minitoolstream"), &disk.path(), &settings)
}

/// Publishes until the broker refuses, at most `most` messages; gives how many it acknowledged and why it stopped.
async fn publish_until_refused(client: &Client, from: u64, most: u64) -> (u64, Option<Error>) {
    let publisher = client.publisher();
    for sequence in from + 1..=from + most {
        let data = vec![u8::try_from(sequence % 251).unwrap(); BODY];
        match publisher.publish(NewMessage::new("a", data)).await {
            Ok(published) => assert!(published.sequence >= sequence, "an unknown outcome may have been stored"),
            Err(error) => return (sequence - 1, Some(error)),
        }
    }
    (from + most, None)
}

async fn count_readable(client: &Client) -> u64 {
    let mut messages = client.fetch(Fetch::from_sequence("a", 1).limit(10_000)).await.unwrap();
    let mut count = 0;
    while let Some(message) = messages.next().await {
        let message = message.unwrap();
        assert!(message.data.is_some_and(|data| data.len() == BODY), "message {}", message.sequence);
        count += 1;
    }
    count
}

async fn publishes_again(client: &Client, broker: &Process) {
    let since = Instant::now();
    loop {
        let result = client.publisher().publish(NewMessage::new("b", "back")).await;
        if result.is_ok() && http::get(broker.address("http"), "/readyz").await.0 == 200 {
            return;
        }
        assert!(since.elapsed() < Duration::from_secs(20), "{result:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn check(broker: &Process) {
    let checked = Command::new(env!("CARGO_BIN_EXE_minitoolstream"))
        .args(["check", "--data-dir"])
        .arg(broker.data_dir())
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_stops_publishes_and_nothing_else() {
    let disk = SmallDisk::new(DISK);
    let mut broker = start(&disk, "32MiB");
    let client = broker.client();
    assert_eq!(publish_until_refused(&client, 0, 20).await.0, 20);
    disk.fill_up_to(8 * MIB);

    let (acknowledged, refusal) = publish_until_refused(&client, 20, 1).await;
    assert_eq!(acknowledged, 20);
    match refusal {
        Some(Error::Exhausted { message, retry_after }) => {
            assert!(message.contains("data.free_min"), "{message}");
            assert!(retry_after > Duration::ZERO);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(count_readable(&client).await, 20, "reads go on");
    assert_eq!(client.ack("d", "a", 20).await.unwrap(), 20, "acks go on");
    let (status, reasons) = http::get(broker.address("http"), "/readyz").await;
    assert!(status == 503 && reasons.contains("data.free_min"), "{status} {reasons}");
    assert_eq!(http::get(broker.address("http"), "/livez").await.0, 200, "a restart would free nothing");

    disk.clear();
    publishes_again(&client, &broker).await;
    assert_eq!(count_readable(&client).await, 20);
    assert!(broker.terminate().success());
    check(&broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_reserve_a_full_disk_loses_nothing_and_the_broker_recovers() {
    let disk = SmallDisk::new(DISK);
    let mut broker = start(&disk, "0");
    let client = broker.client();
    let (before, refusal) = publish_until_refused(&client, 0, 20).await;
    assert!(before == 20 && refusal.is_none());
    disk.fill_up_to(0);
    // The journal has its place already: the database meets the full disk when it is full.
    let (acknowledged, refusal) = publish_until_refused(&client, before, 2_000).await;
    let refusal = refusal.expect("2,000 messages of 50 KiB do not fit");
    assert!(refusal.is_transient(), "{refusal:?}");

    disk.clear();
    publishes_again(&client, &broker).await;
    assert!(count_readable(&client).await >= acknowledged, "{acknowledged} were acknowledged");
    assert!(broker.terminate().success());
    check(&broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_is_refused_at_the_start() {
    let mut disk = SmallDisk::new(16 * MIB);
    disk.make_read_only();
    let refused = Command::new(env!("CARGO_BIN_EXE_minitoolstream"))
        .args(["serve", "--port", "0", "--egress-port", "0", "--http-port", "0", "--data-dir"])
        .arg(disk.path().join("data"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("Read-only file system"), "{text}");
}
