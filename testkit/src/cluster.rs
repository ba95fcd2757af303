use std::{path::Path, sync::Arc};

use minitoolstream::{
    Result,
    metrics::Metrics,
    store::{
        Stores,
        s3::{S3Payload, Settings},
        tarantool::{Config, TarantoolMetadata},
    },
};
use tempfile::TempDir;

use crate::{FaultProxy, Process, Proxy, SeaweedFs, Tarantool};

/// The bucket of a cluster.
const BUCKET: &str = "letters";

/// Brokers over Tarantool, one instance or [several](crate::Replicas), and one S3 server: real processes, all of them, and a
/// network between them that can break.
pub struct Cluster<T = Tarantool> {
    /// Publish.
    pub ingress: Vec<Process>,
    /// Consume.
    pub egress: Vec<Process>,
    /// The way of each broker to a single Tarantool: those of [`ingress`](Self::ingress), then those of
    /// [`egress`](Self::egress).
    pub to_tarantool: Vec<Proxy>,
    /// The way of all brokers to S3.
    pub to_s3: FaultProxy,
    /// Has the metadata.
    pub tarantool: T,
    /// Has the payload.
    pub s3: SeaweedFs,
    /// What brokers are started from, by [`add`](Self::add).
    pub binary: String,
    config: Config,
    dir: TempDir,
}

impl Cluster {
    /// Starts `replicas` brokers of each role. `binary` is `env!("CARGO_BIN_EXE_minitoolstream")`, `home` is
    /// `env!("CARGO_TARGET_TMPDIR")`.
    pub fn start(binary: &str, home: &str, replicas: usize, settings: &[(&str, &str)]) -> Self {
        let tarantool = Tarantool::start(&[]);
        let config = tarantool.config();
        let mut cluster = Self::over((tarantool, &config), binary, home, 0, settings);
        cluster.to_tarantool = (0..2 * replicas).map(|_| Proxy::start(cluster.tarantool.address())).collect();
        cluster.add(replicas, settings);
        cluster
    }

    /// Both stores as a broker has them, without the network between.
    ///
    /// # Errors
    /// [`Unavailable`](minitoolstream::Error::Unavailable) if one of them does not answer.
    pub async fn stores(&self) -> Result<Stores> {
        let metadata = TarantoolMetadata::connect(self.config.clone()).await?;
        let metrics = Metrics::new(1).expect("a new registry takes them");
        let payload = S3Payload::connect(self.bucket(), metrics).await?;
        Ok(Stores { metadata: Arc::new(metadata), payload: Arc::new(payload) })
    }
}

impl<T> Cluster<T> {
    /// The same, over a Tarantool that is there, and directly.
    pub fn over(
        (tarantool, config): (T, &Config),
        binary: &str,
        home: &str,
        replicas: usize,
        settings: &[(&str, &str)],
    ) -> Self {
        let (s3, dir, config) = (SeaweedFs::start(home), tempfile::tempdir().unwrap(), config.clone());
        let to_s3 = FaultProxy::start(s3.address());
        let (ingress, egress, to_tarantool, binary) = (vec![], vec![], vec![], binary.into());
        let mut cluster = Self { ingress, egress, to_tarantool, to_s3, tarantool, s3, binary, config, dir };
        cluster.add(replicas, settings);
        cluster
    }

    /// Starts more brokers, so many of each role.
    pub fn add(&mut self, replicas: usize, settings: &[(&str, &str)]) {
        let mut ways = self.to_tarantool.iter().skip(self.ingress.len() + self.egress.len());
        let payload = Settings { endpoint: self.to_s3.address().to_string(), ..self.s3.settings(BUCKET) };
        for (role, brokers) in [("ingress", &mut self.ingress), ("egress", &mut self.egress)] {
            for number in brokers.len()..brokers.len() + replicas {
                let addresses = ways.next().map(|way| vec![way.address.to_string()]);
                let addresses = addresses.unwrap_or_else(|| self.config.addresses.clone());
                let stores = crate::environment(&Config { addresses, ..self.config.clone() }, &payload);
                brokers.push(broker(&self.binary, self.dir.path(), (role, number), &stores, settings));
            }
        }
    }

    /// Settings of a broker, or of a command, that works on these stores.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        crate::environment(&self.config, &self.bucket())
    }

    /// Settings of its bucket.
    pub fn bucket(&self) -> Settings {
        self.s3.settings(BUCKET)
    }

    /// All brokers: first those that publish.
    pub fn brokers(&mut self) -> impl Iterator<Item = &mut Process> {
        self.ingress.iter_mut().chain(&mut self.egress)
    }

    /// Stops all brokers, in order.
    pub fn stop(&mut self) {
        for mut broker in self.ingress.drain(..).chain(self.egress.drain(..)) {
            assert!(broker.terminate().success());
        }
    }

    /// Bytes of an object of the bucket.
    pub fn read(&self, name: &str) -> Vec<u8> {
        self.s3.read(BUCKET, name)
    }

    /// What the bucket holds.
    pub fn files(&self) -> Vec<String> {
        self.s3.files(BUCKET)
    }
}

fn broker(
    binary: &str,
    dir: &Path,
    (role, number): (&str, usize),
    stores: &[(&'static str, String)],
    settings: &[(&str, &str)],
) -> Process {
    let mut all = vec![("SERVER_ROLE", role), ("TARANTOOL_LIVENESS", "2s"), ("LOG_LEVEL", "error")];
    all.extend(stores.iter().map(|(name, value)| (*name, value.as_str())));
    all.extend(settings);
    Process::start(binary, &dir.join(format!("{role}-{number}")), &all)
}
