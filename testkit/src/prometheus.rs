use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{http, seaweedfs::free_ports};

/// Another process may take the port that was free a moment ago.
const STARTS_MAX: usize = 3;

/// How long a start may take.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// A real Prometheus (Debian's), in a process and a directory of its own. It is killed when the value is dropped.
pub struct Prometheus {
    address: SocketAddr,
    child: Child,
    _dir: TempDir,
}

impl Prometheus {
    /// Starts one and waits until it is ready. `home` is `env!("CARGO_TARGET_TMPDIR")`; `files` are written beside each
    /// other, and one of them is `prometheus.yml`.
    pub async fn start(home: &str, files: &[(&str, &str)]) -> Self {
        let mut log = String::new();
        for _ in 0..STARTS_MAX {
            let dir = tempfile::tempdir().unwrap();
            for (name, text) in files {
                std::fs::write(dir.path().join(name), text).unwrap();
            }
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_ports(1)[0]));
            let child = spawn(&program(home, "prometheus"), dir.path(), address);
            let mut prometheus = Self { address, child, _dir: dir };
            if prometheus.is_ready().await {
                return prometheus;
            }
            log = std::fs::read_to_string(prometheus._dir.path().join("log")).unwrap_or_default();
        }
        panic!("Prometheus does not start:\n{log}");
    }

    /// Its tool, which checks rules and tests them.
    pub fn tool(home: &str) -> Command {
        Command::new(program(home, "promtool"))
    }

    /// What a query gives now: samples with their labels.
    ///
    /// # Errors
    /// What is wrong with the query.
    pub async fn query(&self, query: &str) -> Result<Vec<Value>, String> {
        let query = utf8_percent_encode(query, NON_ALPHANUMERIC);
        let mut answer = self.ask(&format!("/api/v1/query?query={query}")).await;
        match answer["data"]["result"].take() {
            Value::Array(samples) => Ok(samples),
            _ => Err(answer["error"].to_string()),
        }
    }

    /// Alerts that are active: their labels, and `state`, which is `pending` or `firing`.
    pub async fn alerts(&self) -> Vec<Value> {
        let mut answer = self.ask("/api/v1/alerts").await;
        let Value::Array(alerts) = answer["data"]["alerts"].take() else { panic!("no alerts: {answer}") };
        alerts
    }

    /// What the targets are that it scrapes.
    pub async fn targets(&self) -> Vec<Value> {
        let mut answer = self.ask("/api/v1/targets?state=active").await;
        let Value::Array(targets) = answer["data"]["activeTargets"].take() else { panic!("no targets: {answer}") };
        targets
    }

    async fn ask(&self, path: &str) -> Value {
        let (_, body) = http::get(self.address, path).await;
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }

    async fn is_ready(&mut self) -> bool {
        let started = Instant::now();
        while started.elapsed() < READY_WITHIN && self.child.try_wait().unwrap().is_none() {
            if tokio::net::TcpStream::connect(self.address).await.is_ok()
                && http::get(self.address, "/-/ready").await.0 == 200
            {
                return true;
            }
            sleep(Duration::from_millis(50)).await;
        }
        false
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where `tests/run` unpacked it, or on the path.
fn program(home: &str, name: &str) -> PathBuf {
    let unpacked = Path::new(home).join("prometheus/usr/bin").join(name);
    if unpacked.exists() { unpacked } else { name.into() }
}

fn spawn(program: &Path, dir: &Path, address: SocketAddr) -> Child {
    let log = File::create(dir.join("log")).unwrap();
    Command::new(program)
        .arg("--config.file=prometheus.yml")
        .arg("--storage.tsdb.path=data")
        .arg(format!("--web.listen-address={address}"))
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("Prometheus starts: tests/run unpacks it")
}
