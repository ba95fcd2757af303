use std::{
    collections::VecDeque,
    io::BufRead,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use minitoolstream_client::{NewMessage, Pending, Publisher};
use serde_json::json;

use super::{
    Session,
    output::{self, Format},
};

/// Publishes data, files or standard input. Ends when every message is on the broker's stable storage.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  minitoolstream publish orders.new --data '{\"id\": 1}' -H content-type=application/json
  minitoolstream publish photos a.jpg b.jpg --ttl 7d
  minitoolstream publish site --recursive ./public
  journalctl -f | minitoolstream publish logs.system --lines")]
pub(super) struct Publish {
    /// Where to publish: tokens separated by dots.
    subject: String,
    /// Files, each a message with the headers 'path' and 'content-type'. Without any: standard input.
    files: Vec<PathBuf>,
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
    /// Deduplication id. With several messages, '-1', '-2' and so on is appended.
    #[arg(short, long)]
    message_id: Option<String>,
    /// Publish only if this is the subject's last sequence (0: it never had a message).
    #[arg(long)]
    expect_last: Option<u64>,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("'{text}' is not NAME=VALUE"))?;
    Ok((name.into(), value.into()))
}

/// A file to publish, and the path to publish it under.
struct Source {
    file: PathBuf,
    name: String,
}

impl Publish {
    pub(super) async fn run(self, session: Session) -> anyhow::Result<ExitCode> {
        let publisher = session.connect().await?.publisher();
        let mut sent = Sent { pending: VecDeque::new(), stored: 0, format: session.format };
        if !self.files.is_empty() {
            self.publish_files(&publisher, &mut sent).await?;
        } else if self.lines {
            self.publish_lines(&publisher, &mut sent).await?;
        } else {
            let data = match &self.data {
                Some(data) => Bytes::from(data.clone()),
                None => read_stdin().await?,
            };
            sent.add("", publisher.send(self.message(data, None)).await).await?;
        }
        sent.settle(0).await?;
        if session.format == Format::Text && sent.stored > 1 {
            output::print_line(&format!("{} messages are stored", sent.stored))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn publish_files(&self, publisher: &Publisher, sent: &mut Sent) -> anyhow::Result<()> {
        let sources = self.sources()?;
        let several = sources.len() > 1;
        let progress = output::progress(Some(sources.len() as u64), "files", sent.format);
        for (source, number) in sources.into_iter().zip(1..) {
            let data = tokio::fs::read(&source.file).await;
            let data = data.with_context(|| format!("'{}' cannot be read", source.file.display()))?;
            let kind = mime_guess::from_path(&source.file).first_or_octet_stream();
            let message = self.message(data.into(), several.then_some(number));
            let message = message.header("path", source.name.clone()).header("content-type", kind.to_string());
            sent.add(&source.name, publisher.send(message).await).await?;
            progress.inc(1);
        }
        sent.settle(0).await?;
        progress.finish_and_clear();
        Ok(())
    }

    async fn publish_lines(&self, publisher: &Publisher, sent: &mut Sent) -> anyhow::Result<()> {
        let (lines, mut waiting) = tokio::sync::mpsc::channel::<std::io::Result<String>>(1024);
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines() {
                if lines.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        let progress = output::progress(None, "messages", sent.format);
        let mut number = 0;
        while let Some(line) = waiting.recv().await {
            number += 1;
            let line = line.context("standard input cannot be read as lines of text")?;
            sent.add("", publisher.send(self.message(line.into(), Some(number))).await).await?;
            progress.inc(1);
        }
        progress.finish_and_clear();
        Ok(())
    }

    fn message(&self, data: Bytes, number: Option<u64>) -> NewMessage {
        let mut message = NewMessage::new(&self.subject, data);
        for (name, value) in &self.headers {
            message = message.header(name, value);
        }
        if let Some(ttl) = self.ttl {
            message = message.ttl(ttl);
        }
        if let Some(id) = &self.message_id {
            message = message.message_id(number.map_or_else(|| id.clone(), |number| format!("{id}-{number}")));
        }
        if let Some(sequence) = self.expect_last {
            message = message.expect_last_sequence(sequence);
        }
        message
    }

    fn sources(&self) -> anyhow::Result<Vec<Source>> {
        let mut sources = Vec::new();
        for path in &self.files {
            if !path.is_dir() {
                sources.push(Source { file: path.clone(), name: path.to_string_lossy().into_owned() });
            } else if self.recursive {
                collect(path, path, &mut sources)?;
            } else {
                bail!("'{}' is a directory: add --recursive to publish the files below it", path.display());
            }
        }
        Ok(sources)
    }
}

fn collect(root: &Path, dir: &Path, sources: &mut Vec<Source>) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("'{}' cannot be listed", dir.display()))?;
    let mut entries = entries.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(root, &path, sources)?;
        } else if kind.is_file() {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            sources.push(Source { file: path, name });
        }
    }
    Ok(())
}

async fn read_stdin() -> anyhow::Result<Bytes> {
    let mut data = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut tokio::io::stdin(), &mut data).await;
    read.context("standard input cannot be read")?;
    Ok(data.into())
}

/// Messages whose acks are to come, in the order sent.
struct Sent {
    pending: VecDeque<(String, Pending)>,
    stored: u64,
    format: Format,
}

impl Sent {
    /// The publisher's window bounds how many wait here; more are settled on the way.
    const PENDING_MAX: usize = 8192;

    async fn add(&mut self, name: &str, pending: Pending) -> anyhow::Result<()> {
        self.pending.push_back((name.into(), pending));
        self.settle(Self::PENDING_MAX).await
    }

    /// Waits for the oldest acks until at most `left` are to come, and prints each.
    async fn settle(&mut self, left: usize) -> anyhow::Result<()> {
        while self.pending.len() > left
            && let Some((name, pending)) = self.pending.pop_front()
        {
            let published = match pending.await {
                Ok(published) => published,
                Err(error) if name.is_empty() => return Err(error.into()),
                Err(error) => {
                    return Err(anyhow::Error::new(error).context(format!("'{name}' was not published")));
                }
            };
            self.stored += 1;
            if self.format == Format::Json {
                let mut line = json!({ "sequence": published.sequence, "duplicate": published.duplicate });
                if !name.is_empty() {
                    line["path"] = name.into();
                }
                output::print_json(&line)?;
            } else {
                let note = if published.duplicate { " (duplicate)" } else { "" };
                output::print_line(format!("{}{note}  {name}", published.sequence).trim_end())?;
            }
        }
        Ok(())
    }
}
