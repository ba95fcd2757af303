use std::process::ExitCode;

use minitoolstream_client::proto::ConsumerInfo;
use serde_json::json;

use super::{
    Session, consumer,
    output::{self, Format},
};

/// Tells how far consumers are behind.
///
/// Of each, lag = pending (not delivered yet) + unacked (with a worker) + redeliverable (waiting to be delivered again).
#[derive(clap::Args)]
pub(super) struct Lag {
    /// Only this consumer.
    consumer: Option<String>,
}

impl Lag {
    pub(super) async fn run(self, session: Session) -> anyhow::Result<ExitCode> {
        let client = session.connect().await?;
        let mut rows = Vec::new();
        match &self.consumer {
            Some(name) => rows.extend(show(&client.consumer(name).info().await?, session.format)?),
            None => {
                let mut pages = client.consumers();
                while let Some(page) = pages.next_page().await? {
                    for info in &page {
                        rows.extend(show(info, session.format)?);
                    }
                }
            }
        }
        if session.format == Format::Text {
            let header = ["consumer", "lag", "pending", "unacked", "redeliverable", "workers"];
            output::print_line(&output::table(&header, &[1, 2, 3, 4, 5], rows))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints a document, or gives a row of the table.
fn show(info: &ConsumerInfo, format: Format) -> anyhow::Result<Option<Vec<String>>> {
    let ConsumerInfo { name, pending, unacked, redeliverable, workers, .. } = info;
    let lag = consumer::lag(info);
    if format == Format::Json {
        output::print_json(&json!({
            "consumer": name, "lag": lag, "pending": pending, "unacked": unacked, "redeliverable": redeliverable,
            "workers": workers,
        }))?;
        return Ok(None);
    }
    let numbers = [lag, *pending, *unacked, *redeliverable, u64::from(*workers)].map(|number| number.to_string());
    Ok(Some([name.clone()].into_iter().chain(numbers).collect()))
}
