use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::Format;

/// Progress bars of a command: on a terminal, and nothing elsewhere.
pub(super) struct Bars(MultiProgress);

impl Bars {
    pub(super) fn new(format: Format) -> Self {
        let is_shown = format == Format::Text && io::stderr().is_terminal();
        let target = if is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self(MultiProgress::with_draw_target(target))
    }

    /// Counts things.
    pub(super) fn counts(&self, total: Option<u64>, unit: &str) -> ProgressBar {
        let template = match total {
            Some(_) => format!("{{bar:30}} {{human_pos}}/{{human_len}} {unit}  {{per_sec}}  {{eta}} left"),
            None => format!("{{spinner}} {{human_pos}} {unit}  {{per_sec}}"),
        };
        self.add(total, &template)
    }

    /// Counts bytes.
    pub(super) fn bytes(&self, total: Option<u64>) -> ProgressBar {
        self.add(
            total,
            match total {
                Some(_) => "{bar:30} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left",
                None => "{spinner} {binary_bytes}  {binary_bytes_per_sec}",
            },
        )
    }

    fn add(&self, total: Option<u64>, template: &str) -> ProgressBar {
        let bar = self.0.add(ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden()));
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        if !self.0.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        bar
    }
}
