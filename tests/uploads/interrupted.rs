//! P1, P3: uploads that are interrupted at random places, by everything that can interrupt them.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use minitoolstream::{
    block::PayloadKey,
    store::{
        abandoned,
        check::{self, Mode, Report},
        embedded::{Embedded, Limits},
    },
    types::Timestamp,
};
use minitoolstream_client::proto::{UploadCommit, UploadHeader};
use minitoolstream_testkit::Process;

use crate::{
    api::{Api, header},
    pattern::Pattern,
};

/// What ends a stream.
#[derive(Clone, Copy, Debug)]
enum Interruption {
    /// The client ends it without a commit.
    Ended,
    /// The client goes away.
    Cut,
    /// The broker is killed, while data is on its way.
    Killed,
    /// The broker is killed just after the commit was sent.
    KilledAtCommit,
    /// The broker is asked to stop.
    Terminated,
}

use Interruption::{Cut, Ended, Killed, KilledAtCommit, Terminated};

async fn connect(broker: &Process) -> Api {
    for _ in 0..100 {
        let endpoint = tonic::transport::Channel::from_shared(format!("http://{}", broker.address("ingress"))).unwrap();
        if endpoint.connect().await.is_ok() {
            return Api::connect(broker.address("ingress")).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the broker does not answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_p1_uploads_survive_interruptions_at_random_places() {
    let rounds: u64 = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(60);
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let settings = [("LOG_LEVEL", "error"), ("DEDUP_WINDOW", "1h")];
    let mut broker = Process::start(env!("CARGO_BIN_EXE_minitoolstream"), dir.path(), &settings);
    let mut api = connect(&broker).await;
    let (mut interruptions, mut resumed) = (0, 0);
    let mut round = 0;
    while interruptions < rounds {
        round += 1;
        let size = [100, 1 << 20, random.u64(0..80 << 20), random.u64(0..9 << 20)][random.usize(..4)];
        let data = Pattern::new(usize::try_from(round).unwrap(), size);
        let opening = |offset| UploadHeader { offset, size: Some(size), ..header(&format!("u{round}"), "a") };
        let started = Instant::now();
        loop {
            assert!(
                started.elapsed() < Duration::from_secs(100),
                "seed {seed}: upload {round} does not come to an end"
            );
            let (offset, published) = match api.get(&format!("u{round}")).await {
                Ok(found) => (found.offset, found.published),
                Err(status) if status.code() == tonic::Code::NotFound => (0, None),
                Err(status) => panic!("seed {seed}: {status:?}"),
            };
            if let Some(published) = published {
                assert_eq!((published.sequence, published.size), (round, size), "seed {seed}");
                assert_eq!(published.sha256, data.sha256().to_vec(), "seed {seed}");
                break;
            }
            resumed += u64::from(offset > 0);
            let upload = api.begin(opening(offset)).await;
            if random.u8(..) < 80 {
                upload.send_all(data.pieces(offset)).await;
                let commit = UploadCommit { size: Some(size), sha256: data.sha256().to_vec().into() };
                let _ = upload.commit(commit).await;
                continue;
            }
            interruptions += 1;
            let stop = random.u64(offset..=size);
            upload.send_all(Pattern { size: stop, ..data }.pieces(offset)).await;
            match [Ended, Cut, Cut, Killed, Killed, KilledAtCommit, Terminated][random.usize(..7)] {
                Ended => drop(upload.end().await),
                Cut => upload.cut(),
                kind @ (Killed | KilledAtCommit) => {
                    if matches!(kind, KilledAtCommit) {
                        upload.send_all(data.pieces(stop)).await;
                        let committing = tokio::spawn(upload.commit(UploadCommit::default()));
                        tokio::time::sleep(Duration::from_micros(random.u64(..20_000))).await;
                        broker.kill();
                        let _ = committing.await;
                    } else {
                        tokio::time::sleep(Duration::from_micros(random.u64(..20_000))).await;
                        broker.kill();
                    }
                    broker.restart();
                    api = connect(&broker).await;
                }
                Terminated => {
                    assert!(broker.terminate().success(), "seed {seed}");
                    broker.restart();
                    api = connect(&broker).await;
                }
            }
        }
        api.assert_is("a", round, data).await;
        if size > 20 << 20 {
            // Room for the next.
            broker.client().purge("a", None).await.unwrap();
        }
    }
    // One that is never ended.
    let upload = api.begin(header("left", "a")).await;
    upload.send_all(Pattern::new(1, 3 << 20).pieces(0)).await;
    upload.cut();
    eprintln!("{interruptions} interruptions of {round} uploads; {resumed} went on from an offset");
    assert!(resumed > rounds / 10, "{resumed} of {interruptions} went on from an offset");
    broker.kill();
    assert_no_orphans(&broker.data_dir(), round).await;
}

/// Once the reaper has been at work, every file belongs to a message, and all checks hold.
async fn assert_no_orphans(dir: &Path, last: u64) {
    let embedded = Embedded::open(dir, Limits::default()).await.unwrap();
    let (metadata, payload) = (&embedded.stores.metadata, &embedded.stores.payload);
    let long_after = Timestamp(u64::MAX / 2);
    abandoned::close(&embedded.stores, long_after).await.unwrap();
    metadata.expire_uploads(long_after, 10_000).await.unwrap();
    loop {
        let garbage = metadata.garbage(Timestamp(u64::MAX), 1000).await.unwrap();
        if garbage.is_empty() {
            break;
        }
        for removed in &garbage {
            payload.delete(removed.key).await.unwrap();
        }
        metadata.forget_garbage(&garbage).await.unwrap();
    }
    assert!(metadata.uploads("", 10).await.unwrap().is_empty());
    let mut findings = Vec::new();
    let report = |report| {
        if let Report::Finding(finding) = report {
            findings.push(finding);
        }
    };
    let summary = check::check(&embedded.stores, Mode::Exclusive, report).await.unwrap();
    assert!(findings.is_empty(), "{findings:?}");
    assert!(summary.messages <= last);
    let rows = metadata.payloads(0, 100_000).await.unwrap();
    let objects = |keys: Vec<PayloadKey>| keys.iter().filter(|key| matches!(key, PayloadKey::Object(_))).count();
    assert_eq!(objects(payload.keys().await.unwrap()), objects(rows.iter().map(|row| row.key).collect()));
}
