use std::{io::IsTerminal, net::IpAddr, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context, bail};
use minitoolstream::{
    app,
    config::{Config, LogFormat, Role},
    shutdown::Signals,
};
use serde_json::json;
use tracing_subscriber::EnvFilter;

use super::output::{self, Format};

/// From which level on other crates are heard.
const OTHERS: &str = "warn";

/// Whose logs are never more than errors.
const SECRETIVE: &str = "rusty_tarantool";

/// Runs the broker.
///
/// Without any option it listens on loopback and keeps its data in ./data.
#[derive(clap::Args)]
#[command(after_help = "\
Settings come from defaults, then the file, then the environment, then these options; 'minitoolstream config' prints \
the result. SIGTERM and SIGINT stop the broker gracefully; a second one ends it at once.")]
pub(super) struct Serve {
    /// Configuration file (YAML).
    #[arg(short, long, env = "MINITOOLSTREAM_CONFIG")]
    config: Option<PathBuf>,
    /// Directory of the embedded stores.
    #[arg(short, long)]
    data_dir: Option<PathBuf>,
    /// Which services to offer: all, ingress or egress.
    #[arg(long, value_enum)]
    role: Option<RoleArg>,
    /// Address to listen on.
    #[arg(long)]
    host: Option<IpAddr>,
    /// gRPC port; 0 lets the system choose.
    #[arg(short, long)]
    port: Option<u16>,
    /// Second gRPC port, for consumers.
    #[arg(long)]
    egress_port: Option<u16>,
    /// Port of health checks and metrics.
    #[arg(long)]
    http_port: Option<u16>,
}

/// What [`Role`] is called on the command line.
#[derive(Clone, Copy, clap::ValueEnum)]
enum RoleArg {
    All,
    Ingress,
    Egress,
}

impl From<RoleArg> for Role {
    fn from(given: RoleArg) -> Self {
        match given {
            RoleArg::All => Self::All,
            RoleArg::Ingress => Self::Ingress,
            RoleArg::Egress => Self::Egress,
        }
    }
}

impl Serve {
    pub(super) fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        let config = self.config()?;
        init_logs(&config)?;
        let runtime = || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            runtime.expect("a runtime can be made at the start of the process")
        };
        actix::System::with_tokio_rt(runtime).block_on(serve(config, format))
    }

    fn config(self) -> anyhow::Result<Config> {
        let mut config = Config::load(self.config.as_deref(), |name| std::env::var(name).ok())?;
        config.data_dir = self.data_dir.unwrap_or(config.data_dir);
        config.role = self.role.map_or(config.role, Role::from);
        config.host = self.host.unwrap_or(config.host);
        config.port = self.port.unwrap_or(config.port);
        config.egress_port = self.egress_port.unwrap_or(config.egress_port);
        config.http_port = self.http_port.unwrap_or(config.http_port);
        Ok(config)
    }
}

async fn serve(config: Config, format: Format) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen().context("signals cannot be received")?;
    let data = match config.shared() {
        Some(shared) => {
            format!("Tarantool at {} and S3 at {}", shared.tarantool.addresses.join(", "), shared.s3.endpoint)
        }
        None => config.data_dir.display().to_string(),
    };
    let mut running = tokio::select! {
        running = app::start(config) => running?,
        // It may wait for its stores.
        signal = signals.next() => {
            tracing::info!(signal, "stopped before it was ready");
            return Ok(ExitCode::SUCCESS);
        }
    };
    if let Err(error) = announce(&running, &data, format) {
        tracing::warn!(error = format!("{error:#}"), "nobody could be told that the broker is ready");
    }
    tokio::select! {
        signal = signals.next() => tracing::info!(signal, "stopping"),
        reason = running.failed() => {
            tracing::error!(reason, "the broker cannot go on");
            return Ok(ExitCode::FAILURE);
        }
    }
    tokio::select! {
        () = running.stop() => {
            tracing::info!("stopped");
            Ok(ExitCode::SUCCESS)
        }
        signal = signals.next() => {
            tracing::warn!(signal, "ended at once");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn announce(running: &app::Running, data: &str, format: Format) -> anyhow::Result<()> {
    let http = running.http;
    let [ingress, egress] = [Role::Ingress, Role::Egress].map(|role| running.address(role));
    if format == Format::Json {
        let mut ready = json!({ "http": http.to_string(), "data": data });
        for (name, address) in [("ingress", ingress), ("egress", egress)] {
            if let Some(address) = address {
                ready[name] = address.to_string().into();
            }
        }
        return output::print_json(&ready);
    }
    let grpc: Vec<_> = [ingress, egress].iter().flatten().map(|address| format!("http://{address}")).collect();
    output::print_line(&format!(
        "MiniToolStream {} is ready\n  gRPC     {}\n  health   http://{http}/healthz\n  metrics  \
         http://{http}/metrics\n  data     {data}\nTry: minitoolstream publish greetings --data hello",
        env!("CARGO_PKG_VERSION"),
        grpc.join(" and ")
    ))
}

/// The directives of `log.level`. A bare level is the broker's own. Directives are taken as they are, but for those of
/// [`SECRETIVE`], however specific: below the level `error` the client of Tarantool writes its password.
fn directives(log_level: &str) -> String {
    if !log_level.contains(['=', ',']) {
        return format!("{OTHERS},minitoolstream={log_level},{SECRETIVE}=error");
    }
    let asked = log_level.split(',').filter(|directive| !directive.trim_start().starts_with(SECRETIVE));
    asked.chain([format!("{SECRETIVE}=error").as_str()]).collect::<Vec<_>>().join(",")
}

fn init_logs(config: &Config) -> anyhow::Result<()> {
    let Ok(filter) = EnvFilter::builder().parse(directives(&config.log_level)) else {
        bail!("log.level: '{}' is no level: use error, warn, info, debug or trace", config.log_level);
    };
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(Arc::new(std::io::stderr()));
    let result = match config.log_format {
        LogFormat::Text => logs.try_init(),
        LogFormat::Json => logs.json().try_init(),
    };
    result.map_err(|error| anyhow::anyhow!("logs cannot be set up: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_directive_makes_the_client_of_tarantool_write_its_password() {
        assert_eq!(directives("info"), format!("{OTHERS},minitoolstream=info,{SECRETIVE}=error"));
        for asked in [
            "info,rusty_tarantool::tarantool=trace",
            "info, rusty_tarantool::tarantool::dispatch=trace",
            "info,rusty_tarantool=debug",
            "info,rusty_tarantool[{password}]=trace,rusty_tarantool::x=info",
        ] {
            assert_eq!(directives(asked), format!("info,{SECRETIVE}=error"), "{asked}");
        }
        assert_eq!(directives("warn,hyper=debug"), format!("warn,hyper=debug,{SECRETIVE}=error"));
    }
}
