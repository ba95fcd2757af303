use super::Session;
use std::process::ExitCode;
/// placeholder
#[derive(clap::Args)]
pub(super) struct Bench {}
impl Bench {
    pub(super) async fn run(self, _session: Session) -> anyhow::Result<ExitCode> {
        Ok(ExitCode::SUCCESS)
    }
}
