use std::{
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

use anyhow::Context;
use minitoolstream::shutdown::Signals;

/// What a user is told when a command is interrupted: how its work goes on.
#[derive(Default)]
pub(super) struct Hint(Mutex<Option<String>>);

impl Hint {
    pub(super) fn set(&self, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    pub(super) fn clear(&self) {
        self.take();
    }

    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Runs a command until it ends, or until a signal does: then says how to go on, and exits as a shell has it, with 130
/// for SIGINT and 143 for SIGTERM.
pub(super) async fn or_interrupted(
    hint: &Hint,
    command: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen().context("signals cannot be received")?;
    let name = tokio::select! {
        ended = command => return ended,
        name = signals.next() => name,
    };
    eprintln!("interrupted{}", hint.take().map_or_else(String::new, |hint| format!(": {hint}")));
    Ok(ExitCode::from(if name == "SIGINT" { 130 } else { 143 }))
}
