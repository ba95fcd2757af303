use std::{collections::BTreeMap, io::ErrorKind, process::Stdio, sync::Arc, time::Duration};

use anyhow::Context;
use minitoolstream_client::{Delivery, Error};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    process::{ChildStdin, Command},
    time::timeout,
};

use super::output::{self, Format, printable};

/// A command that exits with this says that a message can never be done.
const NEVER: i32 = 100;

/// How long an answer may take to be confirmed.
const CONFIRMING_MAX: Duration = Duration::from_secs(30);

/// Runs a command for each message of a consumer.
pub(super) struct Exec {
    consumer: String,
    command: String,
    format: Format,
}

/// The processes of a command, which end with this.
struct Group(Option<Pid>);

impl Exec {
    pub(super) fn new(consumer: String, command: String, format: Format) -> Self {
        Self { consumer, command, format }
    }

    /// Runs the command and answers accordingly.
    ///
    /// Fails only if no command can be run at all: then the message was not tried.
    pub(super) async fn run(self: Arc<Self>, delivery: Delivery) -> anyhow::Result<()> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(&self.command).envs(self.environment(&delivery)).stdin(Stdio::piped());
        // In a group of its own: Ctrl-C is for this worker, which lets the command come to its end.
        command.process_group(0);
        if self.format == Format::Json {
            command.stdout(std::io::stderr());
        }
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::ArgumentListTooLong => {
                self.answer(delivery, None, Some(format!("its headers are too long for a command: {error}"))).await;
                return Ok(());
            }
            Err(error) => {
                drop(delivery.release());
                return Err(error).context("the command cannot be run");
            }
        };
        let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        let mut stdin = child.stdin.take();
        let fed = tokio::select! {
            fed = feed(&delivery, &mut stdin) => Some(fed),
            // It did not want all of it.
            _ = child.wait() => None,
        };
        let mut fault = None;
        if let Some(Err(error)) = fed {
            // Before its input is closed: half a message would be taken for a whole one.
            group.end();
            fault = Some(format!("its data cannot be read: {error}"));
        }
        drop(stdin);
        let status = child.wait().await.context("the command cannot be waited for")?;
        group.0 = None;
        self.answer(delivery, status.code(), fault).await;
        Ok(())
    }

    async fn answer(&self, delivery: Delivery, code: Option<i32>, fault: Option<String>) {
        let (attempt, sequence) = (delivery.attempt, delivery.message.sequence);
        let subject = delivery.message.subject.clone();
        let (answer, settled) = match code {
            Some(0) if fault.is_none() => ("ack", delivery.ack()),
            Some(NEVER) if fault.is_none() => ("terminate", delivery.terminate(format!("exit code {NEVER}"))),
            _ => ("nak", delivery.nak()),
        };
        let unsettled = match timeout(CONFIRMING_MAX, settled).await {
            Ok(settled) => settled.err().map(|error| error.to_string()),
            Err(_) => Some("the broker did not confirm the answer in time".into()),
        };
        if self.format == Format::Json {
            let value = json!({
                "subject": subject, "sequence": sequence, "attempt": attempt, "answer": answer, "exit_code": code,
                "error": fault.or(unsettled),
            });
            // Nobody reads any more: the work goes on.
            let _ = output::print_json(&value);
            return;
        }
        let what = match (fault, code) {
            (Some(fault), _) => fault,
            (None, Some(0)) if unsettled.is_none() => return,
            (None, Some(0)) => "done, but not acknowledged".into(),
            (None, Some(NEVER)) => format!("exit code {NEVER}, dead-lettered"),
            (None, Some(code)) => format!("exit code {code} in attempt {attempt}"),
            (None, None) => format!("ended by a signal in attempt {attempt}"),
        };
        let unsettled = unsettled.map_or_else(String::new, |why| format!(": {why}"));
        let subject: String = printable(&subject).collect();
        eprintln!("message {sequence} of {subject}: {what}{unsettled}");
    }

    fn environment(&self, delivery: &Delivery) -> BTreeMap<String, String> {
        let Delivery { message, attempt, .. } = delivery;
        let own = [
            ("MTS_SUBJECT", message.subject.clone()),
            ("MTS_SEQUENCE", message.sequence.to_string()),
            ("MTS_STREAM_SEQUENCE", message.stream_sequence.to_string()),
            ("MTS_TIME", output::time(message.timestamp)),
            ("MTS_ATTEMPT", attempt.to_string()),
            ("MTS_CONSUMER", self.consumer.clone()),
        ];
        let headers = message.headers.iter().map(|(name, value)| (variable(name), value.clone()));
        let all = own.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(headers);
        // An environment has no place for such a character.
        all.map(|(name, value)| (name, value.replace('\0', ""))).collect()
    }
}

/// Writes the data of a message to a command, which may stop reading at any time.
async fn feed(delivery: &Delivery, stdin: &mut Option<ChildStdin>) -> Result<(), Error> {
    let mut reader = delivery.reader().await?;
    while let (Some(piece), Some(stdin)) = (reader.piece().await?, stdin.as_mut()) {
        if stdin.write_all(&piece).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The name that a header has in the environment.
fn variable(header: &str) -> String {
    let name = header.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    format!("MTS_HEADER_{}", name.collect::<String>())
}

impl Group {
    fn end(&mut self) {
        if let Some(group) = self.0.take() {
            // It may have ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_names_that_a_shell_takes() {
        assert_eq!(variable("content-type"), "MTS_HEADER_CONTENT_TYPE");
        assert_eq!(variable("x.y=é"), "MTS_HEADER_X_Y__");
    }
}
