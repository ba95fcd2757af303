use std::{path::PathBuf, process::ExitCode};

use minitoolstream::{config, metrics};

use super::output::{self, Format};

/// Prints the effective configuration, or checks it.
///
/// It is made of defaults, the file, and the environment. What is printed can be used as a file.
#[derive(clap::Args)]
pub(super) struct Config {
    /// Configuration file (YAML).
    #[arg(short, long, env = "MINITOOLSTREAM_CONFIG")]
    config: Option<PathBuf>,
    /// Print nothing but faults; exits with 1 if there are any.
    #[arg(long)]
    check: bool,
    /// Print the reference of all settings, or of all metrics (Markdown).
    #[arg(long, value_name = "OF", num_args = 0..=1, default_missing_value = "settings", conflicts_with = "check")]
    reference: Option<Reference>,
}

/// What a reference page is about.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Reference {
    Settings,
    Metrics,
}

impl Config {
    pub(super) fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        let reference = self.reference.map(|of| match of {
            Reference::Settings => config::reference(),
            Reference::Metrics => metrics::reference(),
        });
        if let Some(reference) = reference {
            output::print_line(reference.trim_end())?;
            return Ok(ExitCode::SUCCESS);
        }
        let config = config::Config::load(self.config.as_deref(), |name| std::env::var(name).ok())?;
        let yaml = config.to_yaml();
        match format {
            _ if self.check => {}
            Format::Text => output::print_line(yaml.trim_end())?,
            Format::Json => output::print_json(&serde_yaml_ng::from_str(&yaml)?)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
