//! P5: what has expired is never delivered, what has not is never removed, and in the end nothing is left.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use futures_util::StreamExt;
use minitoolstream::{
    store::abandoned,
    types::{Clock, SystemClock, Timestamp},
};
use minitoolstream_client::{Client, ConsumerSettings, Fetch, NewMessage};
use minitoolstream_testkit::{Cluster, Fault};
use tokio::time::{sleep, timeout};

use crate::{
    ledger::{Ledger, contents, data, id, publish},
    site::{Calm, PATIENCE, Site, ended, persist, within},
};

const SHORT: &str = "short";
const LONG: &str = "long";
const TTL: Duration = Duration::from_millis(1500);
const SIZES: [usize; 3] = [40, 70_000, 1_200_000];

/// Rows that stay: what subjects, positions and numbers are, who lives, who does what for all, and what was answered in the
/// last minute.
const KEPT: [&str; 6] = ["mts_subjects", "mts_positions", "mts_facts", "mts_brokers", "mts_leases", "mts_batches"];

/// Reads from the beginning, again and again; what comes had not expired when it was asked for.
async fn read(client: Client, goes_on: impl Fn() -> bool) -> u32 {
    let mut count = 0;
    while goes_on() {
        let asked = SystemTime::now();
        let Ok(mut messages) = client.fetch(Fetch::from_sequence(SHORT, 1).limit(1000)).await else { continue };
        while let Some(Ok(message)) = messages.next().await {
            let late = asked.duration_since(message.timestamp + TTL).unwrap_or_default();
            assert!(late.is_zero(), "{} had been over for {late:?}", message.sequence);
            count += 1;
        }
    }
    count
}

