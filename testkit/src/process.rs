use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use minitoolstream_client::{Client, Connect};
use serde_json::Value;

use crate::{SETTINGS, owned};

/// A broker as users run it: the real binary in a process of its own, which can be killed and started again on the same
/// data directory. It is killed when the value is dropped.
pub struct Process {
    binary: PathBuf,
    dir: PathBuf,
    settings: Vec<(String, String)>,
    child: Child,
    ready: Value,
}

impl Process {
    /// Starts `minitoolstream serve` and waits until it is ready. `binary` is `env!("CARGO_BIN_EXE_minitoolstream")`.
    pub fn start(binary: &str, dir: &Path, settings: &[(&str, &str)]) -> Self {
        let settings = owned(settings);
        let (child, ready) = spawn(Path::new(binary), dir, &settings).expect("the broker starts");
        Self { binary: binary.into(), dir: dir.into(), settings, child, ready }
    }

    /// Kills it as `kill -9` does, and starts it again on the same data and the same ports. Gives how long it took to
    /// be ready.
    pub fn crash_and_restart(&mut self) -> Duration {
        self.kill();
        self.restart()
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Starts it again, after [`kill`](Self::kill), on the same data and ports.
    pub fn restart(&mut self) -> Duration {
        for (key, name) in [("ingress", "SERVER_PORT"), ("egress", "EGRESS_PORT"), ("http", "HTTP_PORT")] {
            if let Some(address) = self.ready[key].as_str() {
                self.settings.push((name.into(), address.rsplit(':').next().unwrap().into()));
            }
        }
        let started = Instant::now();
        let (child, ready) = spawn(&self.binary, &self.dir, &self.settings).expect("the broker starts again");
        (self.child, self.ready) = (child, ready);
        started.elapsed()
    }

    /// Asks it to stop with SIGTERM and waits for its end.
    pub fn terminate(&mut self) -> ExitStatus {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most resident memory that it ever had, in MiB.
    pub fn peak_memory_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
    }

    /// One of its addresses: `ingress`, `egress` or `http`.
    pub fn address(&self, key: &str) -> String {
        self.ready[key].as_str().unwrap().to_owned()
    }

    /// Sends a signal to it, such as `STOP` or `CONT`.
    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap().success());
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// A client that connects with its first call, and reconnects.
    pub fn client(&self) -> Client {
        let address = self.ready["ingress"].as_str().or(self.ready["egress"].as_str()).unwrap();
        Connect::to(address).attempts(20).connect_lazy().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(binary: &Path, dir: &Path, settings: &[(String, String)]) -> Option<(Child, Value)> {
    let mut child = Command::new(binary)
        .args(["serve", "--output", "json", "--data-dir"])
        .arg(dir.join("data"))
        .envs(SETTINGS)
        .envs(settings.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take()?).read_line(&mut line).ok()?;
    match serde_json::from_str(&line) {
        Ok(ready) => Some((child, ready)),
        Err(_) => {
            let _ = child.kill();
            let _ = child.wait();
            None
        }
    }
}
