use std::process::ExitCode;

use clap::Subcommand;
use minitoolstream_client::{Client, UploadState};
use serde_json::json;

use super::{
    Session,
    output::{self, Format, hex},
};

/// Looks after uploads that were interrupted.
///
/// A large file that is published is uploaded under an id, which is told when the command is interrupted.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  minitoolstream upload show 4c0fb2a1e58d46f3a2f64e3e1d6b8c70
  minitoolstream upload abort 4c0fb2a1e58d46f3a2f64e3e1d6b8c70")]
pub(super) struct Upload {
    #[command(subcommand)]
    deed: Deed,
}

#[derive(Subcommand)]
enum Deed {
    /// Tells how much of an upload is stored, or which message it became.
    Show {
        /// The id of the upload.
        id: String,
    },
    /// Gives up an upload that is not published, and what is stored of it.
    Abort {
        /// The id of the upload.
        id: String,
    },
}

impl Upload {
    pub(super) async fn run(self, session: Session) -> anyhow::Result<ExitCode> {
        let client = session.connect().await?;
        match self.deed {
            Deed::Show { id } => show(&client, &id, session.format).await?,
            Deed::Abort { id } => {
                client.abort_upload(&id).await?;
                match session.format {
                    Format::Json => output::print_json(&json!({ "aborted": id }))?,
                    Format::Text => output::print_line("given up")?,
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn show(client: &Client, id: &str, format: Format) -> anyhow::Result<()> {
    let UploadState { offset, published, deadline } = client.get_upload(id).await?;
    let deadline = deadline.map(output::time);
    if format == Format::Json {
        let published = published.map(|published| {
            json!({
                "sequence": published.sequence, "size": published.size, "scheduled": published.scheduled,
                "sha256": published.sha256.map(|digest| hex(&digest)),
            })
        });
        return output::print_json(&json!({ "offset": offset, "published": published, "deadline": deadline }));
    }
    let deadline = deadline.unwrap_or_else(|| "an unknown time".into());
    output::print_line(&match published {
        Some(published) if published.scheduled => {
            format!("scheduled, {}; known until {deadline}", output::bytes(published.size))
        }
        Some(published) => {
            format!("published as {}, {}; known until {deadline}", published.sequence, output::bytes(published.size))
        }
        None => format!("{} stored; given up at {deadline} unless it goes on", output::bytes(offset)),
    })
}
