use std::path::PathBuf;

use anyhow::bail;
use minitoolstream::{config::Config, opened::Kept};

/// Which stores a command works on, without a broker.
#[derive(clap::Args)]
pub(super) struct Stores {
    /// Configuration file of the brokers (YAML); MINITOOLSTREAM_CONFIG names it as well, and the environment counts as it
    /// does for serve.
    #[arg(short, long)]
    config: Option<PathBuf>,
    /// The embedded stores in this directory, whatever the configuration says; their broker must be stopped.
    #[arg(short, long, conflicts_with = "config")]
    data_dir: Option<PathBuf>,
}

impl Stores {
    /// True if the command line names some.
    pub(super) fn is_given(&self) -> bool {
        self.config.is_some() || self.data_dir.is_some()
    }

    /// What the stores are, by the command line, the file and the environment.
    pub(super) fn config(&self) -> anyhow::Result<Config> {
        let env = |name: &str| std::env::var(name).ok();
        let Some(dir) = &self.data_dir else {
            let file = self.config.clone().or_else(|| env("MINITOOLSTREAM_CONFIG").map(PathBuf::from));
            return Ok(Config::load(file.as_deref(), env)?);
        };
        let mut config = Config::load(None, |_| None)?;
        config.data_dir.clone_from(dir);
        Ok(config)
    }

    /// Opens stores that are there.
    pub(super) async fn open(&self) -> anyhow::Result<Kept> {
        let config = self.config()?;
        let dir = &config.data_dir;
        if config.shared().is_none() && !dir.join("meta.redb").exists() {
            bail!(
                "'{}' is no data directory of a broker, it has no meta.redb: give the one that 'serve' was started with",
                dir.display()
            );
        }
        Ok(Kept::open(&config).await?)
    }
}
