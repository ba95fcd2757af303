//! The broker under test: the real binary on a data directory that outlives it.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use minitoolstream_client::{Backoff, Client, Connect};
use minitoolstream_testkit::{Process, SETTINGS};
use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_minitoolstream");

/// What every test here sets: no expiry unless a message asks for it, a reaper at work, ids remembered for the whole
/// test.
const COMMON: [(&str, &str); 4] =
    [("TTL_ENABLED", "false"), ("DEDUP_WINDOW", "1h"), ("REAPER_GRACE", "1s"), ("LOG_LEVEL", "error")];

/// Where a broker runs, and with which settings.
pub(crate) struct Home {
    dir: TempDir,
    settings: Vec<(String, String)>,
}

impl Home {
    /// A new directory, and ports that are free and stay so.
    pub(crate) fn new(rng: &mut fastrand::Rng) -> Self {
        let mut settings: Vec<_> = COMMON.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let ports = ["SERVER_PORT", "EGRESS_PORT", "HTTP_PORT"];
        settings.extend(ports.into_iter().zip(free_ports(rng)).map(|(key, port)| (key.into(), port.to_string())));
        Self { dir: tempfile::tempdir().unwrap(), settings }
    }

    /// Adds settings for brokers that are started from now on.
    pub(crate) fn set(&mut self, settings: impl IntoIterator<Item = (&'static str, String)>) {
        self.settings.extend(settings.into_iter().map(|(key, value)| (key.into(), value)));
    }

    /// The directory that holds the data directory.
    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    /// Where the data is.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Where the broker listens.
    pub(crate) fn address(&self) -> String {
        let port = self.settings.iter().find(|(key, _)| key == "SERVER_PORT").map(|(_, port)| port);
        format!("127.0.0.1:{}", port.unwrap())
    }

    /// Starts the broker and waits until it is ready.
    pub(crate) fn start(&self) -> Process {
        let settings: Vec<_> = self.settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        Process::start(BINARY, self.dir.path(), &settings)
    }

    /// Starts a broker and kills it after a while, whether it is ready or not: recovery can be cut, too.
    pub(crate) fn start_and_kill(&self, after: Duration) {
        let mut child = self.serve().spawn().unwrap();
        std::thread::sleep(after);
        let _ = child.kill();
        child.wait().unwrap();
    }

    /// A command that serves; nobody reads what it says.
    pub(crate) fn serve(&self) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(["serve", "--data-dir"])
            .arg(self.data_dir())
            .envs(SETTINGS)
            .envs(self.settings.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// Runs `minitoolstream check` on the directory, whose broker is dead (P7, P8).
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut command = Command::new(BINARY);
        command.args(["check", "-o", "json", "--data-dir"]).arg(self.data_dir()).stdin(Stdio::null());
        let output = command.output().unwrap();
        let (said, warned) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let summary: Value = said.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        let is_sound = output.status.success() && summary["findings"] == 0;
        is_sound.then_some(()).ok_or_else(|| format!("the check ended with {}:\n{said}{warned}", output.status))
    }
}

/// A client that is back soon after the broker is.
pub(crate) fn client(address: &str) -> Client {
    let backoff = Backoff { first: Duration::from_millis(10), max: Duration::from_millis(200) };
    Connect::to(address).attempts(100).backoff(backoff).connect_lazy().unwrap()
}

/// A client of a broker that runs.
pub(crate) fn client_of(process: &Process) -> Client {
    client(&process.address("ingress"))
}

/// Ports below those that the system hands out: no client of anybody's gets one while the broker is down. They are used
/// once only, as tests may run side by side in one process.
fn free_ports(rng: &mut fastrand::Rng) -> [u16; 3] {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut taken = TAKEN.lock().unwrap();
    let mut is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok() && taken.insert(*port);
    let ports: Vec<_> = (0..1000).map(|_| rng.u16(20_000..32_000)).filter(&mut is_free).take(3).collect();
    ports.try_into().expect("three ports are free")
}
