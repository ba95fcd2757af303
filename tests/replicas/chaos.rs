//! P1, P2, P4: nothing acknowledged is lost and nothing is skipped while brokers and stores die, freeze and come back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use minitoolstream_client::{Client, ConsumerSettings, Fetch, NewMessage};
use minitoolstream_testkit::Cluster;

use crate::start;

const SUBJECTS: [&str; 3] = ["chaos.a", "chaos.b", "chaos.c"];

/// How long the faults go on.
fn duration() -> Duration {
    let seconds = std::env::var("CHAOS_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(25))
}

/// What was acknowledged: the number of each message by subject and sequence.
type Ledger = Arc<Mutex<BTreeMap<(usize, u64), u64>>>;

/// Publishes until told to stop; what is not acknowledged is sent again under its id.
async fn publish(client: Client, number: u64, ledger: Ledger, is_over: Arc<AtomicBool>) {
    let publisher = client.publisher();
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) {
        count += 1;
        let (id, subject) = (number << 32 | count, usize::try_from(count % 3).unwrap());
        let size = [20, 500, 30_000, 100_000][usize::try_from(count % 4).unwrap()];
        let mut data = id.to_le_bytes().to_vec();
        data.resize(size, u8::try_from(count % 251).unwrap());
        let message = || NewMessage::new(SUBJECTS[subject], data.clone()).message_id(id.to_string());
        let published = loop {
            match publisher.publish(message()).await {
                Ok(published) => break published,
                Err(error) if error.is_transient() => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(error) => panic!("{error}"),
            }
        };
        let before = ledger.lock().unwrap().insert((subject, published.sequence), id);
        assert!(before.is_none_or(|before| before == id), "{} of {subject} was given twice", published.sequence);
    }
}

/// Works until told to stop, on whichever broker it is given; notes what it got.
async fn work(client: Client, seen: Arc<Mutex<BTreeSet<u64>>>, is_over: Arc<AtomicBool>) {
    let settings = ConsumerSettings::of("chaos.*").ack_wait(Duration::from_secs(5)).max_deliver(10_000);
    while !is_over.load(Ordering::Relaxed) {
        let Ok(mut deliveries) = client.consumer("w").settings(settings.clone()).window(200, 8 << 20).messages().await
        else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        while !is_over.load(Ordering::Relaxed) {
            match tokio::time::timeout(Duration::from_millis(300), deliveries.next()).await {
                Ok(Some(Ok(delivery))) => {
                    let id = delivery.message.data.as_ref().map(|data| data[..8].try_into().unwrap());
                    let id = u64::from_le_bytes(id.unwrap());
                    seen.lock().unwrap().insert(id);
                    // One whose confirmation is lost may count, or come again.
                    let _ = delivery.ack().await;
                }
                Ok(Some(Err(_)) | None) => break,
                Err(_) => {}
            }
        }
    }
}

/// Breaks one thing after another, each for a moment.
async fn break_things(cluster: &mut Cluster, seed: u64) -> u32 {
    let mut random = fastrand::Rng::with_seed(seed);
    let (started, mut faults) = (Instant::now(), 0);
    while started.elapsed() < duration() {
        let pause = Duration::from_millis(random.u64(100..1200));
        match random.usize(..10) {
            kind @ 0..=3 => {
                let brokers = if kind < 2 { &mut cluster.ingress } else { &mut cluster.egress };
                brokers[kind % 2].kill();
                tokio::time::sleep(pause).await;
                brokers[kind % 2].restart();
            }
            kind @ 4..=5 => {
                let broker = if kind == 4 { &cluster.ingress[0] } else { &cluster.egress[0] };
                broker.signal("STOP");
                tokio::time::sleep(pause).await;
                broker.signal("CONT");
            }
            6 => {
                cluster.tarantool.kill();
                tokio::time::sleep(pause).await;
                cluster.tarantool.restart();
            }
            7 => {
                cluster.tarantool.signal("STOP");
                tokio::time::sleep(pause).await;
                cluster.tarantool.signal("CONT");
            }
            8 => {
                cluster.s3.kill();
                tokio::time::sleep(pause).await;
                cluster.s3.restart();
            }
            _ => {
                let broker = &mut cluster.egress[1];
                assert!(broker.terminate().success());
                broker.restart();
            }
        }
        faults += 1;
        tokio::time::sleep(Duration::from_millis(random.u64(200..1500))).await;
    }
    faults
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn crash_p1_nothing_is_lost_whoever_fails() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut cluster = start(&[("DEDUP_WINDOW", "1h")]);
    let (ledger, seen) = (Ledger::default(), Arc::new(Mutex::new(BTreeSet::new())));
    let (no_more, is_over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let publishers: Vec<_> = (0..4_u64)
        .map(|number| {
            let client = cluster.ingress[usize::from(number % 2 == 0)].client();
            tokio::spawn(publish(client, number, ledger.clone(), no_more.clone()))
        })
        .collect();
    let workers: Vec<_> = (0..4_usize)
        .map(|number| tokio::spawn(work(cluster.egress[number % 2].client(), seen.clone(), is_over.clone())))
        .collect();
    let faults = break_things(&mut cluster, seed).await;
    no_more.store(true, Ordering::Relaxed);
    for publisher in publishers {
        tokio::time::timeout(Duration::from_secs(60), publisher).await.expect("publishers recover").unwrap();
    }
    let published: BTreeSet<u64> = ledger.lock().unwrap().values().copied().collect();
    let all_are_seen = async {
        loop {
            let info = cluster.egress[0].client().consumer("w").info().await.unwrap();
            if published.is_subset(&seen.lock().unwrap()) && info.pending + info.unacked + info.redeliverable == 0 {
                assert_eq!((info.passed, info.acked), (published.len() as u64, published.len() as u64), "seed {seed}");
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(60), all_are_seen).await.is_err() {
        let missing = published.difference(&seen.lock().unwrap()).count();
        let info = cluster.egress[0].client().consumer("w").info().await;
        panic!("seed {seed}: {missing} of {} messages did not come; {info:?}", published.len());
    }
    is_over.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    eprintln!("{faults} faults, {} messages", published.len());
    // P2: without a gap, and each what the ledger says.
    for (index, subject) in SUBJECTS.iter().enumerate() {
        let client = cluster.egress[1].client();
        let last = client.last_sequence(subject).await.unwrap();
        let mut messages = client.fetch(Fetch::from_sequence(*subject, 1).limit(10_000)).await.unwrap();
        let mut next = 1;
        while let Some(message) = messages.next().await {
            let message = message.unwrap();
            assert_eq!(message.sequence, next, "seed {seed}: {subject}");
            let id = u64::from_le_bytes(message.data.unwrap()[..8].try_into().unwrap());
            if let Some(acknowledged) = ledger.lock().unwrap().get(&(index, next)) {
                assert_eq!(*acknowledged, id, "seed {seed}: {subject} {next}");
            }
            next += 1;
            if next % 10_000 == 1 && next <= last {
                messages = client.fetch(Fetch::from_sequence(*subject, next).limit(10_000)).await.unwrap();
            }
        }
        assert_eq!(next - 1, last, "seed {seed}: {subject}");
    }
}
