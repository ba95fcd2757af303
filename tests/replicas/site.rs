//! Two brokers of each role while one thing after another breaks, and what must be true afterwards.

use std::time::{Duration, Instant};

use minitoolstream::store::{
    Stores,
    check::{self, Kind, Mode, Report},
};
use minitoolstream_client::{Client, Result};
use minitoolstream_testkit::{Cluster, Process, http};

use crate::{
    faults::{Aftermath, Faults},
    start,
};

/// After this long something is lost or wedged.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// Nobody waits for long, so that faults that last a moment are met. What S3 carries out after its client gave up is there
/// within the grace, and goes with the rest.
const SETTINGS: [(&str, &str); 5] = [
    ("DEDUP_WINDOW", "1h"),
    ("TARANTOOL_TIMEOUT", "2s"),
    ("MINIO_TIMEOUT", "2s"),
    ("SHUTDOWN_DEADLINE", "2s"),
    ("REAPER_GRACE", "5s"),
];

/// See the [module](self). Suites publish and consume through it as long as there is [trouble](Self::trouble).
pub(crate) struct Site {
    ingress: Vec<Client>,
    egress: Vec<Client>,
    stores: Stores,
    faults: Faults,
}

/// The site after its faults.
pub(crate) struct Calm {
    pub(crate) cluster: Cluster,
    /// The most resident memory that each broker ever had, in MiB.
    pub(crate) peaks_mib: Vec<u64>,
}

impl Site {
    /// Starts the brokers, and the faults. `MTS_SEED` repeats those of a run.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        let seed = std::env::var("MTS_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
        eprintln!("MTS_SEED={seed}");
        let cluster = start(&[&SETTINGS, settings].concat());
        let clients = |brokers: &[Process]| brokers.iter().map(Process::client).collect();
        let (ingress, egress) = (clients(&cluster.ingress), clients(&cluster.egress));
        let stores = cluster.stores().await.unwrap();
        Self { ingress, egress, stores, faults: Faults::start(cluster, seed) }
    }

    /// A client of one of the brokers that publish.
    pub(crate) fn ingress(&self, number: usize) -> Client {
        self.ingress[number % self.ingress.len()].clone()
    }

    /// A client of one of the brokers that consume.
    pub(crate) fn egress(&self, number: usize) -> Client {
        self.egress[number % self.egress.len()].clone()
    }

    /// Both stores, without the network between.
    pub(crate) fn stores(&self) -> Stores {
        self.stores.clone()
    }

    /// Whether there is more to come.
    pub(crate) fn trouble(&self) -> impl Fn() -> bool + Clone + Send + Sync + use<> {
        self.faults.last()
    }

    /// Waits for the end of the faults. From then on all brokers serve, and nobody restarted them for it.
    pub(crate) async fn calm(self) -> Calm {
        let Aftermath { mut cluster, peaks_mib } = self.faults.aftermath().await;
        for broker in cluster.brokers() {
            let address = broker.address("http");
            let what = format!("{address} is ready");
            within(&what, async || {
                let (status, why) = http::get(&address, "/readyz").await;
                if status != 200 {
                    eprintln!("{address}: {why}");
                }
                status == 200
            })
            .await;
        }
        Calm { cluster, peaks_mib }
    }
}

impl Calm {
    /// Stops the brokers and compares all that is stored with the books. Gives the first sequences of damaged blocks by
    /// subject; nothing else may be found.
    pub(crate) async fn damaged(mut self) -> Vec<(String, u64)> {
        for broker in self.cluster.brokers() {
            assert!(broker.terminate().success());
        }
        let stores = self.cluster.stores().await.unwrap();
        let mut damaged = Vec::new();
        let report = |report| match report {
            Report::Finding(finding) if finding.kind == Kind::DamagedBlock => {
                damaged.push((finding.subject.unwrap().to_string(), finding.sequence));
            }
            Report::Finding(finding) => panic!("{finding:?}"),
            Report::Progress(_) => {}
        };
        check::check(&stores, Mode::Exclusive, report).await.unwrap();
        damaged
    }

    /// The same, where nothing may be damaged.
    pub(crate) async fn end(self) {
        assert_eq!(self.damaged().await, []);
    }
}

/// Repeats what may succeed later, as an application does.
pub(crate) async fn persist<T, F: Future<Output = Result<T>>>(call: impl Fn() -> F) -> Result<T> {
    let since = Instant::now();
    loop {
        match call().await {
            Err(error) if error.is_transient() && since.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
            other => return other,
        }
    }
}

/// Waits until something is true, but not for ever.
pub(crate) async fn within(what: &str, holds: impl AsyncFn() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"));
}

/// Waits for a task that must come to an end by itself.
pub(crate) async fn ended<T>(what: &str, task: tokio::task::JoinHandle<T>) -> T {
    let ended = tokio::time::timeout(PATIENCE, task).await;
    ended.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}")).unwrap()
}
