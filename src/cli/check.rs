use std::{path::PathBuf, process::ExitCode};

use anyhow::bail;
use futures_util::StreamExt;
use indicatif::ProgressBar;
use minitoolstream::store::{
    check::{self, Mode, Report},
    embedded::{Embedded, Limits},
};
use minitoolstream_client::proto::{CheckFinding, CheckSummary, check_response::Event};
use serde_json::json;

use super::{
    Session,
    bars::Bars,
    output::{self, Format},
};

/// Verifies every checksum, and that the books balance.
///
/// The books balance if accepted = live + expired + purged for every subject. Exits with 0 if all is well, with 1 if
/// something was found.
#[derive(clap::Args)]
#[command(after_help = "\
Without --data-dir the running broker is asked. With it, the directory is examined while no broker runs, counts of \
segments and stray files included. Nothing is changed.")]
pub(super) struct Check {
    /// Examine this data directory; its broker must be stopped.
    #[arg(short, long)]
    data_dir: Option<PathBuf>,
}

impl Check {
    pub(super) async fn run(self, session: Session) -> anyhow::Result<ExitCode> {
        let progress = Bars::new(session.format).counts(None, "blocks");
        let summary = match &self.data_dir {
            Some(dir) => offline(dir, &progress, session.format).await?,
            None => online(&session, &progress).await?,
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

async fn online(session: &Session, progress: &ProgressBar) -> anyhow::Result<CheckSummary> {
    let mut events = session.connect().await?.check().await?;
    while let Some(event) = events.next().await {
        match event?.event {
            Some(Event::Progress(done)) => progress.set_position(done.blocks),
            Some(Event::Finding(finding)) => progress.suspend(|| print(&finding, session.format))?,
            Some(Event::Summary(summary)) => return Ok(summary),
            None => {}
        }
    }
    bail!("the broker ended the check early: repeat it")
}

async fn offline(dir: &std::path::Path, progress: &ProgressBar, format: Format) -> anyhow::Result<CheckSummary> {
    if !dir.join("meta.redb").exists() {
        bail!(
            "'{}' is no data directory of a broker, it has no meta.redb: give the one that 'serve' was started with",
            dir.display()
        );
    }
    let embedded = Embedded::open(dir, Limits::default()).await?;
    let mut printed = Ok(());
    let report = |report| match report {
        Report::Progress(done) => progress.set_position(done.blocks),
        Report::Finding(finding) => {
            let finding = CheckFinding {
                kind: finding.kind.as_str().into(),
                subject: finding.subject.map_or_else(String::new, |subject| subject.to_string()),
                sequence: finding.sequence,
                detail: finding.detail,
            };
            let result = progress.suspend(|| print(&finding, format));
            if printed.is_ok() {
                printed = result;
            }
        }
    };
    let summary = check::check(&embedded.stores, Mode::Exclusive, report).await?;
    printed?;
    let check::Summary { subjects, blocks, messages, bytes, consumers, findings } = summary;
    Ok(CheckSummary { subjects, blocks, messages, bytes, findings, consumers })
}

fn print(finding: &CheckFinding, format: Format) -> anyhow::Result<()> {
    let CheckFinding { kind, subject, sequence, detail } = finding;
    match format {
        Format::Json => output::print_json(&json!({
            "kind": kind, "subject": subject, "sequence": sequence, "detail": detail,
        })),
        Format::Text if subject.is_empty() => output::print_line(&format!("{kind}: {detail}")),
        Format::Text => output::print_line(&format!("{kind}: {subject}: {detail}")),
    }
}
