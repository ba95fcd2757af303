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
    _dir: TempDir,
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
        let (s3, dir) = (SeaweedFs::start(home), tempfile::tempdir().unwrap());
        let start = |role: &'static str| {
            let start = |number| broker(binary, dir.path(), role, number, config, &s3, settings);
            (0..replicas).map(start).collect::<Vec<_>>()
        };
        let (ingress, egress) = (start("ingress"), start("egress"));
        Self { ingress, egress, tarantool, s3, _dir: dir }
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
