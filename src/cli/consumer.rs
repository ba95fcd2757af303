use std::process::ExitCode;

use clap::Subcommand;
use minitoolstream_client::{ConsumerSettings, Start, proto::ConsumerInfo};
use serde_json::{Value, json};

use super::{
    Session,
    output::{self, Format},
    purge::confirm,
    settings::{self, Tuning},
};

/// Looks after durable consumers.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  minitoolstream consumer create billing --filter 'orders.>' --max-deliver 5
  minitoolstream consumer update billing --ack-wait 5m
  minitoolstream consumer reset billing --start time:2025-01-31T00:00:00Z")]
pub(super) struct Consumer {
    #[command(subcommand)]
    deed: Deed,
}

#[derive(Subcommand)]
enum Deed {
    /// Creates a consumer; one that exists with the same settings stays as it is.
    Create {
        /// Its name.
        consumer: String,
        /// Which subjects it consumes: '*' is one token, '>' the rest.
        #[arg(long)]
        filter: String,
        /// Where it begins: all, new, seq:N, stream:N or time:T.
        #[arg(long, value_parser = settings::start)]
        start: Option<Start>,
        #[command(flatten)]
        tuning: Tuning,
    },
    /// Shows the settings and books of a consumer.
    ///
    /// passed = acked + dead-lettered + dropped + expired + unacked + redeliverable, at all times.
    Get {
        /// Its name.
        consumer: String,
    },
    /// Lists consumers.
    List,
    /// Replaces the settings that are given.
    Update {
        /// Its name.
        consumer: String,
        #[command(flatten)]
        tuning: Tuning,
    },
    /// Stops deliveries; what workers hold may still be acknowledged.
    Pause {
        /// Its name.
        consumer: String,
    },
    /// Goes on with deliveries.
    Resume {
        /// Its name.
        consumer: String,
    },
    /// Begins anew: what workers hold is lost to them, and the books are empty.
    Reset {
        /// Its name.
        consumer: String,
        /// Where it begins: all, new, seq:N, stream:N or time:T; without it, where it began.
        #[arg(long, value_parser = settings::start)]
        start: Option<Start>,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Removes a consumer and ends its streams; its dead letters stay.
    Delete {
        /// Its name.
        consumer: String,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
}

impl Consumer {
    pub(super) async fn run(self, session: Session) -> anyhow::Result<ExitCode> {
        let format = session.format;
        let connect = async |name| anyhow::Ok(session.connect().await?.consumer(name));
        let info = match self.deed {
            Deed::List => return list(&session).await,
            Deed::Delete { consumer, yes } => return delete(&session, &consumer, yes).await,
            Deed::Create { consumer, filter, start, tuning } => {
                let settings = tuning.apply(ConsumerSettings::of(filter));
                let settings = start.into_iter().fold(settings, ConsumerSettings::start);
                connect(consumer).await?.create(settings).await?
            }
            Deed::Update { consumer, tuning } => {
                connect(consumer).await?.update(tuning.apply(ConsumerSettings::unchanged())).await?
            }
            Deed::Get { consumer } => connect(consumer).await?.info().await?,
            Deed::Pause { consumer } => connect(consumer).await?.pause().await?,
            Deed::Resume { consumer } => connect(consumer).await?.resume().await?,
            Deed::Reset { consumer, start, yes } => {
                if !yes {
                    confirm(&format!("Let '{consumer}' begin anew?"), &format!("reset '{consumer}'"))?;
                }
                connect(consumer).await?.reset(start).await?
            }
        };
        match format {
            Format::Json => output::print_json(&info_json(&info))?,
            Format::Text => print(&info)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn list(session: &Session) -> anyhow::Result<ExitCode> {
    let mut pages = session.connect().await?.consumers();
    let mut rows = Vec::new();
    while let Some(page) = pages.next_page().await? {
        for info in page {
            match session.format {
                Format::Json => output::print_json(&info_json(&info))?,
                Format::Text => rows.push(row(info)),
            }
        }
    }
    if session.format == Format::Text {
        let header = ["consumer", "filter", "state", "workers", "pending", "unacked", "redeliverable", "dead letters"];
        output::print_line(&output::table(&header, &[3, 4, 5, 6, 7], rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn delete(session: &Session, name: &str, yes: bool) -> anyhow::Result<ExitCode> {
    if !yes {
        confirm(&format!("Delete the consumer '{name}'?"), &format!("delete '{name}'"))?;
    }
    session.connect().await?.consumer(name).delete().await?;
    match session.format {
        Format::Text => output::print_line(&format!("{name} deleted"))?,
        Format::Json => output::print_json(&json!({ "deleted": name }))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn state(info: &ConsumerInfo) -> &'static str {
    if info.paused { "paused" } else { "active" }
}

fn row(info: ConsumerInfo) -> Vec<String> {
    let state = state(&info).into();
    let ConsumerInfo { name, settings, workers, pending, unacked, redeliverable, dead_lettered, .. } = info;
    let numbers = [u64::from(workers), pending, unacked, redeliverable, dead_lettered].map(|number| number.to_string());
    [name, settings.unwrap_or_default().filter, state].into_iter().chain(numbers).collect()
}

fn numbers(info: &ConsumerInfo) -> [(&'static str, u64); 14] {
    [
        ("workers", info.workers.into()),
        ("cursor", info.cursor),
        ("ack_floor", info.ack_floor),
        ("pending", info.pending),
        ("unacked", info.unacked),
        ("redeliverable", info.redeliverable),
        ("passed", info.passed),
        ("acked", info.acked),
        ("dead_lettered", info.dead_lettered),
        ("dropped", info.dropped),
        ("expired", info.expired),
        ("deliveries", info.deliveries),
        ("redeliveries", info.redeliveries),
        ("lag", lag(info)),
    ]
}

/// Messages that are not done, wherever they are.
pub(super) fn lag(info: &ConsumerInfo) -> u64 {
    info.pending.saturating_add(info.unacked).saturating_add(info.redeliverable)
}

fn created(info: &ConsumerInfo) -> String {
    let at = info.created.and_then(|at| std::time::SystemTime::try_from(at).ok());
    at.map_or_else(String::new, output::time)
}

fn print(info: &ConsumerInfo) -> anyhow::Result<()> {
    let line = |name: &str, value: &str| output::print_line(format!("{name:<20}{value}").trim_end());
    line("consumer", &info.name)?;
    line("created", &created(info))?;
    line("state", state(info))?;
    for (name, value) in settings::rows(info.settings.as_ref().unwrap_or(&Default::default())) {
        line(name, &value)?;
    }
    for (name, number) in numbers(info) {
        line(&name.replace('_', " "), &number.to_string())?;
    }
    Ok(())
}

fn info_json(info: &ConsumerInfo) -> Value {
    let mut value = json!({
        "consumer": info.name,
        "created": created(info),
        "paused": info.paused,
        "settings": settings::json(info.settings.as_ref().unwrap_or(&Default::default())),
    });
    for (name, number) in numbers(info) {
        value[name] = number.into();
    }
    value
}
