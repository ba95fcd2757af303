use std::{path::PathBuf, process::ExitCode};

use minitoolstream::{
    store::backup::{self, Manifest, Options},
    types::{Clock, SystemClock},
};
use serde_json::json;

use super::{
    Session,
    bars::Bars,
    output::{self, Format},
    stores::Stores,
};

/// Writes all of the stores, as of one moment, into a directory.
///
/// Everything acknowledged before it began is in it. Exits with 1 if the stores lack some of their payload: what they have
/// is in the backup then.
#[derive(clap::Args)]
#[command(after_help = "\
Brokers over Tarantool and S3 go on working meanwhile; the broker of embedded stores must be stopped. The stores are those \
that the configuration names.

Examples:
  minitoolstream backup /backup/monday --data-dir ./data
  minitoolstream backup /backup/monday --config minitoolstream.yaml")]
pub(super) struct Backup {
    /// Where it goes: a directory that is empty, or not there yet.
    directory: PathBuf,
    #[command(flatten)]
    stores: Stores,
    /// List segments and objects instead of copying them: for a bucket that is versioned or replicated itself.
    #[arg(long)]
    without_payload: bool,
}

impl Backup {
    pub(super) async fn run(self, session: Session) -> anyhow::Result<ExitCode> {
        let kept = self.stores.open().await?;
        let progress = Bars::new(session.format).counts(None, "rows");
        let options = Options { payload: !self.without_payload, now: SystemClock::new().now() };
        let report = |done: backup::Progress| progress.set_position(done.rows + done.objects);
        let manifest = backup::take(&kept.archive, &self.directory, options, report).await?;
        progress.finish_and_clear();
        print(&manifest, "backed up", session.format)?;
        Ok(if manifest.missing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Tells what a backup has.
pub(super) fn print(manifest: &Manifest, deed: &str, format: Format) -> anyhow::Result<()> {
    let Manifest { created, next_stream, rows, objects, object_bytes, missing, has_payload, .. } = manifest;
    if format == Format::Json {
        return output::print_json(&json!({
            "created": created, "next_stream": next_stream, "rows": rows, "objects": objects,
            "object_bytes": object_bytes, "missing": missing, "has_payload": has_payload,
        }));
    }
    let listed = if *has_payload { "" } else { " (listed only)" };
    let missing = match missing {
        0 => String::new(),
        count => format!("; {count} of them are missing in the stores that were backed up"),
    };
    output::print_line(&format!(
        "{deed}: {rows} rows before stream sequence {next_stream}, {objects} segments and objects, {}{listed}, as of \
         {created}{missing}",
        output::bytes(*object_bytes)
    ))
}
