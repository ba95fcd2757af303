use std::sync::Arc;

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

/// Brokers over one Tarantool and one S3 server: real processes, all of them, and a network between them that can break.
pub struct Cluster {
    /// Publish.
    pub ingress: Vec<Process>,
    /// Consume.
    pub egress: Vec<Process>,
    /// The way of each broker to Tarantool: those of [`ingress`](Self::ingress), then those of [`egress`](Self::egress).
    pub to_tarantool: Vec<Proxy>,
    /// The way of all brokers to S3.
    pub to_s3: FaultProxy,
    /// Has the metadata.
    pub tarantool: Tarantool,
    /// Has the payload.
    pub s3: SeaweedFs,
    _dir: TempDir,
}

impl Cluster {
    /// Starts `replicas` brokers of each role. `binary` is `env!("CARGO_BIN_EXE_minitoolstream")`, `home` is
    /// `env!("CARGO_TARGET_TMPDIR")`.
    pub fn start(binary: &str, home: &str, replicas: usize, settings: &[(&str, &str)]) -> Self {
        let (tarantool, s3, dir) = (Tarantool::start(&[]), SeaweedFs::start(home), tempfile::tempdir().unwrap());
        let to_s3 = FaultProxy::start(s3.address());
        let to_tarantool: Vec<_> = (0..2 * replicas).map(|_| Proxy::start(tarantool.address())).collect();
        let payload = Settings { endpoint: to_s3.address().to_string(), ..s3.settings(BUCKET) };
        let start = |role: &'static str, ways: &[Proxy]| {
            let broker = |(number, way): (usize, &Proxy)| {
                let metadata = Config { addresses: vec![way.address.to_string()], ..tarantool.config() };
                let stores = crate::environment(&metadata, &payload);
                let mut all = vec![("SERVER_ROLE", role), ("TARANTOOL_LIVENESS", "2s"), ("LOG_LEVEL", "error")];
                all.extend(stores.iter().map(|(name, value)| (*name, value.as_str())));
                all.extend(settings);
                Process::start(binary, &dir.path().join(format!("{role}-{number}")), &all)
            };
            ways.iter().enumerate().map(broker).collect()
        };
        let (ingress, egress) =
            (start("ingress", &to_tarantool[..replicas]), start("egress", &to_tarantool[replicas..]));
        Self { ingress, egress, to_tarantool, to_s3, tarantool, s3, _dir: dir }
    }

    /// What the bucket holds.
    pub fn files(&self) -> Vec<String> {
        self.s3.files(BUCKET)
    }

    /// All brokers: first those that publish.
    pub fn brokers(&mut self) -> impl Iterator<Item = &mut Process> {
        self.ingress.iter_mut().chain(&mut self.egress)
    }

    /// Both stores as a broker has them, without the network between.
    ///
    /// # Errors
    /// [`Unavailable`](minitoolstream::Error::Unavailable) if one of them does not answer.
    pub async fn stores(&self) -> Result<Stores> {
        let metadata = TarantoolMetadata::connect(self.tarantool.config()).await?;
        let metrics = Metrics::new(1).expect("a new registry takes them");
        let payload = S3Payload::connect(self.s3.settings(BUCKET), metrics).await?;
        Ok(Stores { metadata: Arc::new(metadata), payload: Arc::new(payload) })
    }
}
