use std::{io::IsTerminal, process::ExitCode};

use anyhow::bail;
use serde_json::json;

use super::{
    Session,
    output::{self, Format},
};

/// Removes messages of a subject.
///
/// Its sequences go on where they were.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  minitoolstream purge orders.new --up-to 1000
  minitoolstream purge 'sensors.>' --keep 100 --yes")]
pub(super) struct Purge {
    /// The subject; may hold wildcards: '*' is one token, '>' the rest.
    subject: String,
    /// Only messages up to and including this sequence. Not with wildcards.
    #[arg(long)]
    up_to: Option<u64>,
    /// Keep the last messages, so many of each subject.
    #[arg(long, conflicts_with = "up_to")]
    keep: Option<u64>,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

impl Purge {
    pub(super) async fn run(self, session: Session) -> anyhow::Result<ExitCode> {
        let subject = &self.subject;
        if !self.yes {
            confirm(&format!("Purge messages of '{subject}'?"), &format!("purge '{subject}'"))?;
        }
        let client = session.connect().await?;
        let purged = match self.keep {
            Some(keep) => client.purge_but_last(subject, keep).await?,
            None => client.purge(subject, self.up_to).await?,
        };
        match session.format {
            Format::Text => output::print_line(&format!("{purged} messages of {subject} purged"))?,
            Format::Json => output::print_json(&json!({ "purged": purged }))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Asks before something is done that cannot be undone.
pub(super) fn confirm(question: &str, deed: &str) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!("nobody can be asked here: add --yes to {deed}");
    }
    eprint!("{question} This cannot be undone. [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was done"),
    }
}
