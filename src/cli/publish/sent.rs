use std::collections::VecDeque;

use futures_util::FutureExt;
use indicatif::ProgressBar;
use minitoolstream_client::{NewMessage, Pending, Published, Publisher, Uploaded};
use serde_json::{Value, json};

use crate::cli::output::{self, Format, hex, printable};

/// Messages whose acks are to come, in the order sent.
pub(super) struct Sent {
    publisher: Publisher,
    pub(super) pending: VecDeque<(String, Pending)>,
    pub(super) stored: u64,
    pub(super) progress: ProgressBar,
    pub(super) format: Format,
}

impl Sent {
    /// The publisher's window bounds how many wait here; more are settled on the way.
    const PENDING_MAX: usize = 8192;

    pub(super) fn new(publisher: Publisher, format: Format) -> Self {
        Self { publisher, pending: VecDeque::new(), stored: 0, progress: ProgressBar::hidden(), format }
    }

    pub(super) async fn send(&mut self, name: &str, message: NewMessage) -> anyhow::Result<()> {
        let pending = self.publisher.send(message).await;
        self.pending.push_back((name.into(), pending));
        while !self.pending.is_empty()
            && let Some(settled) = self.settle_first().now_or_never()
        {
            settled?;
        }
        self.settle(Self::PENDING_MAX).await
    }

    /// Waits for the oldest acks until at most `left` are to come, and prints each.
    pub(super) async fn settle(&mut self, left: usize) -> anyhow::Result<()> {
        while self.pending.len() > left {
            self.settle_first().await?;
        }
        Ok(())
    }

    /// After a failure: prints what was stored nevertheless.
    pub(super) async fn settle_rest(&mut self) -> anyhow::Result<()> {
        while let Some((name, pending)) = self.pending.pop_front() {
            if let Ok(published) = pending.await {
                self.print(&name, published)?;
            }
        }
        Ok(())
    }

    /// Waits for the oldest ack and prints it. Nothing is lost if the caller stops waiting.
    pub(super) async fn settle_first(&mut self) -> anyhow::Result<()> {
        let Some((_, pending)) = self.pending.front_mut() else {
            return Ok(());
        };
        let result = pending.await;
        let Some((name, _)) = self.pending.pop_front() else {
            return Ok(());
        };
        match result {
            Ok(published) => self.print(&name, published),
            Err(error) if name.is_empty() => Err(error.into()),
            Err(error) => Err(anyhow::Error::new(error).context(format!("'{name}' was not published"))),
        }
    }

    fn print(&mut self, name: &str, published: Published) -> anyhow::Result<()> {
        let Published { sequence, duplicate, scheduled } = published;
        self.print_as(name, published, json!({ "sequence": sequence, "duplicate": duplicate, "scheduled": scheduled }))
    }

    /// An upload was published.
    pub(super) fn uploaded(&mut self, name: &str, uploaded: &Uploaded) -> anyhow::Result<()> {
        let Uploaded { sequence, duplicate, scheduled, size, sha256 } = *uploaded;
        let mut value = json!({ "sequence": sequence, "duplicate": duplicate, "scheduled": scheduled, "size": size });
        if let Some(sha256) = sha256 {
            value["sha256"] = hex(&sha256).into();
        }
        self.print_as(name, Published { sequence, duplicate, scheduled }, value)
    }

    fn print_as(&mut self, name: &str, published: Published, mut value: Value) -> anyhow::Result<()> {
        self.stored += 1;
        let Published { sequence, duplicate, scheduled } = published;
        let name_shown: String = printable(name).collect();
        let line = match self.format {
            Format::Json => {
                // What is not so goes without saying, as it did before there was such a thing.
                if let Some(fields) = value.as_object_mut() {
                    fields.remove(if scheduled { "sequence" } else { "scheduled" });
                }
                if !name.is_empty() {
                    value["path"] = name.into();
                }
                value.to_string()
            }
            Format::Text if scheduled && duplicate => format!("scheduled (duplicate)  {name_shown}"),
            Format::Text if scheduled => format!("scheduled  {name_shown}"),
            Format::Text if duplicate => format!("{sequence} (duplicate)  {name_shown}"),
            Format::Text => format!("{sequence}  {name_shown}"),
        };
        self.progress.suspend(|| output::print_line(line.trim_end()))
    }
}
