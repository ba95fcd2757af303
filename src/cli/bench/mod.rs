//! Measures a broker with the load of one client process on the same machine.

mod echo;
mod large;
mod latency;
mod load;
mod server;
mod steady;
mod work;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::json;

use self::{
    load::{Load, Measured},
    server::Server,
};
use super::{
    Session,
    output::{self, Format},
};

/// Measures a broker: throughput, latency, CPU and memory.
///
/// Every ack is durable.
#[derive(clap::Args)]
#[command(after_help = "\
Scenarios:
  a   publish 100 B, 1,000 in flight, 1 connection
  b   publish 10 KiB, 10 clients, one at a time each
  c   publish 10 KiB, 10 clients, 64 in flight each
  d   read back what a and c stored, with an ack for every 1,000 messages
  e   1 KiB at 1,000 messages/s: time from publish to a following reader
  f   consume what a stored, with an ack for each message
  g   1 KiB at 1,000 messages/s: time from publish to a worker that acks each message
  h   10 MiB, 4 clients: upload, and read back; the times of reads are those to the first byte
  i   1 GiB: upload, and read back
  j   publish 1 KiB at 1,000 messages/s while four messages of 1 GiB are uploaded
  k   publish 1 KiB at 1,000 messages/s
Without --remote a broker is started for each run, on a fresh data directory (or, with TARANTOOL_ADDRESS and MINIO_ENDPOINT \
set, on those stores), and each publishing scenario is repeated against a bare gRPC service that acknowledges without \
storing: the ceiling of this machine.")]
pub(super) struct Bench {
    /// Which scenarios to run.
    #[arg(default_values_t = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k'], value_parser = scenario)]
    scenarios: Vec<char>,
    /// How long each scenario runs.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Measure the broker at --address instead of one of its own: no CPU, memory or ceiling then.
    #[arg(long)]
    remote: bool,
    /// Where data directories of the runs are made; removed afterwards.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// The bare service that the ceiling is measured against.
    #[arg(long, hide = true)]
    echo_server: bool,
}

fn scenario(text: &str) -> Result<char, String> {
    match text.chars().next() {
        Some(name @ 'a'..='k') if text.len() == 1 => Ok(name),
        _ => Err("choose from a to k".into()),
    }
}

/// A line of the report.
struct Row {
    what: &'static str,
    measured: Measured,
    /// Cores that the server used, and its peak memory in bytes.
    server: Option<server::Usage>,
    /// Messages per second of the bare service under the same load.
    ceiling: Option<f64>,
}

