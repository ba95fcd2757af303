mod large;
mod sent;
mod source;

use std::{
    io::{BufRead, Cursor},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use bytes::Bytes;
use minitoolstream_client::NewMessage;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{
    Session,
    bars::Bars,
    interruption::{Hint, or_interrupted},
    moment,
    output::{self, Format, hex},
};
use large::{LARGE, Large};
use sent::Sent;
use source::Source;

/// Publishes data, files or standard input.
///
/// Ends when every message is on the broker's stable storage. Files of any size are sent in pieces: interrupted, the same
/// command goes on where it stopped.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  minitoolstream publish orders.new --data '{\"id\": 1}' -H content-type=application/json
  minitoolstream publish photos a.jpg b.jpg --ttl 7d
  minitoolstream publish photos --file big.mov
  minitoolstream publish site --recursive ./public
  minitoolstream publish reminders --data 'call back' --delay 30m
  pg_dump shop | minitoolstream publish backups.shop
  journalctl -f | minitoolstream publish logs.system --lines")]
pub(super) struct Publish {
    /// Where to publish: tokens separated by dots.
    subject: String,
    /// Files, each a message with the headers 'path' and 'content-type'. Without any: standard input.
    files: Vec<PathBuf>,
    /// The same as a file without the option; may be repeated.
    #[arg(long = "file", value_name = "FILE", conflicts_with_all = ["data", "lines"])]
    more_files: Vec<PathBuf>,
    /// The data itself.
    #[arg(short, long, conflicts_with_all = ["files", "lines"])]
    data: Option<String>,
    /// Each line of standard input is a message.
    #[arg(short, long, conflicts_with = "files")]
    lines: bool,
    /// Publish all files below the directories given; paths are relative to them.
    #[arg(short, long)]
    recursive: bool,
    /// A header, as NAME=VALUE; may be repeated.
    #[arg(short = 'H', long = "header", value_parser = header)]
    headers: Vec<(String, String)>,
    /// How long the messages live, such as 30s, 24h or 7d.
    #[arg(long, value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
    /// Deduplication id. With --lines '-1', '-2' and so on is appended, with several files a digest of path and content.
    #[arg(short, long)]
    message_id: Option<String>,
    /// Publish only if this is the subject's last sequence (0: it never had a message).
    #[arg(long)]
    expect_last: Option<u64>,
    /// Deliver at this time, not before, such as 2025-01-31T12:00:00Z.
    #[arg(long, value_parser = moment::at, conflicts_with = "expect_last")]
    at: Option<SystemTime>,
    /// Deliver after this long, not before, such as 30m.
    #[arg(long, value_parser = humantime::parse_duration, conflicts_with_all = ["at", "expect_last"])]
    delay: Option<Duration>,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("'{text}' is not NAME=VALUE"))?;
    Ok((name.into(), value.into()))
}

impl Publish {
    pub(super) async fn run(self, session: Session) -> anyhow::Result<ExitCode> {
        let hint = Hint::default();
        or_interrupted(&hint, self.publish(&session, &hint)).await
    }

