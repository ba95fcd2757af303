//! Breaks one thing after another, each for a moment, in an order that a seed gives; in the end everything is whole again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use fastrand::Rng;
use minitoolstream_testkit::{Cluster, Fault as Spoilt, Process, Proxy, Towards};

/// What may break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A broker is killed, and started again.
    BrokerKilled,
    /// A broker stops in order, and is started again.
    BrokerStopped,
    /// A broker stands still.
    BrokerFrozen,
    TarantoolKilled,
    TarantoolFrozen,
    S3Killed,
    S3Frozen,
    /// Nothing passes between a broker and Tarantool, until the others take it for dead.
    CutOff,
    /// Everything between the brokers and Tarantool takes its time.
    Delayed,
    /// A connection to Tarantool ends in the middle of a request, and one in the middle of an answer.
    Truncated,
    /// Tarantool does what it is told, and what it answers is lost.
    RepliesLost,
    /// S3 refuses, denies, cuts short, is slow, or does what it is told and its answers are lost.
    S3Spoilt,
}

const ALL: [Fault; 12] = [
    Fault::BrokerKilled,
    Fault::BrokerStopped,
    Fault::BrokerFrozen,
    Fault::TarantoolKilled,
    Fault::TarantoolFrozen,
    Fault::S3Killed,
    Fault::S3Frozen,
    Fault::CutOff,
    Fault::Delayed,
    Fault::Truncated,
    Fault::RepliesLost,
    Fault::S3Spoilt,
];

/// More than a broker may be silent (`TARANTOOL_LIVENESS`).
const BURIED_AFTER: Duration = Duration::from_millis(2500);

/// What is left of a cluster after its faults.
pub(crate) struct Aftermath {
    pub(crate) cluster: Cluster,
    /// The most resident memory that each broker ever had, in MiB.
    pub(crate) peaks_mib: Vec<u64>,
}

/// A thread that breaks things. Dropped, it mends what it broke last, and ends with the cluster.
pub(crate) struct Faults {
    thread: Option<JoinHandle<Aftermath>>,
    last: Arc<AtomicBool>,
}

impl Faults {
    /// Breaks each thing once; `CHAOS_SECONDS` goes on for longer.
    pub(crate) fn start(cluster: Cluster, seed: u64) -> Self {
        let last = Arc::new(AtomicBool::new(true));
        let of_thread = last.clone();
        let thread = thread::spawn(move || {
            let peaks_mib = vec![0; cluster.to_tarantool.len()];
            let mut breaker = Breaker { cluster, random: Rng::with_seed(seed), peaks_mib };
            breaker.run(&of_thread);
            (0..breaker.peaks_mib.len()).for_each(|number| breaker.note_peak(number));
            of_thread.store(false, Ordering::Relaxed);
            Aftermath { cluster: breaker.cluster, peaks_mib: breaker.peaks_mib }
        });
        Self { thread: Some(thread), last }
    }

    /// Whether there is more to come, for those who go on meanwhile.
    pub(crate) fn last(&self) -> impl Fn() -> bool + Clone + Send + Sync + use<> {
        let last = self.last.clone();
        move || last.load(Ordering::Relaxed)
    }

    /// Waits until nothing is broken any more, and nothing will be.
    pub(crate) async fn aftermath(mut self) -> Aftermath {
        let thread = self.thread.take().expect("there is one aftermath");
        tokio::task::spawn_blocking(|| thread.join()).await.unwrap().expect("what was broken is mended")
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        self.last.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Why the test failed is told by the test.
            let _ = thread.join();
        }
    }
}

struct Breaker {
    cluster: Cluster,
    random: Rng,
    /// Of the lives of each broker so far.
    peaks_mib: Vec<u64>,
}