impl Bench {
    pub(super) async fn run(self, session: Session) -> anyhow::Result<ExitCode> {
        if self.echo_server {
            return echo::serve().await;
        }
        let mut rows = Vec::new();
        for scenario in &self.scenarios {
            rows.extend(self.scenario(*scenario, &session).await.with_context(|| format!("scenario {scenario}"))?);
        }
        match session.format {
            Format::Json => rows.iter().try_for_each(|row| output::print_json(&row.json()))?,
            Format::Text => {
                let header =
                    ["scenario", "msg/s", "MB/s", "p50 ms", "p99 ms", "server cores", "peak memory", "ceiling msg/s"];
                output::print_line(&output::table(&header, &[1, 2, 3, 4, 5, 6, 7], rows.iter().map(Row::cells)))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn scenario(&self, name: char, session: &Session) -> anyhow::Result<Vec<Row>> {
        let (small, alone, piped) = (
            load::Publishing { bytes: 100, clients: 1, in_flight: 1000 },
            load::Publishing { bytes: 10 << 10, clients: 10, in_flight: 1 },
            load::Publishing { bytes: 10 << 10, clients: 10, in_flight: 64 },
        );
        Ok(match name {
            'a' => vec![self.publishing("a publish 100 B", small, session).await?],
            'b' => vec![self.publishing("b publish 10 KiB x 10", alone, session).await?],
            'c' => vec![self.publishing("c publish 10 KiB x 640", piped, session).await?],
            'd' => vec![
                self.reading("d read 100 B", small, session).await?,
                self.reading("d read 10 KiB", piped, session).await?,
            ],
            'f' => vec![self.consuming("f consume 100 B, ack each", small, session).await?],
            'e' => vec![self.end_to_end("e 1 KiB at 1,000/s", latency::Reader::Following, session).await?],
            'h' => self.large(["h upload 10 MiB", "h read 10 MiB"], 10 << 20, 4, session).await?,
            'i' => self.large(["i upload 1 GiB", "i read 1 GiB"], 1 << 30, 1, session).await?,
            'j' => vec![self.beside_uploads("j 1 KiB beside 4 x 1 GiB", session).await?],
            'k' => vec![self.steady("k publish 1 KiB at 1,000/s", session).await?],
            _ => vec![self.end_to_end("g 1 KiB at 1,000/s, leased", latency::Reader::Worker, session).await?],
        })
    }

    async fn end_to_end(&self, what: &'static str, reader: latency::Reader, session: &Session) -> anyhow::Result<Row> {
        let server = self.server(session)?;
        let before = server.usage();
        let measured = latency::end_to_end(server.target(), reader, 1 << 10, 1000, self.duration).await?;
        let used = server.used_since(before, measured.elapsed);
        Ok(Row { what, measured, server: used, ceiling: None })
    }

    async fn consuming(&self, what: &'static str, load: load::Publishing, session: &Session) -> anyhow::Result<Row> {
        let server = self.server(session)?;
        load::run(load, server.target(), self.duration).await?;
        let before = server.usage();
        let measured = work::consume(server.target(), load.bytes).await?;
        let used = server.used_since(before, measured.elapsed);
        Ok(Row { what, measured, server: used, ceiling: None })
    }

    async fn publishing(&self, what: &'static str, load: load::Publishing, session: &Session) -> anyhow::Result<Row> {
        let server = self.server(session)?;
        let before = server.usage();
        let measured = load::run(load, server.target(), self.duration).await?;
        let used = server.used_since(before, measured.elapsed);
        drop(server);
        let ceiling = self.ceiling(load).await?;
        Ok(Row { what, measured, server: used, ceiling })
    }

    /// What the same load comes to at a bare service, in messages a second.
    async fn ceiling(&self, load: impl Load + Copy) -> anyhow::Result<Option<f64>> {
        if self.remote {
            return Ok(None);
        }
        let echo = Server::echo()?;
        Ok(Some(load::run(load, echo.target(), self.duration).await?.rate()))
    }

    async fn large(
        &self,
        [up, down]: [&'static str; 2],
        bytes: u64,
        clients: usize,
        session: &Session,
    ) -> anyhow::Result<Vec<Row>> {
        let server = self.server(session)?;
        let load = large::Uploading { bytes, clients };
        let before = server.usage();
        let uploaded = load::run(load, server.target(), self.duration).await?;
        let used = server.used_since(before, uploaded.elapsed);
        let before = server.usage();
        let read = large::download(server.target(), clients as u64).await?;
        let used_by_reads = server.used_since(before, read.elapsed);
        drop(server);
        let ceiling = self.ceiling(load).await?;
        let up = Row { what: up, measured: uploaded, server: used, ceiling };
        Ok(vec![up, Row { what: down, measured: read, server: used_by_reads, ceiling: None }])
    }

    async fn beside_uploads(&self, what: &'static str, session: &Session) -> anyhow::Result<Row> {
        let server = self.server(session)?;
        let before = server.usage();
        let uploads = large::Uploading { bytes: 1 << 30, clients: 4 };
        let measured = large::beside_uploads(server.target(), uploads).await?;
        let used = server.used_since(before, measured.elapsed);
        Ok(Row { what, measured, server: used, ceiling: None })
    }

    async fn steady(&self, what: &'static str, session: &Session) -> anyhow::Result<Row> {
        let server = self.server(session)?;
        let (before, until) = (server.usage(), Instant::now() + self.duration);
        let measured = steady::publish(server.target(), || Instant::now() >= until).await?;
        let used = server.used_since(before, measured.elapsed);
        Ok(Row { what, measured, server: used, ceiling: None })
    }

    async fn reading(&self, what: &'static str, load: load::Publishing, session: &Session) -> anyhow::Result<Row> {
        let server = self.server(session)?;
        load::run(load, server.target(), self.duration).await?;
        let before = server.usage();
        let measured = load::read_back(server.target(), load.bytes).await?;
        let used = server.used_since(before, measured.elapsed);
        Ok(Row { what, measured, server: used, ceiling: None })
    }

    fn server(&self, session: &Session) -> anyhow::Result<Server> {
        if self.remote { Ok(Server::remote(&session.address)) } else { Server::broker(&self.dir) }
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let Measured { bytes, elapsed, .. } = &self.measured;
        let unknown = || "-".to_owned();
        vec![
            self.what.into(),
            format!("{:.0}", self.measured.rate()),
            format!("{:.0}", *bytes as f64 / elapsed.as_secs_f64() / 1e6),
            format!("{:.2}", self.measured.millis(0.5)),
            format!("{:.2}", self.measured.millis(0.99)),
            self.server.as_ref().map_or_else(unknown, |used| format!("{:.2}", used.cores)),
            self.server.as_ref().map_or_else(unknown, |used| output::bytes(used.peak_bytes)),
            self.ceiling.map_or_else(unknown, |rate| format!("{rate:.0}")),
        ]
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "scenario": self.what,
            "messages": self.measured.messages,
            "messages_per_second": self.measured.rate(),
            "bytes_per_second": self.measured.bytes as f64 / self.measured.elapsed.as_secs_f64(),
            "p50_ms": self.measured.millis(0.5),
            "p99_ms": self.measured.millis(0.99),
            "server_cores": self.server.as_ref().map(|used| used.cores),
            "server_peak_bytes": self.server.as_ref().map(|used| used.peak_bytes),
            "ceiling_messages_per_second": self.ceiling,
        })
    }
}
