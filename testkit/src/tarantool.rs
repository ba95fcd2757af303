use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use minitoolstream::store::tarantool::Config;
use rusty_tarantool::tarantool::ClientConfig;
use serde::{Serialize, de::DeserializeOwned};
use tempfile::TempDir;

/// The password of a server that only this process reaches.
const PASSWORD: &str = "for-tests";

/// The functions of this repository.
const MODULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tarantool");

/// A real Tarantool with the functions of this repository, or of another version of them, in a process and a directory of its own. It is killed when the
/// value is dropped, and ends by itself when this process does.
pub struct Tarantool {
    modules: PathBuf,
    dir: TempDir,
    settings: Vec<(String, String)>,
    address: String,
    child: Child,
}

impl Tarantool {
    /// Starts one on a port that the system chooses. `settings` are those of `tarantool/init.lua`; the log is not synced
    /// unless they say so.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_on(Path::new(MODULES), settings)
    }

    /// The same, with the functions in a directory like `tarantool/`.
    pub fn start_on(modules: &Path, settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = crate::owned(settings);
        let mut child = spawn(modules, &dir, &settings, "127.0.0.1:0");
        let address = ready(&mut child, &dir);
        Self { modules: modules.into(), dir, settings, address, child }
    }

    /// Starts several that need each other to start, on the same settings.
    pub(crate) fn start_together(addresses: &[String], settings: &[(&str, &str)]) -> Vec<Self> {
        let settings = crate::owned(settings);
        let start = |address: &String| {
            let dir = tempfile::tempdir().unwrap();
            let child = spawn(Path::new(MODULES), &dir, &settings, address);
            Self { modules: MODULES.into(), dir, settings: settings.clone(), address: address.clone(), child }
        };
        let mut started: Vec<_> = addresses.iter().map(start).collect();
        for instance in &mut started {
            ready(&mut instance.child, &instance.dir);
        }
        started
    }

    /// Its version: `(2, 11)`.
    pub fn version() -> (u32, u32) {
        let output = Command::new("tarantool").arg("--version").output().expect("tests/run installs it");
        let text = String::from_utf8(output.stdout).unwrap();
        let mut numbers = text.trim_start_matches("Tarantool ").split('.').map(|number| number.parse().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap())
    }

    /// How a store connects to it.
    pub fn config(&self) -> Config {
        Config {
            addresses: vec![self.address.clone()],
            password: PASSWORD.into(),
            // Nobody gives up or dies because the machine stands still for a while.
            timeout: Duration::from_secs(30),
            liveness: Duration::from_secs(60),
            ..Config::default()
        }
    }

    /// Where it listens, `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// How many rows each of its spaces holds, by the name of the space.
    pub async fn rows(&self) -> BTreeMap<String, u64> {
        self.order("rows", &[(); 0]).await
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Starts it again, after [`kill`](Self::kill), on the same data and port.
    pub fn restart(&mut self) {
        self.child = spawn(&self.modules, &self.dir, &self.settings, &self.address);
        ready(&mut self.child, &self.dir);
    }

    /// Kills it and starts it again with the functions of another directory.
    pub fn restart_on(&mut self, modules: &Path) {
        self.kill();
        self.modules = modules.into();
        self.restart();
    }

    /// Sends a signal to it, such as `STOP` or `CONT`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Empties it.
    pub async fn reset(&self) {
        self.order::<u64>("reset", &[(); 0]).await;
    }

    /// Loses the row of a payload, as damage does.
    pub async fn lose_payload(&self, number: u64) {
        self.order::<u64>("lose_payload", &(number,)).await;
    }

    /// Calls a function of `tarantool/test.lua`; gives its answer.
    pub(crate) async fn order<T: DeserializeOwned>(&self, name: &str, arguments: &impl Serialize) -> T {
        let client = ClientConfig::new(self.address.clone(), "mts_test", PASSWORD).build();
        let call = async { client.call_fn(&format!("mts.{name}"), arguments).await?.decode() };
        let (_, answer): (String, T) = tokio::time::timeout(Duration::from_secs(10), call).await.unwrap().unwrap();
        answer
    }
}

/// Addresses that nobody listens on yet.
pub(crate) fn free_addresses(count: usize) -> Vec<String> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

impl Drop for Tarantool {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(modules: &Path, dir: &TempDir, settings: &[(String, String)], listen: &str) -> Child {
    let log = File::options().create(true).append(true).open(dir.path().join("tarantool.log")).unwrap();
    Command::new("tarantool")
        .arg(modules.join("test.lua"))
        .current_dir(dir.path())
        .env("MTS_LISTEN", listen)
        .env("MTS_PASSWORD", PASSWORD)
        .env("MTS_WAL_MODE", "write")
        .env("MTS_MEMORY", "134217728")
        .env("MTS_TEMPORARY", dir.path())
        .env("MTS_PARENT", std::process::id().to_string())
        .envs(settings.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .expect("Tarantool starts: tests/run installs it")
}

/// Waits until it is ready; gives where it listens.
fn ready(child: &mut Child, dir: &TempDir) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let Some(address) = line.trim().strip_prefix("ready ") else {
        let log = std::fs::read_to_string(dir.path().join("tarantool.log")).unwrap_or_default();
        panic!("Tarantool did not start: {line}\n{log}");
    };
    address.to_owned()
}
