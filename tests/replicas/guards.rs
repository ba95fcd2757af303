//! Conditions hold over all brokers: one message for each id, one winner for each sequence, and nobody before the time.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use futures_util::StreamExt;
use minitoolstream_client::{Client, Error, Fetch, NewMessage};
use tokio::time::timeout;

use crate::{
    ledger::{Ledger, contents, data, id, id_of},
    site::{Site, ended, persist, within},
};

const TWICE: &str = "twice";
const COUNTER: &str = "counter";
const LATER: &str = "later";

/// Publishes each message by two brokers at once.
async fn publish_twice(clients: [Client; 2], ledger: Ledger, goes_on: impl Fn() -> bool) -> u64 {
    let publishers = clients.map(|client| client.publisher());
    let mut count = 0;
    while goes_on() {
        count += 1;
        let size = [50, 80_000, 1_100_000][usize::try_from(count % 3).unwrap()];
        let message = || NewMessage::new(TWICE, data(count, size)).message_id(count.to_string());
        let both =
            futures_util::future::join_all(publishers.iter().map(|publisher| persist(|| publisher.publish(message()))));
        let both: Vec<_> = both.await.into_iter().map(Result::unwrap).collect();
        assert_eq!(both[0].sequence, both[1].sequence, "{both:?}");
        ledger.note(TWICE, both[0].sequence, count);
    }
    count
}

/// Appends to a subject only what follows from what it has seen of it.
async fn compare_and_set(
    ingress: Client,
    egress: Client,
    number: u64,
    ledger: Ledger,
    goes_on: impl Fn() -> bool,
) -> u64 {
    let publisher = ingress.publisher();
    let mut count = 0;
    while goes_on() {
        count += 1;
        let id = id(number, count);
        loop {
            let last = persist(|| egress.last_sequence(COUNTER)).await.unwrap();
            let message =
                || NewMessage::new(COUNTER, data(id, 30)).message_id(id.to_string()).expect_last_sequence(last);
            match persist(|| publisher.publish(message())).await {
                Ok(published) => {
                    // A repetition of one whose ack was lost is told where that went.
                    assert!(published.duplicate || published.sequence == last + 1, "{published:?} after {last}");
                    ledger.note(COUNTER, published.sequence, id);
                    break;
                }
                Err(Error::Conflict(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
    count
}

/// Publishes what is to come later; gives when each may.
async fn schedule(client: Client, goes_on: impl Fn() -> bool) -> BTreeMap<u64, SystemTime> {
    let publisher = client.publisher();
    let mut due = BTreeMap::new();
    while goes_on() {
        let id = due.len() as u64 + 1;
        let size = if id.is_multiple_of(4) { 90_000 } else { 40 };
        let at = SystemTime::now() + Duration::from_millis(300 * (1 + id % 8));
        let message = || NewMessage::new(LATER, data(id, size)).message_id(id.to_string()).deliver_at(at);
        persist(|| publisher.publish(message())).await.unwrap();
        due.insert(id, at);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    due
}

/// Follows what was scheduled; gives when each came, in order.
async fn arrivals(client: Client, goes_on: impl Fn() -> bool) -> Vec<(u64, SystemTime)> {
    let mut came = Vec::new();
    while goes_on() {
        let next = came.len() as u64 + 1;
        let Ok(mut messages) = client.fetch(Fetch::from_sequence(LATER, next).follow()).await else { continue };
        while goes_on() {
            match timeout(Duration::from_millis(300), messages.next()).await {
                Ok(Some(Ok(message))) => {
                    assert_eq!(message.sequence, came.len() as u64 + 1);
                    came.push((id_of(&message.data.unwrap()), SystemTime::now()));
                }
                Ok(Some(Err(_)) | None) => break,
                Err(_) => {}
            }
        }
    }
    came
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p2_conditions_hold_whoever_fails() {
    let site = Site::start(&[]).await;
    let ledger = Ledger::default();
    let twice = publish_twice([site.ingress(0), site.ingress(1)], ledger.clone(), site.trouble());
    let twice = tokio::spawn(twice);
    let counters: Vec<_> = (0..3_usize)
        .map(|number| {
            let (ingress, egress) = (site.ingress(number), site.egress(number + 1));
            tokio::spawn(compare_and_set(ingress, egress, number as u64, ledger.clone(), site.trouble()))
        })
        .collect();
    let scheduler = tokio::spawn(schedule(site.ingress(1), site.trouble()));
    let reader = tokio::spawn(arrivals(site.egress(0), site.trouble()));
    let calm = site.calm().await;
    let client = calm.cluster.egress[1].client();

    let sent = ended("repeaters recover", twice).await;
    let found = contents(&client, TWICE).await;
    assert_eq!((&found, found.len() as u64), (&ledger.of(TWICE), sent), "one for each");

    let mut set = 0;
    for counter in counters {
        set += ended("writers recover", counter).await;
    }
    let found = contents(&client, COUNTER).await;
    assert_eq!((&found, found.len() as u64), (&ledger.of(COUNTER), set), "one winner for each");

    let due = ended("the scheduler recovers", scheduler).await;
    within("what was scheduled is there", async || client.last_sequence(LATER).await.unwrap() >= due.len() as u64)
        .await;
    let found = contents(&client, LATER).await;
    let mut ids: Vec<_> = found.values().copied().collect();
    ids.sort_unstable();
    assert!(ids.iter().eq(due.keys()), "each once");
    let came = ended("the reader ends", reader).await;
    assert!(came.iter().zip(found.values()).all(|((id, _), found)| id == found), "in the order of their sequences");
    for (id, at) in &came {
        assert!(*at >= due[id], "{id} came {:?} too early", due[id].duration_since(*at));
    }
    eprintln!("{sent} twice, {set} compared and set, {} of {} came while things broke", came.len(), due.len());
    assert!(!came.is_empty());
    calm.end().await;
}
