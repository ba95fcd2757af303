use std::{path::PathBuf, process::ExitCode};

use minitoolstream::{opened::Kept, store::backup};

use super::{Session, backup::print, bars::Bars, stores::Stores};

/// Writes a backup into empty stores, embedded or shared, whichever it is from.
///
/// All of the backup is verified first, and refused if anything is not as it was written.
#[derive(clap::Args)]
#[command(after_help = "\
The stores are those that the configuration names; no broker may work on them, and none can until the restore is done. One \
that was interrupted is repeated with the same backup.

Examples:
  minitoolstream restore /backup/monday --data-dir ./data
  minitoolstream restore /backup/monday --config minitoolstream.yaml
  minitoolstream restore /backup/monday --verify")]
pub(super) struct Restore {
    /// The backup.
    directory: PathBuf,
    #[command(flatten)]
    stores: Stores,
    /// Only verify the backup.
    #[arg(long)]
    verify: bool,
}

impl Restore {
    pub(super) async fn run(self, session: Session) -> anyhow::Result<ExitCode> {
        let progress = Bars::new(session.format).counts(None, "rows");
        let report = |done: backup::Progress| progress.set_position(done.rows + done.objects);
        let config = self.stores.config()?;
        let verified = backup::verify(&self.directory, report).await?;
        if !self.verify {
            let kept = Kept::open_to_restore(&config).await?;
            backup::restore(&kept.archive, &verified, report).await?;
        }
        progress.finish_and_clear();
        print(&verified.manifest, if self.verify { "verified" } else { "restored" }, session.format)?;
        Ok(ExitCode::SUCCESS)
    }
}
