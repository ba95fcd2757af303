use std::{
    collections::VecDeque,
    io::BufRead,
    path::{Component, Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::FutureExt;
use indicatif::ProgressBar;
use minitoolstream_client::{NewMessage, Pending, Published, Publisher};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    Session, moment,
    output::{self, Format, printable},
};

/// Publishes data, files or standard input.
///
/// Ends when every message is on the broker's stable storage.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  minitoolstream publish orders.new --data '{\"id\": 1}' -H content-type=application/json
  minitoolstream publish photos a.jpg b.jpg --ttl 7d
  minitoolstream publish site --recursive ./public
  minitoolstream publish reminders --data 'call back' --delay 30m
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

/// A file to publish, and the path to publish it under.
struct Source {
    file: PathBuf,
    name: String,
}

impl Publish {
    pub(super) async fn run(self, session: Session) -> anyhow::Result<ExitCode> {
        let publisher = session.connect().await?.publisher();
        let mut sent = Sent::new(session.format);
        let mut result = self.send_all(&publisher, &mut sent).await;
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

    async fn send_all(&self, publisher: &Publisher, sent: &mut Sent) -> anyhow::Result<()> {
        if !self.files.is_empty() {
            return self.publish_files(publisher, sent).await;
        }
        if self.lines {
            return self.publish_lines(publisher, sent).await;
        }
        let data = match &self.data {
            Some(data) => Bytes::from(data.clone()),
            None => read_stdin().await?,
        };
        sent.add("", publisher.send(self.message(data, None)?).await).await
    }

    async fn publish_files(&self, publisher: &Publisher, sent: &mut Sent) -> anyhow::Result<()> {
        let sources = self.sources()?;
        let several = sources.len() > 1;
        sent.progress = output::progress(Some(sources.len() as u64), "files", sent.format);
        for source in sources {
            let data = tokio::fs::read(&source.file).await;
            let data = data.with_context(|| format!("'{}' cannot be read", source.file.display()))?;
            let kind = mime_guess::from_path(&source.file).first_or_octet_stream();
            // A position would name another file once one is added or removed before it.
            let part = several.then(|| digest(&source.name, &data));
            let message = self.message(data.into(), part.as_deref())?;
            let message = message.header("path", source.name.clone()).header("content-type", kind.to_string());
            sent.add(&source.name, publisher.send(message).await).await?;
            sent.progress.inc(1);
        }
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
        sent.progress = output::progress(None, "messages", sent.format);
        let mut number = 0;
        loop {
            tokio::select! {
                line = waiting.recv() => {
                    let Some(line) = line else { break };
                    number += 1;
                    let line = line.context("standard input cannot be read as lines of text")?;
                    sent.add("", publisher.send(self.message(line.into(), Some(&number.to_string()))?).await).await?;
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

    fn sources(&self) -> anyhow::Result<Vec<Source>> {
        let mut sources = Vec::new();
        for path in &self.files {
            let kind = path
                .metadata()
                .with_context(|| format!("nothing was published: '{}' cannot be read", path.display()))?;
            if !kind.is_dir() {
                sources.push(Source { file: path.clone(), name: name(path)? });
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
            let name = name(path.strip_prefix(root).unwrap_or(&path))?;
            sources.push(Source { file: path, name });
        }
    }
    Ok(())
}

/// The path to publish a file under. What stands before the last '..' is left away: a path that leads out of a directory
/// would be refused where the message is written to a file again.
fn name(path: &Path) -> anyhow::Result<String> {
    let below = path.components().fold(PathBuf::new(), |name, part| match part {
        Component::ParentDir => PathBuf::new(),
        Component::CurDir => name,
        part => name.join(part),
    });
    let Ok(name) = below.into_os_string().into_string() else {
        bail!("the name of '{}' is not UTF-8 and cannot stand in a header: rename the file", path.display());
    };
    Ok(name)
}

/// Sixteen hexadecimal digits that tell files apart by path and content.
fn digest(name: &str, data: &[u8]) -> String {
    let digest = Sha256::new().chain_update(name).chain_update([0]).chain_update(data).finalize();
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
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
    progress: ProgressBar,
    format: Format,
}

impl Sent {
    /// The publisher's window bounds how many wait here; more are settled on the way.
    const PENDING_MAX: usize = 8192;

    fn new(format: Format) -> Self {
        Self { pending: VecDeque::new(), stored: 0, progress: ProgressBar::hidden(), format }
    }

    async fn add(&mut self, name: &str, pending: Pending) -> anyhow::Result<()> {
        self.pending.push_back((name.into(), pending));
        while !self.pending.is_empty()
            && let Some(settled) = self.settle_first().now_or_never()
        {
            settled?;
        }
        self.settle(Self::PENDING_MAX).await
    }

    /// Waits for the oldest acks until at most `left` are to come, and prints each.
    async fn settle(&mut self, left: usize) -> anyhow::Result<()> {
        while self.pending.len() > left {
            self.settle_first().await?;
        }
        Ok(())
    }

    /// After a failure: prints what was stored nevertheless.
    async fn settle_rest(&mut self) -> anyhow::Result<()> {
        while let Some((name, pending)) = self.pending.pop_front() {
            if let Ok(published) = pending.await {
                self.print(&name, published)?;
            }
        }
        Ok(())
    }

    /// Waits for the oldest ack and prints it. Nothing is lost if the caller stops waiting.
    async fn settle_first(&mut self) -> anyhow::Result<()> {
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
        self.stored += 1;
        let Published { sequence, duplicate, scheduled } = published;
        let name_shown: String = printable(name).collect();
        let line = match self.format {
            Format::Json => {
                let mut value = json!({ "duplicate": duplicate });
                match scheduled {
                    true => value["scheduled"] = true.into(),
                    false => value["sequence"] = sequence.into(),
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
