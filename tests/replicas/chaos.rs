//! P1, P2, P4: nothing acknowledged is lost and nothing is skipped while brokers and stores die, freeze and come back.

use std::time::{Duration, Instant};

use minitoolstream_testkit::Cluster;

use crate::{load::Load, start};

/// How long the faults go on.
fn duration() -> Duration {
    let seconds = std::env::var("CHAOS_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(25))
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
    let load = Load::start(&cluster.ingress, &cluster.egress, usize::MAX);
    let faults = break_things(&mut cluster, seed).await;
    let published = load.end(&cluster.egress, seed).await;
    eprintln!("{faults} faults, {published} messages");
}
