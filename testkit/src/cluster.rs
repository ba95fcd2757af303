use std::path::Path;

use minitoolstream::store::tarantool::Config;
use tempfile::TempDir;

use crate::{Process, SeaweedFs, Tarantool};

/// The bucket of a cluster.
const BUCKET: &str = "letters";

/// Brokers over Tarantool, one instance or [several](crate::Replicas), and one S3 server: real processes, all of them.
pub struct Cluster<T = Tarantool> {
    /// Publish.
    pub ingress: Vec<Process>,
    /// Consume.
    pub egress: Vec<Process>,
    /// Has the metadata.
    pub tarantool: T,
    /// Has the payload.
    pub s3: SeaweedFs,
    config: Config,
    binary: String,
    dir: TempDir,
}

impl Cluster {
    /// Starts `replicas` brokers of each role. `binary` is `env!("CARGO_BIN_EXE_minitoolstream")`, `home` is
    /// `env!("CARGO_TARGET_TMPDIR")`.
    pub fn start(binary: &str, home: &str, replicas: usize, settings: &[(&str, &str)]) -> Self {
        let tarantool = Tarantool::start(&[]);
        let config = tarantool.config();
        Self::over((tarantool, &config), binary, home, replicas, settings)
    }
}

impl<T> Cluster<T> {
    /// The same, over a Tarantool that is there.
    pub fn over(
        (tarantool, config): (T, &Config),
        binary: &str,
        home: &str,
        replicas: usize,
        settings: &[(&str, &str)],
    ) -> Self {
        let (s3, dir, config) = (SeaweedFs::start(home), tempfile::tempdir().unwrap(), config.clone());
        let mut cluster = Self { ingress: vec![], egress: vec![], tarantool, s3, config, binary: binary.into(), dir };
        cluster.add(replicas, settings);
        cluster
    }

    /// Starts more brokers, so many of each role.
    pub fn add(&mut self, replicas: usize, settings: &[(&str, &str)]) {
        for (role, brokers) in [("ingress", &mut self.ingress), ("egress", &mut self.egress)] {
            for number in brokers.len()..brokers.len() + replicas {
                let (binary, dir) = (&self.binary, self.dir.path());
                brokers.push(broker(binary, dir, role, number, &self.config, &self.s3, settings));
            }
        }
    }

    /// Settings of a broker, or of a command, that works on these stores.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        crate::environment(&self.config, &self.s3.settings(BUCKET))
    }

    /// Settings of its bucket.
    pub fn bucket(&self) -> minitoolstream::store::s3::Settings {
        self.s3.settings(BUCKET)
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
    role: &str,
    number: usize,
    metadata: &Config,
    s3: &SeaweedFs,
    settings: &[(&str, &str)],
) -> Process {
    let stores = crate::environment(metadata, &s3.settings(BUCKET));
    let mut all = vec![("SERVER_ROLE", role), ("TARANTOOL_LIVENESS", "2s"), ("LOG_LEVEL", "error")];
    all.extend(stores.iter().map(|(name, value)| (*name, value.as_str())));
    all.extend(settings);
    Process::start(binary, &dir.join(format!("{role}-{number}")), &all)
}
