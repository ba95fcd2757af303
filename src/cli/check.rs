use std::process::ExitCode;

use anyhow::bail;
use futures_util::StreamExt;
use indicatif::ProgressBar;
use minitoolstream::store::check::{self, Mode, Report};
use minitoolstream_client::proto::{CheckFinding, CheckSummary, check_response::Event};
use serde_json::json;

use super::{
    Session,
    bars::Bars,
    output::{self, Format},
    stores::Stores,
};

/// Verifies every checksum, and that the books balance.
///
/// The books balance if accepted = live + expired + purged for every subject. Exits with 0 if all is well, with 1 if
/// something was found.
#[derive(clap::Args)]
#[command(after_help = "\
Without an option the running broker is asked. With one of the first three the stores themselves are examined: shared \
ones also while brokers work on them. What needs them at rest (counts of segments, the order of blocks) is left out then.

A repair deletes nothing: what no row tells of is moved below 'lost+found', in the data directory or the bucket; bytes of \
damaged blocks are copied there; counts of blocks are made right where that is safe. Everything else is told and left.

Examples:
  minitoolstream check
  minitoolstream check --stores
  minitoolstream check --data-dir ./data --repair")]
pub(super) struct Check {
    /// Examine the stores that the configuration names, without a broker.
    #[arg(long)]
    stores: bool,
    #[command(flatten)]
    given: Stores,
    /// Repair what can be; no broker may work on the stores.
    #[arg(long)]
    repair: bool,
}

impl Check {
    pub(super) async fn run(self, session: Session) -> anyhow::Result<ExitCode> {
        let progress = Bars::new(session.format).counts(None, "blocks");
        let is_direct = self.stores || self.given.is_given();
        if self.repair && !is_direct {
            bail!("--repair needs the stores themselves: stop the brokers and add --stores, or --data-dir DIR");
        }
        let summary = match is_direct {
            true => self.direct(&progress, session.format).await?,
            false => online(&session, &progress).await?,
        };
        progress.finish_and_clear();
        let CheckSummary { subjects, blocks, messages, bytes, findings, consumers } = summary;
        match session.format {
            Format::Json => output::print_json(&json!({
                "subjects": subjects, "blocks": blocks, "messages": messages, "bytes": bytes, "consumers": consumers,
                "findings": findings,
            }))?,
            Format::Text => {
                let verdict = if findings == 0 { "all is well".into() } else { format!("{findings} findings") };
                let bytes = output::bytes(bytes);
                output::print_line(&format!(
                    "{verdict}: {subjects} subjects, {messages} messages in {blocks} blocks, {bytes}, {consumers} consumers"
                ))?;
            }
        }
        Ok(if findings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Check {
    async fn direct(&self, progress: &ProgressBar, format: Format) -> anyhow::Result<CheckSummary> {
        let kept = self.given.open().await?;
        let mut printed = Ok(());
        let report = |report| match report {
            Report::Progress(done) => progress.set_position(done.blocks),
            Report::Finding(finding) => {
                let repair = finding.repair;
                let finding = CheckFinding {
                    kind: finding.kind.as_str().into(),
                    subject: finding.subject.map_or_else(String::new, |subject| subject.to_string()),
                    sequence: finding.sequence,
                    detail: finding.detail,
                };
                let result = progress.suspend(|| print(&finding, repair.as_deref(), format));
                if printed.is_ok() {
                    printed = result;
                }
            }
        };
        let summary = if self.repair {
            kept.archive.refuse_brokers("a repair").await?;
            check::repair(&kept.archive, report).await?
        } else {
            let mode = if kept.archive.metadata.brokers().await? == 0 { Mode::Exclusive } else { Mode::Live };
            let summary = check::check(&kept.archive.stores(), mode, report).await?;
            if mode == Mode::Exclusive && summary.findings > 0 && kept.archive.metadata.brokers().await? > 0 {
                bail!("a broker began to work during the check, which may explain what was found: repeat it");
            }
            summary
        };
        printed?;
        let check::Summary { subjects, blocks, messages, bytes, consumers, findings } = summary;
        Ok(CheckSummary { subjects, blocks, messages, bytes, findings, consumers })
    }
}

async fn online(session: &Session, progress: &ProgressBar) -> anyhow::Result<CheckSummary> {
    let mut events = session.connect().await?.check().await?;
    while let Some(event) = events.next().await {
        match event?.event {
            Some(Event::Progress(done)) => progress.set_position(done.blocks),
            Some(Event::Finding(finding)) => progress.suspend(|| print(&finding, None, session.format))?,
            Some(Event::Summary(summary)) => return Ok(summary),
            None => {}
        }
    }
    bail!("the broker ended the check early: repeat it")
}

fn print(finding: &CheckFinding, repair: Option<&str>, format: Format) -> anyhow::Result<()> {
    let CheckFinding { kind, subject, sequence, detail } = finding;
    if format == Format::Json {
        let mut document = json!({ "kind": kind, "subject": subject, "sequence": sequence, "detail": detail });
        if let Some(repair) = repair {
            document["repair"] = repair.into();
        }
        return output::print_json(&document);
    }
    let about = if subject.is_empty() { String::new() } else { format!(" {subject}:") };
    let repair = repair.map_or_else(String::new, |repair| format!("; {repair}"));
    output::print_line(&format!("{kind}:{about} {detail}{repair}"))
}
