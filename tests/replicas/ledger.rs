//! Messages that tell which they are, and what is known of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use minitoolstream_client::{Client, ConsumerSettings, Fetch, NewMessage, Result};

use crate::site::persist;

/// Messages of a page.
const PAGE: u32 = 500;

/// Which message has which sequence of a subject, as acks or deliveries say.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<BTreeMap<String, BTreeMap<u64, u64>>>>);

impl Ledger {
    /// Notes what an ack or a delivery says; a sequence must never stand for two messages.
    pub(crate) fn note(&self, subject: &str, sequence: u64, id: u64) {
        let before = self.0.lock().unwrap().entry(subject.into()).or_default().insert(sequence, id);
        assert!(before.is_none_or(|before| before == id), "{sequence} of {subject} stands for two messages");
    }

    /// Messages by sequence.
    pub(crate) fn of(&self, subject: &str) -> BTreeMap<u64, u64> {
        self.0.lock().unwrap().get(subject).cloned().unwrap_or_default()
    }

    /// All messages, over all subjects.
    pub(crate) fn ids(&self) -> Vec<u64> {
        let mut ids: Vec<_> = self.0.lock().unwrap().values().flat_map(BTreeMap::values).copied().collect();
        ids.sort_unstable();
        ids
    }
}

/// Data of a message: its number, and bytes that follow from it.
pub(crate) fn data(id: u64, size: usize) -> Bytes {
    let mut data = vec![0; size.max(8)];
    fastrand::Rng::with_seed(id).fill(&mut data[8..]);
    data[..8].copy_from_slice(&id.to_le_bytes());
    data.into()
}

/// Which message has these data; they must be whole.
pub(crate) fn id_of(found: &Bytes) -> u64 {
    let id = u64::from_le_bytes(found[..8].try_into().unwrap());
    // No printing of megabytes.
    assert!(*found == data(id, found.len()), "message {id} has other bytes");
    id
}

/// Works for the consumer 'w' until told to stop, on the broker that it is given; notes what it got.
pub(crate) async fn work(client: Client, filter: &str, seen: Arc<Mutex<BTreeSet<u64>>>, is_over: Arc<AtomicBool>) {
    let settings = ConsumerSettings::of(filter).ack_wait(Duration::from_secs(5)).max_deliver(10_000);
    while !is_over.load(Ordering::Relaxed) {
        let Ok(mut deliveries) = client.consumer("w").settings(settings.clone()).window(200, 8 << 20).messages().await
        else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        while !is_over.load(Ordering::Relaxed) {
            match tokio::time::timeout(Duration::from_millis(300), deliveries.next()).await {
                Ok(Some(Ok(delivery))) => {
                    seen.lock().unwrap().insert(id_of(delivery.message.data.as_ref().unwrap()));
                    // One whose confirmation is lost may count, or come again.
                    let _ = delivery.ack().await;
                }
                Ok(Some(Err(_)) | None) => break,
                Err(_) => {}
            }
        }
    }
}

/// A number for a message: no two publishers have the same.
pub(crate) fn id(publisher: u64, count: u64) -> u64 {
    publisher << 32 | count
}

/// Publishes one message after another as long as `goes_on` says so, each until it is acknowledged.
pub(crate) async fn publish(
    client: Client,
    number: u64,
    subjects: &'static [&'static str],
    sizes: &'static [usize],
    ledger: Ledger,
    goes_on: impl Fn() -> bool,
) {
    let publisher = client.publisher();
    let (mut count, mut lasts) = (0_u64, BTreeMap::new());
    while goes_on() {
        count += 1;
        let at = |of: usize| usize::try_from(count).unwrap() % of;
        let (id, subject, size) = (id(number, count), subjects[at(subjects.len())], sizes[at(sizes.len())]);
        let message = || NewMessage::new(subject, data(id, size)).message_id(id.to_string());
        let published = persist(|| publisher.publish(message())).await.unwrap();
        ledger.note(subject, published.sequence, id);
        let before = lasts.insert(subject, published.sequence).unwrap_or(0);
        assert!(published.sequence > before, "{subject}: {} comes after {before}", published.sequence);
    }
}

/// All messages of a subject, by sequence.
pub(crate) async fn contents(client: &Client, subject: &str) -> BTreeMap<u64, u64> {
    let (mut found, mut next) = (BTreeMap::new(), 1);
    loop {
        let page = persist(|| page(client, subject, next)).await.unwrap();
        let Some((last, _)) = page.last() else { return found };
        next = last + 1;
        found.extend(page);
    }
}

async fn page(client: &Client, subject: &str, from: u64) -> Result<Vec<(u64, u64)>> {
    let mut messages = client.fetch(Fetch::from_sequence(subject, from).limit(PAGE)).await?;
    let mut page = Vec::new();
    while let Some(message) = messages.next().await {
        let message = message?;
        page.push((message.sequence, id_of(&message.data.unwrap())));
    }
    Ok(page)
}