impl Breaker {
    fn run(&mut self, last: &AtomicBool) {
        let seconds = std::env::var("CHAOS_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
        let (started, least) = (Instant::now(), Duration::from_secs(seconds.unwrap_or(0)));
        loop {
            let mut faults = ALL;
            self.random.shuffle(&mut faults);
            for fault in faults {
                if !last.load(Ordering::Relaxed) {
                    return;
                }
                let pause = self.millis(200..900);
                sleep(pause);
                self.cause(fault);
            }
            if started.elapsed() >= least {
                self.cluster.to_s3.heal();
                return;
            }
        }
    }

    fn cause(&mut self, fault: Fault) {
        let (pause, number) = (self.millis(200..1000), self.random.usize(..self.cluster.to_tarantool.len()));
        eprintln!("{fault:?} (broker {number}), {pause:?}");
        let Cluster { to_tarantool, tarantool, s3, .. } = &mut self.cluster;
        match fault {
            Fault::BrokerKilled => {
                self.note_peak(number);
                self.broker(number).kill();
                sleep(pause);
                self.broker(number).restart();
            }
            Fault::BrokerStopped => {
                self.note_peak(number);
                assert!(self.broker(number).terminate().success());
                self.broker(number).restart();
            }
            Fault::BrokerFrozen => {
                self.broker(number).signal("STOP");
                sleep(pause);
                self.broker(number).signal("CONT");
            }
            Fault::TarantoolKilled => {
                tarantool.kill();
                sleep(pause);
                tarantool.restart();
            }
            Fault::TarantoolFrozen => {
                tarantool.signal("STOP");
                sleep(pause);
                tarantool.signal("CONT");
            }
            Fault::S3Killed => {
                s3.kill();
                sleep(pause);
                s3.restart();
            }
            Fault::S3Frozen => {
                s3.signal("STOP");
                sleep(2 * pause);
                s3.signal("CONT");
            }
            Fault::CutOff => {
                stall(&to_tarantool[number], &[Towards::Broker, Towards::Client]);
                sleep(BURIED_AFTER + pause);
                to_tarantool[number].go_on();
            }
            Fault::Delayed => {
                let delay = pause / 10;
                to_tarantool.iter().for_each(|way| way.delay(delay));
                sleep(2 * pause);
                to_tarantool.iter().for_each(|way| way.delay(Duration::ZERO));
            }
            Fault::Truncated => {
                for towards in [Towards::Broker, Towards::Client] {
                    for way in to_tarantool.iter() {
                        way.cut_after(towards, self.random.u64(1..3000));
                    }
                    sleep(pause);
                }
            }
            Fault::RepliesLost => {
                to_tarantool.iter().for_each(|way| stall(way, &[Towards::Client]));
                sleep(pause);
                for way in to_tarantool.iter() {
                    way.cut_now();
                    way.go_on();
                }
            }
            Fault::S3Spoilt => self.spoil(pause),
        }
    }

    fn spoil(&mut self, pause: Duration) {
        let long = Duration::from_secs(3);
        let mut ways = [
            Spoilt::Refuse(503, "SlowDown"),
            Spoilt::Refuse(500, "InternalError"),
            Spoilt::Drop,
            Spoilt::LoseReply,
            Spoilt::Silence(long),
            Spoilt::CutBody,
            Spoilt::ShortBody,
            Spoilt::SlowBody(pause),
        ];
        self.random.shuffle(&mut ways);
        let proxy = &self.cluster.to_s3;
        // Fewer denials than it takes to be believed.
        proxy.spoil("GET /letters/segments", 2, Spoilt::Refuse(404, "NoSuchKey"));
        for way in ways {
            proxy.spoil("/letters", 2, way);
        }
        sleep(2 * pause);
        proxy.heal();
    }

    fn note_peak(&mut self, number: usize) {
        self.peaks_mib[number] = self.peaks_mib[number].max(self.broker(number).peak_memory_mib());
    }

    fn broker(&mut self, number: usize) -> &mut Process {
        self.cluster.brokers().nth(number).expect("one for each way")
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.u64(range))
    }
}

fn stall(way: &Proxy, towards: &[Towards]) {
    towards.iter().for_each(|towards| way.stall_after(*towards, 0));
}
