//! P2: whoever reads, by any broker, meets every message once and in order; no sequence stands for two messages.

use std::time::Duration;

use futures_util::StreamExt;
use minitoolstream_client::{Client, Fetch, NewMessage};
use tokio::{sync::watch, time::timeout};

use crate::{
    ledger::{Ledger, contents, data, id, id_of, publish},
    site::{Site, ended, persist},
};

const NAMED: &str = "order.named";
const UNNAMED: &str = "order.unnamed";
const SIZES: [usize; 3] = [30, 2000, 90_000];

/// Publishes messages without an id: what becomes of one whose ack is lost is not known.
async fn publish_unnamed(client: Client, number: u64, ledger: Ledger, goes_on: impl Fn() -> bool) {
    let publisher = client.publisher();
    let mut count = 0;
    while goes_on() {
        count += 1;
        let id = id(number, count);
        match publisher.publish(NewMessage::new(UNNAMED, data(id, 100))).await {
            Ok(published) => ledger.note(UNNAMED, published.sequence, id),
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
}

/// Follows a subject until it has come to the `end`, which is told later; skips nothing and meets nothing twice.
async fn follow(client: Client, subject: &str, seen: Ledger, end: watch::Receiver<u64>) {
    let mut last = 0;
    while last < *end.borrow() {
        let fetch = Fetch::from_sequence(subject, last + 1).follow();
        let Ok(mut messages) = client.fetch(fetch).await else { continue };
        while last < *end.borrow() {
            match timeout(Duration::from_millis(300), messages.next()).await {
                Ok(Some(Ok(message))) => {
                    assert_eq!(message.sequence, last + 1, "{subject}");
                    last += 1;
                    seen.note(subject, last, id_of(&message.data.unwrap()));
                }
                Ok(Some(Err(error))) => assert!(error.is_transient(), "{error}"),
                Ok(None) => break,
                Err(_) => {}
            }
        }
    }
}

/// Reads page after page behind a position of its own, and moves it.
async fn page(client: Client, subject: &str, durable: &str, end: watch::Receiver<u64>) {
    let mut position = 0;
    while position < *end.borrow() {
        let Ok(mut messages) = client.fetch(Fetch::durable(subject, durable)).await else { continue };
        let mut last = position;
        while let Some(Ok(message)) = messages.next().await {
            assert_eq!(message.sequence, last + 1, "{subject}");
            last += 1;
        }
        if last == position {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        let acked = persist(|| client.ack(durable, subject, last)).await.unwrap();
        assert_eq!(acked, last);
        // An ack of the past moves nothing back.
        assert_eq!(persist(|| client.ack(durable, subject, position)).await.unwrap(), last);
        position = last;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p2_nothing_is_skipped_whoever_fails() {
    let site = Site::start(&[]).await;
    let (ledger, seen, (end, ended_at)) = (Ledger::default(), Ledger::default(), watch::channel(u64::MAX));
    let (unnamed_end, unnamed_ended_at) = watch::channel(u64::MAX);
    let mut publishers = Vec::new();
    for number in 0..4 {
        let (client, trouble) = (site.ingress(usize::from(number % 2 == 0)), site.trouble());
        publishers.push(tokio::spawn(publish(
            client.clone(),
            number,
            &[NAMED],
            &SIZES,
            ledger.clone(),
            trouble.clone(),
        )));
        publishers.push(tokio::spawn(publish_unnamed(client, number + 4, ledger.clone(), trouble)));
    }
    let mut readers = Vec::new();
    for number in 0..2 {
        for (subject, end) in [(NAMED, &ended_at), (UNNAMED, &unnamed_ended_at)] {
            readers.push(tokio::spawn(follow(site.egress(number), subject, seen.clone(), end.clone())));
        }
        let client = site.egress(number);
        let (name, end) = (format!("reader-{number}"), ended_at.clone());
        readers.push(tokio::spawn(async move { page(client, NAMED, &name, end).await }));
    }
    let calm = site.calm().await;
    for publisher in publishers {
        ended("publishers recover", publisher).await;
    }
    let client = calm.cluster.egress[0].client();
    end.send_replace(client.last_sequence(NAMED).await.unwrap());
    unnamed_end.send_replace(client.last_sequence(UNNAMED).await.unwrap());
    for reader in readers {
        ended("readers come to the end", reader).await;
    }
    let named = contents(&client, NAMED).await;
    assert_eq!((&named, &named), (&ledger.of(NAMED), &seen.of(NAMED)));
    let unnamed = contents(&client, UNNAMED).await;
    assert_eq!(unnamed, seen.of(UNNAMED));
    let acknowledged = ledger.of(UNNAMED);
    eprintln!("{} messages, {} of {} without id were acknowledged", named.len(), acknowledged.len(), unnamed.len());
    assert!(acknowledged.iter().all(|(sequence, id)| unnamed.get(sequence) == Some(id)));
    calm.end().await;
}
