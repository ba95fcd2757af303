//! What a broker holds: messages in each kind of place, and everything that is kept beside them.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use futures_util::StreamExt;
use minitoolstream_client::{Client, ConsumerSettings, Deliveries, Fetch, NewMessage};
use sha2::{Digest, Sha256};

/// Sequence, stream sequence, time, headers, and SHA-256 of the data.
type Line = (u64, u64, SystemTime, BTreeMap<String, String>, [u8; 32]);

/// Everything that readers see, and the books: accepted, expired, purged and bytes of each subject.
#[derive(Debug, PartialEq)]
pub(crate) struct Contents {
    pub(crate) messages: BTreeMap<String, Vec<Line>>,
    books: BTreeMap<String, (u64, u64, u64, u64)>,
}

pub(crate) fn data(number: usize, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    fastrand::Rng::with_seed(number as u64).fill(&mut data);
    data
}

pub(crate) fn film() -> NewMessage {
    NewMessage::new("films", "").header("kind", "film")
}

/// Stores something of everything. The worker that it gives has leases as long as it lives, and a connection of its own: it
/// leaves unread what comes.
pub(crate) async fn fill(ingress: &Client, egress: &Client, worker: &Client) -> Deliveries {
    let publisher = ingress.publisher();
    let mut pending = Vec::new();
    for number in 0..60_usize {
        let (name, len) = match number % 20 {
            7 => ("large".to_owned(), 3 << 20),
            _ => (format!("s.{}", number % 3), [10, 1000, 100_000, 30_000][number % 4]),
        };
        let message = NewMessage::new(name, data(number, len));
        let message = message.header("number", number.to_string()).message_id(format!("id-{number}"));
        pending.push(publisher.send(message).await);
    }
    for pending in pending {
        pending.await.unwrap();
    }
    ingress.upload(film()).id("film").from_bytes(data(100, 20 << 20)).await.unwrap();
    let later = SystemTime::now() + Duration::from_hours(1);
    publisher.publish(NewMessage::new("later", "later").deliver_at(later)).await.unwrap();
    assert_eq!(egress.purge("s.0", Some(4)).await.unwrap(), 4);
    assert_eq!(egress.ack("reader", "s.1", 7).await.unwrap(), 7);

    let settings = ConsumerSettings::of("s.*").max_deliver(5);
    let mut deliveries = worker.consumer("w").settings(settings).window(100, 64 << 20).messages().await.unwrap();
    let mut taken = Vec::new();
    for _ in 0..12 {
        let next = tokio::time::timeout(Duration::from_secs(20), deliveries.next()).await;
        let delivery = next.unwrap_or_else(|_| panic!("{} messages came", taken.len())).unwrap().unwrap();
        taken.push(delivery);
    }
    for (number, delivery) in taken.into_iter().enumerate() {
        match number {
            0..5 => delivery.ack().await.unwrap(),
            5 => delivery.terminate("bad").await.unwrap(),
            6 => delivery.nak_after(Duration::from_hours(1)).await.unwrap(),
            // The worker keeps these.
            _ => std::mem::forget(delivery),
        }
    }
    deliveries
}

pub(crate) async fn contents(egress: &Client) -> Contents {
    let (mut messages, mut books) = (BTreeMap::new(), BTreeMap::new());
    let mut subjects = egress.subjects("");
    let mut names = vec!["$dlq.w".to_owned()];
    while let Some(page) = subjects.next_page().await.unwrap() {
        for subject in page {
            books.insert(subject.subject.clone(), (subject.accepted, subject.expired, subject.purged, subject.bytes));
            names.push(subject.subject);
        }
    }
    for name in names {
        let mut found = egress.fetch(Fetch::from_sequence(&name, 1).limit(1000)).await.unwrap();
        let mut lines = Vec::new();
        while let Some(message) = found.next().await {
            let message = message.unwrap();
            let digest = match &message.data {
                Some(data) => Sha256::digest(data).into(),
                None => message.sha256().unwrap(),
            };
            let headers = message.headers.clone().into_iter().collect();
            lines.push((message.sequence, message.stream_sequence, message.timestamp, headers, digest));
        }
        messages.insert(name, lines);
    }
    Contents { messages, books }
}

/// All that must go on after a restore, in a broker that nobody used since.
pub(crate) async fn assert_goes_on(ingress: &Client, egress: &Client, before: &Contents) {
    let publisher = ingress.publisher();
    let again = NewMessage::new("s.0", "other").message_id("id-30");
    let duplicate = publisher.publish(again).await.unwrap();
    assert_eq!((duplicate.sequence, duplicate.duplicate), (10, true), "ids are kept");
    let film = ingress.upload(film()).id("film").from_bytes(data(100, 20 << 20)).await.unwrap();
    assert_eq!(film.sequence, 1, "an upload that is done is known");
    let mut positions = egress.fetch(Fetch::durable("s.1", "reader")).await.unwrap();
    assert_eq!(positions.next().await.unwrap().unwrap().sequence, 8);

    // What was acknowledged or dead-lettered does not come again; what was out does, and all the rest.
    let info = egress.consumer("w").info().await.unwrap();
    assert_eq!((info.acked, info.dead_lettered, info.unacked), (5, 1, 0), "{info:?}");
    let mut expected: Vec<_> = before.messages.iter().filter(|(name, _)| name.starts_with("s.")).collect();
    expected.sort();
    let mut expected: Vec<_> = expected.into_iter().flat_map(|(_, lines)| lines.iter().map(|line| line.1)).collect();
    expected.sort_unstable();
    // Five were acknowledged, one was terminated, one waits for an hour.
    let expected = expected.split_off(7);
    let mut deliveries = egress.consumer("w").messages().await.unwrap();
    let mut found = Vec::new();
    for _ in 0..expected.len() {
        let next = tokio::time::timeout(Duration::from_secs(20), deliveries.next()).await;
        let delivery = next.unwrap_or_else(|_| panic!("{} of {} came", found.len(), expected.len())).unwrap().unwrap();
        found.push(delivery.message.stream_sequence);
        delivery.ack().await.unwrap();
    }
    found.sort_unstable();
    assert_eq!(found, expected);

    let (last, stream_last) = (before.books["s.0"].0, before.messages.values().flatten().map(|line| line.1).max());
    let next = publisher.publish(NewMessage::new("s.0", vec![1; 200_000])).await.unwrap();
    assert_eq!((next.sequence, next.duplicate), (last + 1, false));
    let after = contents(egress).await;
    assert!(after.messages["s.0"].last().unwrap().1 > stream_last.unwrap());
}
