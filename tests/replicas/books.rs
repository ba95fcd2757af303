//! P8: the books balance at all times, whichever broker is asked, and no entry is ever taken back.

use std::{collections::BTreeMap, time::Duration};

use futures_util::StreamExt;
use minitoolstream_client::{Client, ConsumerSettings, NewMessage, proto::ConsumerInfo};
use tokio::time::timeout;

use crate::{
    ledger::{data, id},
    site::{Site, ended, persist, within},
};

const SUBJECTS: [&str; 3] = ["books.a", "books.b", "books.c"];
const CONSUMER: &str = "keeper";

fn settings() -> ConsumerSettings {
    ConsumerSettings::of("books.*")
        .ack_wait(Duration::from_secs(1))
        .max_deliver(2)
        .back_off([Duration::from_millis(50)])
}

/// Publishes what lives for long, for short, or until it is purged.
async fn publish(client: Client, number: u64, goes_on: impl Fn() -> bool) -> BTreeMap<&'static str, u64> {
    let publisher = client.publisher();
    let (mut count, mut accepted) = (0, BTreeMap::new());
    while goes_on() {
        count += 1;
        let id = id(number, count);
        let subject = SUBJECTS[usize::try_from(count % 3).unwrap()];
        let ttl = Duration::from_millis(if count % 2 == 0 { 800 } else { 3_600_000 });
        let message = || {
            let size = if count % 5 == 0 { 90_000 } else { 60 };
            NewMessage::new(subject, data(id, size)).message_id(id.to_string()).ttl(ttl)
        };
        let published = persist(|| publisher.publish(message())).await.unwrap();
        *accepted.entry(subject).or_default() += 1;
        if count % 40 == 0 {
            // What the call removed is not known if its answer is lost: the books know.
            persist(|| client.purge(subject, Some(published.sequence / 2))).await.unwrap();
        }
    }
    accepted
}

async fn work(client: Client, goes_on: impl Fn() -> bool) {
    while goes_on() {
        let worker = client.consumer(CONSUMER).settings(settings()).window(30, 8 << 20);
        let Ok(mut deliveries) = worker.messages().await else { continue };
        while let Ok(Some(Ok(delivery))) = timeout(Duration::from_secs(1), deliveries.next()).await {
            match delivery.message.sequence % 7 {
                0 => drop(delivery.terminate("never")),
                1 => drop(delivery.nak()),
                2 => delivery.release().await.unwrap_or_default(),
                _ => delivery.ack_nowait(),
            }
            if !goes_on() {
                break;
            }
        }
    }
}

/// What only grows.
fn entries(info: &ConsumerInfo) -> [u64; 6] {
    [info.passed, info.acked, info.dead_lettered, info.dropped, info.expired, info.deliveries]
}

/// Looks into the books, at one broker after the other.
async fn audit(clients: [Client; 2], goes_on: impl Fn() -> bool) -> u32 {
    let (mut audits, mut subjects, mut consumer) = (0, BTreeMap::new(), [0; 6]);
    while goes_on() {
        for client in &clients {
            let Ok(Some(rows)) = client.subjects("books.*").next_page().await else { continue };
            for row in rows {
                assert_eq!(row.accepted, row.live + row.expired + row.purged, "{row:?}");
                assert_eq!(row.accepted, row.last_sequence, "{row:?}");
                let entries = [row.accepted, row.expired, row.purged];
                let before = subjects.insert(row.subject, entries).unwrap_or_default();
                assert!(entries.iter().zip(before).all(|(now, before)| *now >= before), "{entries:?} after {before:?}");
            }
            let Ok(info) = client.consumer(CONSUMER).info().await else { continue };
            let out = info.unacked + info.redeliverable;
            let settled = info.acked + info.dead_lettered + info.dropped + info.expired;
            assert_eq!(info.passed, settled + out, "{info:?}");
            let now = entries(&info);
            assert!(now.iter().zip(consumer).all(|(now, before)| *now >= before), "{now:?} after {consumer:?}");
            consumer = now;
            audits += 1;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    audits
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p8_the_books_balance_whoever_fails() {
    let site = Site::start(&[("REAPER_INTERVAL", "200ms")]).await;
    persist(|| async { site.egress(0).consumer(CONSUMER).create(settings()).await }).await.unwrap();
    let (mut publishers, mut others) = (Vec::new(), Vec::new());
    for number in 0..2_usize {
        publishers.push(tokio::spawn(publish(site.ingress(number), number as u64, site.trouble())));
        others.push(tokio::spawn(work(site.egress(number), site.trouble())));
    }
    let auditor = tokio::spawn(audit([site.egress(0), site.egress(1)], site.trouble()));
    let calm = site.calm().await;
    let mut accepted: BTreeMap<_, u64> = BTreeMap::new();
    for publisher in publishers {
        for (subject, count) in ended("publishers recover", publisher).await {
            *accepted.entry(subject).or_default() += count;
        }
    }
    for other in others {
        ended("workers end", other).await;
    }
    let audits = ended("the auditor ends", auditor).await;
    let client = calm.cluster.egress[1].client();
    within("what was short has expired", async || {
        let rows = client.subjects("books.*").next_page().await.unwrap().unwrap();
        let is_over =
            |row: &minitoolstream_client::proto::SubjectInfo| row.live <= accepted[row.subject.as_str()] / 2 + 1;
        rows.iter().all(is_over)
    })
    .await;
    let rows = client.subjects("books.*").next_page().await.unwrap().unwrap();
    let found: BTreeMap<_, _> = rows.iter().map(|row| (row.subject.as_str(), row.accepted)).collect();
    eprintln!("{audits} audits; {rows:?}");
    assert_eq!(found, accepted);
    assert!(audits > 20 && rows.iter().all(|row| row.expired > 0 && row.purged > 0), "{audits}, {rows:?}");
    calm.end().await;
}
