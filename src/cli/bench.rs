use std::process::ExitCode;
use super::Session;
/// placeholder
#[derive(clap::Args)]
pub(super) struct Bench {}
impl Bench {
    pub(super) async fn run(self, _session: Session) -> anyhow::Result<ExitCode> { Ok(ExitCode::SUCCESS) }
}
