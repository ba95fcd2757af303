use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};

/// Ticks of processor time a second, as Linux reports them to every program.
const TICKS_PER_SECOND: f64 = 100.0;

/// Where a load goes: to a subject of its own, so that nothing of earlier runs is measured.
#[derive(Clone)]
pub(super) struct Target {
    /// The broker's address.
    pub(super) address: String,
    /// The subject.
    pub(super) subject: String,
    /// The durable consumer of it.
    pub(super) durable: String,
}

impl Target {
    fn new(address: String) -> Self {
        let run = format!("{:08x}", fastrand::u32(..));
        Self { address, subject: format!("bench.{run}"), durable: format!("bench-{run}") }
    }
}

/// What is measured: a broker or bare service in a process of its own, or one that runs elsewhere.
pub(super) struct Server {
    target: Target,
    child: Option<Child>,
    _data: Option<tempfile::TempDir>,
}

/// What a server's process took.
pub(super) struct Usage {
    /// Processors kept busy, on average.
    pub(super) cores: f64,
    /// Most resident memory at any time, in bytes.
    pub(super) peak_bytes: u64,
}

impl Server {
    /// One that runs already.
    pub(super) fn remote(address: &str) -> Self {
        Self { target: Target::new(address.into()), child: None, _data: None }
    }

    /// A new broker on a fresh data directory below `dir`, or on the shared stores that the environment names.
    pub(super) fn broker(dir: &Path) -> anyhow::Result<Self> {
        let data =
            tempfile::Builder::new().prefix("bench-").tempdir_in(dir).context("no data directory can be made")?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", "--output", "json", "--data-dir"]).arg(data.path());
        command.envs([("SERVER_PORT", "0"), ("EGRESS_PORT", "0"), ("HTTP_PORT", "0"), ("LOG_LEVEL", "warn")]);
        let (child, address) = spawn(command)?;
        Ok(Self { target: Target::new(address), child: Some(child), _data: Some(data) })
    }

    /// A service that acknowledges without storing.
    pub(super) fn echo() -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "--echo-server"]);
        let (child, address) = spawn(command)?;
        Ok(Self { target: Target::new(address), child: Some(child), _data: None })
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Processor time used so far, in seconds.
    pub(super) fn usage(&self) -> Option<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.as_ref()?.id())).ok()?;
        // The second field is the program's name in parentheses, and may hold anything.
        let fields: Vec<_> = stat.rsplit(')').next()?.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
        Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
    }

    pub(super) fn used_since(&self, before: Option<f64>, elapsed: Duration) -> Option<Usage> {
        let cores = (self.usage()? - before?) / elapsed.as_secs_f64();
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.as_ref()?.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(Usage { cores, peak_bytes: kib * 1024 })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a server and reads the line in which it tells its address.
fn spawn(mut command: Command) -> anyhow::Result<(Child, String)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("no server can be started")?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
    match ready["ingress"].as_str() {
        Some(address) => Ok((child, format!("http://{address}"))),
        None => {
            let _ = child.kill();
            let _ = child.wait();
            bail!("the server did not start: see its message above")
        }
    }
}
