//! P6: a flood that the stores cannot take is told to wait, and costs no broker more memory than the formula says.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::StreamExt;
use minitoolstream_client::{Client, Error, Fetch, NewMessage, PublisherOptions};

use crate::site::{Site, ended};

const SETTINGS: [(&str, &str); 8] = [
    ("LIMITS_INFLIGHT_BYTES", "4MiB"),
    ("LIMITS_CONNECTION_INFLIGHT_BYTES", "2MiB"),
    ("LIMITS_MESSAGE_MAX", "1MiB"),
    ("LIMITS_UPLOAD_BYTES", "8MiB"),
    ("LIMITS_UPLOADS", "3"),
    ("LIMITS_READ_BYTES", "4MiB"),
    ("CACHE_BYTES", "8MiB"),
    // To print where a task panicked takes more memory than all limits together.
    ("RUST_BACKTRACE", "0"),
];
/// Of each kind.
const CLIENTS: u64 = 4;
/// The formula of `admission.rs` for these settings: what it says of any broker, what it says of shared stores, and four
/// streams at a broker that carried a frame of 1 MiB each.
const BOUND_MIB: u64 = (64 + 4 * 4 + 2 * 8 + 4 * 4) + (8 + 8 * 8 + 3 * 8) + 4 * (1 + 1);
const UPLOAD: usize = 24 << 20;

#[derive(Default)]
struct Counts {
    published: AtomicU64,
    uploaded: AtomicU64,
    told_to_wait: AtomicU64,
}

/// Sends 60 MB at a time, more than all brokers may take.
async fn flood(client: Client, subject: String, counts: Arc<Counts>, goes_on: impl Fn() -> bool) {
    let options = PublisherOptions { in_flight_bytes: 128 << 20, ..PublisherOptions::default() };
    let publisher = client.publisher_with(options);
    while goes_on() {
        let mut acks = Vec::new();
        for _ in 0..100 {
            acks.push(publisher.send(NewMessage::new(&subject, vec![7; 600_000])).await);
        }
        for ack in acks {
            match ack.await {
                Ok(_) => drop(counts.published.fetch_add(1, Relaxed)),
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        }
        // The test's disk is not to fill up.
        let _ = client.purge_but_last(&subject, 100).await;
    }
}

/// Uploads one message after another: more of them at a time than there may be.
async fn upload(client: Client, subject: String, counts: Arc<Counts>, goes_on: impl Fn() -> bool) {
    let mut number = 0;
    while goes_on() {
        let upload = client.upload(NewMessage::new(&subject, "")).id(format!("{subject}-{number}")).attempts(1);
        match upload.from_bytes(vec![8; UPLOAD]).await {
            Ok(_) => {
                counts.uploaded.fetch_add(1, Relaxed);
                number += 1;
                let _ = client.purge_but_last(&subject, 1).await;
            }
            Err(Error::Exhausted { retry_after, .. }) => {
                counts.told_to_wait.fetch_add(1, Relaxed);
                tokio::time::sleep(retry_after).await;
            }
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
}

/// Asks for all, and takes it slowly.
async fn linger(client: Client, subject: String, goes_on: impl Fn() -> bool) {
    while goes_on() {
        let Ok(mut messages) = client.fetch(Fetch::from_sequence(&subject, 1).limit(100)).await else { continue };
        while let Some(Ok(_)) = messages.next().await {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p6_memory_is_bounded_whoever_fails() {
    let site = Site::start(&SETTINGS).await;
    let counts = Arc::<Counts>::default();
    let mut tasks = Vec::new();
    for number in 0..CLIENTS {
        let at = usize::try_from(number).unwrap();
        let (flooded, uploaded) = (format!("flood.{number}"), format!("large.{number}"));
        tasks.push(tokio::spawn(flood(site.ingress(at), flooded.clone(), counts.clone(), site.trouble())));
        tasks.push(tokio::spawn(upload(site.ingress(at), uploaded, counts.clone(), site.trouble())));
        tasks.push(tokio::spawn(linger(site.egress(at), flooded, site.trouble())));
    }
    let calm = site.calm().await;
    for task in tasks {
        ended("all clients recover", task).await;
    }
    let [published, uploaded, told] =
        [&counts.published, &counts.uploaded, &counts.told_to_wait].map(|count| count.load(Relaxed));
    eprintln!("peaks {:?} MiB; {published} published, {uploaded} uploaded, {told} told to wait", calm.peaks_mib);
    assert!(published > 0 && uploaded > 0 && told > 0);
    assert!(calm.peaks_mib.iter().all(|peak| *peak < BOUND_MIB), "more than {BOUND_MIB} MiB: {:?}", calm.peaks_mib);
    calm.end().await;
}
