use std::path::Path;

use tempfile::TempDir;

use crate::{Process, SeaweedFs, Tarantool};

/// The bucket of a cluster.
const BUCKET: &str = "letters";

/// Brokers over one Tarantool and one S3 server: real processes, all of them.
pub struct Cluster {
    /// Publish.
    pub ingress: Vec<Process>,
    /// Consume.
    pub egress: Vec<Process>,
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
        Self::start_on(Tarantool::start(&[]), binary, home, replicas, settings)
    }

    /// The same, on a Tarantool of the caller's.
    pub fn start_on(
        tarantool: Tarantool,
        binary: &str,
        home: &str,
        replicas: usize,
        settings: &[(&str, &str)],
    ) -> Self {
        let (s3, dir) = (SeaweedFs::start(home), tempfile::tempdir().unwrap());
        let start = |role: &'static str| {
            let start = |number| broker(binary, dir.path(), role, number, &tarantool, &s3, settings);
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
    tarantool: &Tarantool,
    s3: &SeaweedFs,
    settings: &[(&str, &str)],
) -> Process {
    let stores = crate::environment(&tarantool.config(), &s3.settings(BUCKET));
    let mut all = vec![("SERVER_ROLE", role), ("TARANTOOL_LIVENESS", "2s"), ("LOG_LEVEL", "error")];
    all.extend(stores.iter().map(|(name, value)| (*name, value.as_str())));
    all.extend(settings);
    Process::start(binary, &dir.join(format!("{role}-{number}")), &all)
}