    async fn publish(&self, session: &Session, hint: &Hint) -> anyhow::Result<ExitCode> {
        let client = session.connect().await?;
        let publisher = client.publisher();
        let mut sent = Sent::new(publisher, session.format);
        let mut result = self.send_all(&Large::new(client, hint), &mut sent).await;
        if result.is_ok() {
            result = sent.settle(0).await;
        }
        if result.is_err() {
            sent.settle_rest().await?;
        }
        sent.progress.finish_and_clear();
        result?;
        if session.format == Format::Text && sent.stored > 1 {
            output::print_line(&format!("{} messages are stored", sent.stored))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn send_all(&self, large: &Large<'_>, sent: &mut Sent) -> anyhow::Result<()> {
        if !self.files.is_empty() || !self.more_files.is_empty() {
            return self.publish_files(large, sent).await;
        }
        if self.lines {
            return self.publish_lines(sent).await;
        }
        match &self.data {
            Some(data) => sent.send("", self.message(Bytes::from(data.clone()), None)?).await,
            None => {
                let message = self.message(Bytes::new(), None)?;
                publish_all_of("", tokio::io::stdin(), message, large, sent).await
            }
        }
    }

    async fn publish_files(&self, large: &Large<'_>, sent: &mut Sent) -> anyhow::Result<()> {
        let sources = source::sources(self.files.iter().chain(&self.more_files), self.recursive)?;
        let several = sources.len() > 1;
        let bars = Bars::new(sent.format);
        let counts_bytes = sources.iter().any(Source::is_large);
        sent.progress = match counts_bytes {
            true => bars.bytes(Some(sources.iter().map(|source| source.size).sum())),
            false => bars.counts(Some(sources.len() as u64), "files"),
        };
        let mut done = 0;
        for source in sources {
            let kind = mime_guess::from_path(&source.file).first_or_octet_stream();
            // A position would name another file once one is added or removed before it.
            let part = match several && self.message_id.is_some() {
                true => Some(source::digest(&source).await?),
                false => None,
            };
            let message = self.message(Bytes::new(), part.as_deref())?;
            let message = message.header("path", source.name.clone()).header("content-type", kind.to_string());
            if source.is_large() {
                let id = self.upload_id(&source, part.as_deref())?;
                // Sequences are in the order of the files.
                sent.settle(0).await?;
                let uploaded = large.file(&source, message, id, self.message_id.is_some(), &sent.progress).await?;
                sent.uploaded(&source.name, &uploaded)?;
            } else {
                let file = tokio::fs::File::open(&source.file).await;
                let file = file.with_context(|| format!("'{}' cannot be read", source.file.display()))?;
                publish_all_of(&source.name, file, message, large, sent).await?;
            }
            done += if counts_bytes { source.size } else { 1 };
            sent.progress.set_position(done);
        }
        Ok(())
    }

    async fn publish_lines(&self, sent: &mut Sent) -> anyhow::Result<()> {
        let (lines, mut waiting) = tokio::sync::mpsc::channel::<std::io::Result<String>>(1024);
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines() {
                if lines.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        sent.progress = Bars::new(sent.format).counts(None, "messages");
        let mut number = 0;
        loop {
            tokio::select! {
                line = waiting.recv() => {
                    let Some(line) = line else { break };
                    number += 1;
                    let line = line.context("standard input cannot be read as lines of text")?;
                    sent.send("", self.message(line.into(), Some(&number.to_string()))?).await?;
                    sent.progress.inc(1);
                }
                // The next line may be long in coming.
                settled = sent.settle_first(), if !sent.pending.is_empty() => settled?,
            }
        }
        Ok(())
    }

    fn message(&self, data: Bytes, part: Option<&str>) -> anyhow::Result<NewMessage> {
        let mut message = NewMessage::new(&self.subject, data);
        for (name, value) in &self.headers {
            message = message.header(name, value);
        }
        if let Some(ttl) = self.ttl {
            message = message.ttl(ttl);
        }
        if let Some(id) = &self.message_id {
            message = message.message_id(part.map_or_else(|| id.clone(), |part| format!("{id}-{part}")));
        }
        if let Some(sequence) = self.expect_last {
            message = message.expect_last_sequence(sequence);
        }
        if let Some(at) = self.at.map(Ok).or_else(|| self.delay.map(moment::after)) {
            message = message.deliver_at(at?);
        }
        Ok(message)
    }

    /// A name for the upload of a file that the same command has, as long as the file stays as it is. None if what it
    /// asks for depends on when it runs.
    fn upload_id(&self, source: &Source, part: Option<&str>) -> anyhow::Result<Option<String>> {
        if self.delay.is_some() {
            return Ok(None);
        }
        let identity = source.identity().with_context(|| format!("'{}' cannot be read", source.file.display()))?;
        let mut headers = self.headers.clone();
        headers.sort();
        let all = json!([
            identity,
            source.name,
            self.subject,
            headers,
            self.message_id,
            part,
            self.expect_last,
            self.ttl.map(|ttl| ttl.as_nanos().to_string()),
            self.at.map(output::time),
        ]);
        Ok(Some(hex(&Sha256::digest(all.to_string())[..16])))
    }
}

/// Publishes all that is read: in one piece if it is small.
async fn publish_all_of(
    name: &str,
    mut reader: impl AsyncRead + Send + Unpin + 'static,
    message: NewMessage,
    large: &Large<'_>,
    sent: &mut Sent,
) -> anyhow::Result<()> {
    let mut start = Vec::new();
    let read = (&mut reader).take(LARGE + 1).read_to_end(&mut start).await;
    read.with_context(|| match name {
        "" => "standard input cannot be read".into(),
        name => format!("'{name}' cannot be read"),
    })?;
    if start.len() as u64 <= LARGE {
        return sent.send(name, message.data(start)).await;
    }
    if name.is_empty() {
        sent.progress = Bars::new(sent.format).bytes(None);
    }
    sent.settle(0).await?;
    let uploaded = large.reader(name, Cursor::new(start).chain(reader), message, &sent.progress).await?;
    sent.uploaded(name, &uploaded)
}
