//! P4: shared work. Every message is settled by exactly one worker, or becomes exactly one letter; nobody is wedged.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use minitoolstream_client::{Client, ConsumerSettings, Delivery, Error, Result};

use crate::{
    ledger::{Ledger, contents, id_of, publish},
    site::{Site, ended, persist, within},
};

const SUBJECTS: [&str; 2] = ["jobs.a", "jobs.b"];
const SIZES: [usize; 3] = [50, 3000, 80_000];
const AGAIN: &str = "again";
const ACK_WAIT: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Desk {
    /// How often each message was settled for good, as its workers were told.
    settled: Mutex<BTreeMap<u64, u32>>,
    /// Given back once.
    released: Mutex<BTreeSet<u64>>,
    /// Answers that came too late.
    refused: AtomicU64,
    is_over: AtomicBool,
}

impl Desk {
    async fn answer(&self, delivery: Delivery) {
        let id = id_of(delivery.message.data.as_ref().unwrap());
        // A message keeps its fate, however often it comes: some are never done, others fail at first.
        let is_final = match (id % 16, delivery.attempt) {
            (0, 1) => return drop(delivery.nak_after(Duration::from_millis(50)).await),
            // That is no attempt.
            (1, 1) if self.released.lock().unwrap().insert(id) => return drop(delivery.release().await),
            // Given back when dropped.
            (2, 1) => return,
            (3, 1) => {
                tokio::time::sleep(ACK_WAIT * 3 / 2).await;
                delivery.ack().await
            }
            (4 | 5, _) => delivery.terminate("never").await,
            _ => delivery.ack().await,
        };
        match is_final {
            Ok(()) => *self.settled.lock().unwrap().entry(id).or_default() += 1,
            Err(Error::LeaseLost(_)) => drop(self.refused.fetch_add(1, Ordering::Relaxed)),
            Err(error) => panic!("{error}"),
        }
    }
}

fn settings() -> ConsumerSettings {
    ConsumerSettings::of("jobs.*").ack_wait(ACK_WAIT).max_deliver(0).back_off([Duration::from_millis(100)])
}

async fn work(client: Client, desk: Arc<Desk>) {
    while !desk.is_over.load(Ordering::Relaxed) {
        let worker = client.consumer("w").settings(settings()).window(20, 8 << 20).auto_extend(false);
        let Ok(mut deliveries) = worker.messages().await else { continue };
        while !desk.is_over.load(Ordering::Relaxed) {
            match tokio::time::timeout(Duration::from_millis(300), deliveries.next()).await {
                Ok(Some(Ok(delivery))) => {
                    let desk = desk.clone();
                    tokio::spawn(async move { desk.answer(delivery).await });
                }
                Ok(Some(Err(error))) => {
                    assert!(error.is_transient(), "{error}");
                    break;
                }
                Ok(None) => break,
                Err(_) => {}
            }
        }
    }
}

/// Publishes letters again as they come, each once.
async fn redrive(client: Client, goes_on: impl Fn() -> bool) -> Result<()> {
    while goes_on() {
        persist(|| client.redrive("$dlq.w", &[], Some(AGAIN))).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p4_every_message_is_settled_once_whoever_fails() {
    let site = Site::start(&[]).await;
    let (ledger, desk) = (Ledger::default(), Arc::<Desk>::default());
    persist(|| async { site.egress(0).consumer("w").create(settings()).await }).await.unwrap();
    let publishers: Vec<_> = (0..2_usize)
        .map(|number| {
            let (client, ledger, trouble) = (site.ingress(number), ledger.clone(), site.trouble());
            tokio::spawn(publish(client, number as u64, &SUBJECTS, &SIZES, ledger, trouble))
        })
        .collect();
    let workers: Vec<_> = (0..4).map(|number| tokio::spawn(work(site.egress(number), desk.clone()))).collect();
    let redriver = tokio::spawn(redrive(site.egress(1), site.trouble()));
    let calm = site.calm().await;
    for publisher in publishers {
        ended("publishers recover", publisher).await;
    }
    ended("letters are redriven", redriver).await.unwrap();
    let published = ledger.ids();
    let client = calm.cluster.egress[0].client();
    let consumer = client.consumer("w");
    within("all is settled", async || {
        let info = consumer.info().await.unwrap();
        info.acked + info.dead_lettered == published.len() as u64
    })
    .await;
    desk.is_over.store(true, Ordering::Relaxed);
    for worker in workers {
        ended("workers end", worker).await;
    }
    let info = consumer.info().await.unwrap();
    let settled = desk.settled.lock().unwrap().clone();
    eprintln!("{info:?}; {} answers were refused", desk.refused.load(Ordering::Relaxed));
    assert_eq!((info.passed, info.unacked, info.redeliverable, info.pending), (published.len() as u64, 0, 0, 0));
    assert!(settled.values().all(|times| *times == 1), "a lost lease settles nothing: {settled:?}");
    let letters = |ids: &[u64]| ids.iter().copied().filter(|id| matches!(id % 16, 4 | 5)).collect::<Vec<_>>();
    assert_eq!(info.dead_lettered, letters(&published).len() as u64);
    client.redrive("$dlq.w", &[], Some(AGAIN)).await.unwrap();
    let mut redriven: Vec<_> = contents(&client, AGAIN).await.into_values().collect();
    redriven.sort_unstable();
    assert_eq!(redriven, letters(&published), "each letter moved once");
    assert!(contents(&client, "$dlq.w").await.is_empty());
    calm.end().await;
}
