//! P1: what was acknowledged is there, and reaches a worker, whoever fails.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, atomic::Ordering},
};

use crate::{
    ledger::{Ledger, contents, publish, work},
    site::{Site, ended, within},
};

const SUBJECTS: [&str; 3] = ["a", "b", "c"];
/// In the row, in a segment that others share, an object.
const SIZES: [usize; 5] = [20, 500, 30_000, 100_000, 1_500_000];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p1_nothing_is_lost_whoever_fails() {
    let site = Site::start(&[]).await;
    let (ledger, seen, is_over) = (Ledger::default(), Arc::new(Mutex::new(BTreeSet::new())), Arc::default());
    let publishers: Vec<_> = (0..4_usize)
        .map(|number| {
            let (client, ledger, trouble) = (site.ingress(number), ledger.clone(), site.trouble());
            tokio::spawn(publish(client, number as u64, &SUBJECTS, &SIZES, ledger, trouble))
        })
        .collect();
    let workers: Vec<_> =
        (0..4).map(|number| tokio::spawn(work(site.egress(number), "*", seen.clone(), Arc::clone(&is_over)))).collect();
    let mut calm = site.calm().await;
    for publisher in publishers {
        ended("publishers recover", publisher).await;
    }
    let published = ledger.ids();
    eprintln!("{} messages", published.len());
    let consumer = calm.cluster.egress[0].client().consumer("w");
    within("all messages are delivered and settled", async || {
        let info = consumer.info().await.unwrap();
        let are_seen = published.iter().all(|id| seen.lock().unwrap().contains(id));
        are_seen && (info.acked, info.passed) == (published.len() as u64, published.len() as u64)
    })
    .await;
    is_over.store(true, Ordering::Relaxed);
    for worker in workers {
        ended("workers end", worker).await;
    }
    // Nobody has anything in memory but what is stored.
    calm.cluster.brokers().for_each(minitoolstream_testkit::Process::kill);
    calm.cluster.tarantool.kill();
    calm.cluster.s3.kill();
    calm.cluster.s3.restart();
    calm.cluster.tarantool.restart();
    for broker in calm.cluster.brokers() {
        broker.restart();
    }
    for subject in SUBJECTS {
        let found = contents(&calm.cluster.egress[1].client(), subject).await;
        assert_eq!(found, ledger.of(subject), "each has been acknowledged, and none is missing");
        assert!(found.keys().copied().eq(1..=found.len() as u64), "{subject} has a gap");
    }
    calm.end().await;
}
