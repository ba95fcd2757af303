//! A load that notes what was acknowledged, and what of it is there in the end.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use minitoolstream_client::{Client, Fetch, NewMessage};
use minitoolstream_testkit::Process;
use tokio::task::JoinHandle;

use crate::ledger::{Ledger, data, id_of, work};

const SUBJECTS: [&str; 3] = ["chaos.a", "chaos.b", "chaos.c"];

/// Four publishers and four workers, spread over brokers. Brokers need a deduplication window that outlasts the load.
pub(crate) struct Load {
    ledger: Ledger,
    seen: Arc<Mutex<BTreeSet<u64>>>,
    no_more: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
    publishers: Vec<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(ingress: &[Process], egress: &[Process], bytes_max: usize) -> Self {
        let (ledger, seen) = (Ledger::default(), Arc::new(Mutex::new(BTreeSet::new())));
        let (no_more, is_over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let publish = |number: u64, client| publish(client, (number, bytes_max), ledger.clone(), no_more.clone());
        let clients = ingress.iter().cycle().map(Process::client);
        let publishers = (0..4).zip(clients).map(|(number, client)| tokio::spawn(publish(number, client))).collect();
        let clients = egress.iter().cycle().take(4).map(Process::client);
        let workers =
            clients.map(|client| tokio::spawn(work(client, "chaos.*", seen.clone(), is_over.clone()))).collect();
        Self { ledger, seen, no_more, is_over, publishers, workers }
    }

    /// How many messages were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.ledger.ids().len()
    }

    /// Ends the load and checks that every message was delivered and acked once by its worker (P1, P4), and that
    /// subjects are without a gap, each sequence what it was acknowledged for (P2). Gives how many there are.
    pub(crate) async fn end(self, egress: &[Process], seed: u64) -> usize {
        self.no_more.store(true, Ordering::Relaxed);
        for publisher in self.publishers {
            tokio::time::timeout(Duration::from_secs(60), publisher).await.expect("publishers recover").unwrap();
        }
        let published: BTreeSet<u64> = self.ledger.ids().into_iter().collect();
        let all_are_seen = async {
            loop {
                let info = egress[0].client().consumer("w").info().await.unwrap();
                let is_idle = info.pending + info.unacked + info.redeliverable == 0;
                if published.is_subset(&self.seen.lock().unwrap()) && is_idle {
                    let count = published.len() as u64;
                    assert_eq!((info.passed, info.acked), (count, count), "seed {seed}");
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), all_are_seen).await.is_err() {
            let missing = published.difference(&self.seen.lock().unwrap()).count();
            let info = egress[0].client().consumer("w").info().await;
            panic!("seed {seed}: {missing} of {} messages did not come; {info:?}", published.len());
        }
        self.is_over.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.await.unwrap();
        }
        let client = egress[egress.len() - 1].client();
        for subject in SUBJECTS {
            let ledger = self.ledger.of(subject);
            read_all(&client, subject, |sequence, id| {
                if let Some(acknowledged) = ledger.get(&sequence) {
                    assert_eq!(*acknowledged, id, "seed {seed}: {subject} {sequence}");
                }
            })
            .await;
        }
        published.len()
    }
}

/// Publishes until told to stop; what is not acknowledged is sent again under its id.
async fn publish(client: Client, (number, bytes_max): (u64, usize), ledger: Ledger, is_over: Arc<AtomicBool>) {
    let publisher = client.publisher();
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) {
        count += 1;
        let (id, subject) = (number << 32 | count, usize::try_from(count % 3).unwrap());
        let size = [20, 500, 30_000, 100_000][usize::try_from(count % 4).unwrap()].min(bytes_max);
        let data = data(id, size);
        let message = || NewMessage::new(SUBJECTS[subject], data.clone()).message_id(id.to_string());
        let published = loop {
            match publisher.publish(message()).await {
                Ok(published) => break published,
                Err(error) if error.is_transient() => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(error) => panic!("{error}"),
            }
        };
        ledger.note(SUBJECTS[subject], published.sequence, id);
    }
}

/// Reads a subject from its first message to its last, without a gap.
async fn read_all(client: &Client, subject: &str, see: impl Fn(u64, u64)) {
    let last = client.last_sequence(subject).await.unwrap();
    let mut messages = client.fetch(Fetch::from_sequence(subject, 1).limit(10_000)).await.unwrap();
    let mut next = 1;
    while let Some(message) = messages.next().await {
        let message = message.unwrap();
        assert_eq!(message.sequence, next, "{subject}");
        see(next, id_of(message.data.as_ref().unwrap()));
        next += 1;
        if next % 10_000 == 1 && next <= last {
            messages = client.fetch(Fetch::from_sequence(subject, next).limit(10_000)).await.unwrap();
        }
    }
    assert_eq!(next - 1, last, "{subject}");
}
