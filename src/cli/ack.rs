use std::process::ExitCode;

use serde_json::json;

use super::{
    Session,
    output::{self, Format},
};

/// Acknowledges everything up to and including a sequence.
///
/// The position of a consumer never moves backwards.
#[derive(clap::Args)]
pub(super) struct Ack {
    /// The durable consumer.
    durable: String,
    /// The subject.
    subject: String,
    /// The last sequence that is done.
    sequence: u64,
}

impl Ack {
    pub(super) async fn run(self, session: Session) -> anyhow::Result<ExitCode> {
        let position = session.connect().await?.ack(&self.durable, &self.subject, self.sequence).await?;
        match session.format {
            Format::Text => output::print_line(&format!("{} stands at {position} of {}", self.durable, self.subject))?,
            Format::Json => output::print_json(&json!({ "position": position }))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
