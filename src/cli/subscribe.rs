use std::process::ExitCode;

use anyhow::Context;
use futures_util::StreamExt;
use minitoolstream::shutdown::Signals;
use minitoolstream_client::Notification;
use serde_json::json;

use super::{
    Session,
    output::{self, Format},
};

/// Prints a notification whenever a subject has something new, until interrupted.
///
/// Goes on after a broken connection.
#[derive(clap::Args)]
pub(super) struct Subscribe {
    /// What to watch; may hold wildcards.
    subject: String,
    /// Only what lies after the acked position of this durable consumer is new.
    #[arg(short, long, default_value = "")]
    durable: String,
    /// Only what lies after this sequence is new. Not with wildcards.
    #[arg(long)]
    after: Option<u64>,
    /// Stop after this many notifications.
    #[arg(short, long)]
    limit: Option<usize>,
}

impl Subscribe {
    pub(super) async fn run(self, session: Session) -> anyhow::Result<ExitCode> {
        let client = session.connect().await?;
        let notifications = client.subscribe(&self.subject, &self.durable, self.after).await?;
        let mut notifications = notifications.take(self.limit.unwrap_or(usize::MAX));
        // Listened to in all rounds: a signal that comes while something is printed must not be lost.
        let mut signals = Signals::listen().context("signals cannot be received")?;
        loop {
            tokio::select! {
                notification = notifications.next() => {
                    let Some(notification) = notification else { return Ok(ExitCode::SUCCESS) };
                    let Notification { subject, sequence } = notification?;
                    match session.format {
                        Format::Text => output::print_line(&format!("{subject}  up to {sequence}"))?,
                        Format::Json => output::print_json(&json!({ "subject": subject, "sequence": sequence }))?,
                    }
                }
                _ = signals.next() => return Ok(ExitCode::SUCCESS),
            }
        }
    }
}