async fn publish_short(client: Client, number: u64, goes_on: impl Fn() -> bool) {
    let publisher = client.publisher();
    let mut count = 0;
    while goes_on() {
        count += 1;
        let id = id(number, count);
        let size = SIZES[usize::try_from(count % 3).unwrap()];
        let message = || NewMessage::new(SHORT, data(id, size)).ttl(TTL).message_id(id.to_string());
        persist(|| publisher.publish(message())).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p5_only_what_has_expired_goes_whoever_fails() {
    let site = Site::start(&[("REAPER_INTERVAL", "200ms")]).await;
    let ledger = Ledger::default();
    let mut publishers = Vec::new();
    let mut readers = Vec::new();
    for number in 0..2_usize {
        let (client, trouble) = (site.ingress(number), site.trouble());
        let long = publish(client.clone(), number as u64, &[LONG], &SIZES, ledger.clone(), trouble.clone());
        publishers.push(tokio::spawn(long));
        publishers.push(tokio::spawn(publish_short(client, 2 + number as u64, trouble.clone())));
        readers.push(tokio::spawn(read(site.egress(number), trouble)));
    }
    let calm = site.calm().await;
    for publisher in publishers {
        ended("publishers recover", publisher).await;
    }
    for reader in readers {
        assert!(ended("readers end", reader).await > 0);
    }
    let client = calm.cluster.egress[0].client();
    within("all that was short is removed", async || {
        let rows = client.subjects(SHORT).next_page().await.unwrap().unwrap();
        rows[0].accepted > 0 && rows[0].expired == rows[0].accepted
    })
    .await;
    assert_eq!(contents(&client, LONG).await, ledger.of(LONG));
    calm.end().await;
}

/// What there is: rows of each space that should be empty, and files.
async fn left(cluster: &Cluster) -> (BTreeMap<String, u64>, Vec<String>) {
    let mut rows = cluster.tarantool.rows().await;
    rows.retain(|space, count| *count > 0 && !KEPT.contains(&space.as_str()));
    (rows, cluster.files())
}

async fn assert_nothing_is_left(cluster: &Cluster) {
    let is_empty = async {
        while left(cluster).await != Default::default() {
            sleep(Duration::from_millis(200)).await;
        }
    };
    if timeout(PATIENCE, is_empty).await.is_err() {
        let stores = cluster.stores().await.unwrap();
        eprintln!("{:?}", stores.metadata.payloads(0, 100).await);
        eprintln!("{:?}", stores.metadata.garbage(Timestamp(u64::MAX), 100).await);
        panic!("{:?}", left(cluster).await);
    }
    let rows = cluster.tarantool.rows().await;
    eprintln!("{rows:?}");
    assert!(rows["mts_brokers"] <= 4 && rows["mts_leases"] <= 4 && rows["mts_facts"] <= 20, "{rows:?}");
}

/// Everything that leaves something behind, for a while. Letters and consumers too; what fails is not tried again.
async fn use_everything(client: Client, egress: Client, number: u64, goes_on: impl Fn() -> bool) {
    let publisher = client.publisher();
    let mut count = 0;
    let settings = ConsumerSettings::of("used.*").max_deliver(1).ack_wait(Duration::from_millis(200));
    while goes_on() {
        count += 1;
        let id = id(number, count);
        let subject = format!("used.{}", count % 5);
        for size in SIZES {
            let message = NewMessage::new(&subject, data(id, size)).message_id(format!("{id}-{size}"));
            let _ = publisher.publish(message).await;
        }
        let later = NewMessage::new(&subject, data(id, 100_000));
        let _ = publisher.publish(later.deliver_at(SystemTime::now() + Duration::from_millis(700))).await;
        // Interrupted, most of them: some before a part is stored, some after.
        let upload = client.upload(NewMessage::new(&subject, "")).from_bytes(vec![7; 20 << 20]);
        let _ = timeout(Duration::from_millis(300 * (count % 4)), upload).await;
        let consumer = egress.consumer("w").settings(settings.clone());
        let Ok(Ok(mut deliveries)) = timeout(Duration::from_secs(2), consumer.messages()).await else { continue };
        while let Ok(Some(Ok(delivery))) = timeout(Duration::from_millis(100), deliveries.next()).await {
            match delivery.message.sequence % 3 {
                0 => delivery.ack_nowait(),
                1 => drop(delivery.terminate("used")),
                _ => drop(delivery),
            }
        }
        let _ = egress.ack("d", &subject, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p5_nothing_is_left_whoever_fails() {
    let short = ["TTL_DEFAULT", "DEDUP_WINDOW", "UPLOADS_RETENTION", "CONSUMERS_DEAD_LETTER_TTL"];
    let site = Site::start(&short.map(|name| (name, "3s"))).await;
    let users: Vec<_> = (0..3_usize)
        .map(|number| {
            let (client, egress) = (site.ingress(number), site.egress(number));
            tokio::spawn(use_everything(client, egress, number as u64, site.trouble()))
        })
        .collect();
    let Calm { cluster, .. } = site.calm().await;
    for user in users {
        ended("users end", user).await;
    }
    persist(|| async { cluster.egress[0].client().consumer("w").delete().await }).await.unwrap();
    let stores = cluster.stores().await.unwrap();
    // What brokers that were killed or cut off began to write is closed after ten minutes. That they have passed is told here,
    // again and again: what a broker has in hand may take as long as its attempts.
    let time_passes = async {
        loop {
            abandoned::close(&stores, SystemClock::new().now()).await.unwrap();
            sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        () = assert_nothing_is_left(&cluster) => {}
        () = time_passes => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_nothing_is_left_when_everything_has_expired() {
    let short = ["TTL_DEFAULT", "DEDUP_WINDOW", "UPLOADS_RETENTION"].map(|name| (name, "2s"));
    let cluster = crate::start(&short);
    let client = cluster.ingress[0].client();
    let publisher = client.publisher();
    for number in 0..50_usize {
        let message = NewMessage::new("a", vec![7; number * 10_000]).message_id(number.to_string());
        publisher.publish(message).await.unwrap();
    }
    client.upload(NewMessage::new("films", "")).from_bytes(vec![1; 20 << 20]).await.unwrap();
    let (rows, files) = left(&cluster).await;
    assert!(rows.contains_key("mts_blocks") && rows.contains_key("mts_payloads") && !files.is_empty(), "{rows:?}");
    assert_nothing_is_left(&cluster).await;
    let subjects = cluster.egress[0].client().subjects("").next_page().await.unwrap().unwrap();
    let books: Vec<_> =
        subjects.iter().map(|row| (row.subject.as_str(), row.accepted, row.live, row.expired)).collect();
    assert_eq!(books, [("a", 50, 0, 50), ("films", 1, 0, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_what_s3_writes_late_goes_too() {
    const LATE: Duration = Duration::from_secs(2);
    let cluster = crate::start(&[("MINIO_TIMEOUT", "500ms"), ("TTL_DEFAULT", "1s")]);
    cluster.to_s3.spoil("PUT /letters/segments", usize::MAX, Fault::Late(LATE));
    let publisher = cluster.ingress[0].client().publisher();
    let refused = publisher.publish(NewMessage::new("a", vec![7; 100_000])).await;
    assert!(refused.is_err_and(|error| error.is_transient()));
    // The last attempt comes to S3 after its broker gave up.
    sleep(LATE + Duration::from_millis(500)).await;
    assert_nothing_is_left(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_ids_are_forgotten_while_s3_is_away() {
    let mut cluster = crate::start(&["TTL_DEFAULT", "DEDUP_WINDOW", "MINIO_TIMEOUT"].map(|name| (name, "1s")));
    let publisher = cluster.ingress[0].client().publisher();
    publisher.publish(NewMessage::new("a", vec![7; 100_000]).message_id("1")).await.unwrap();
    cluster.s3.kill();
    within("ids are forgotten, and bytes are not", async || {
        let rows = cluster.tarantool.rows().await;
        rows["mts_ids"] == 0 && rows["mts_garbage"] > 0
    })
    .await;
    cluster.s3.restart();
    assert_nothing_is_left(&cluster).await;
}
