use std::{
    io::Write,
    path::{Component, Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::value_parser;
use futures_util::StreamExt;
use minitoolstream::shutdown::Signals;
use minitoolstream_client::{Client, Fetch as Request, Message, Messages};

use super::{
    Session,
    output::{self, Format, printable},
};

/// Messages read between two acks.
const ACK_EVERY: u32 = 500;

/// Reads messages: after a consumer's position, or from a sequence on.
///
/// Reading moves no position unless --ack is given.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  minitoolstream fetch orders.new --from 1 --limit 100
  minitoolstream fetch site --durable mirror --all --to ./mirror --ack")]
pub(super) struct Fetch {
    /// What to read.
    subject: String,
    /// Read after the acked position of this durable consumer.
    #[arg(short, long)]
    durable: Option<String>,
    /// Read from this sequence on.
    #[arg(short, long, conflicts_with = "durable")]
    from: Option<u64>,
    /// At most this many messages.
    #[arg(short, long, default_value_t = 10, conflicts_with = "all", value_parser = value_parser!(u32).range(1..))]
    limit: u32,
    /// Everything there is.
    #[arg(long)]
    all: bool,
    /// Acknowledge what was read, after it was written.
    #[arg(long, requires = "durable")]
    ack: bool,
    #[command(flatten)]
    sink: SinkArgs,
}

/// Prints messages as they come, until interrupted.
///
/// Goes on after a broken connection.
#[derive(clap::Args)]
pub(super) struct Tail {
    /// What to follow.
    subject: String,
    /// Begin with this sequence; without it, with what comes from now on.
    #[arg(short, long)]
    from: Option<u64>,
    /// Stop after this many messages.
    #[arg(short, long, value_parser = value_parser!(u32).range(1..))]
    limit: Option<u32>,
    #[command(flatten)]
    sink: SinkArgs,
}

/// Where messages go.
#[derive(clap::Args)]
struct SinkArgs {
    /// Write each message to a file below this directory, named by its header 'path' or its sequence.
    #[arg(long)]
    to: Option<PathBuf>,
    /// Write the data alone to standard output, one message after another.
    #[arg(long, conflicts_with = "to")]
    raw: bool,
}

impl Fetch {
    pub(super) async fn run(self, session: Session) -> anyhow::Result<ExitCode> {
        let client = session.connect().await?;
        let sink = Sink { client: client.clone(), args: self.sink, format: session.format };
        let mut left = if self.all { u32::MAX } else { self.limit };
        let mut from = match (self.from, &self.durable) {
            (Some(from), _) => Some(from),
            (None, None) => Some(1),
            (None, Some(_)) => None,
        };
        let progress = output::progress(None, "messages", session.format);
        let mut first = true;
        while left > 0 {
            let step = left.min(ACK_EVERY);
            let request = match (from, &self.durable) {
                (None, Some(durable)) => Request::durable(&self.subject, durable),
                (from, _) => Request::from_sequence(&self.subject, from.unwrap_or(1)),
            };
            let mut messages = client.fetch(request.limit(step)).await?;
            let mut last = None;
            let mut count = 0;
            while let Some(message) = messages.next().await {
                let message = message?;
                progress.suspend(|| sink.head(&message, first))?;
                first = false;
                sink.write(&message).await?;
                last = Some(message.sequence);
                count += 1;
                progress.inc(1);
            }
            left -= count;
            let Some(last) = last else { break };
            from = Some(last + 1);
            if let (true, Some(durable)) = (self.ack, &self.durable) {
                client.ack(durable, &self.subject, last).await?;
            }
        }
        progress.finish_and_clear();
        Ok(ExitCode::SUCCESS)
    }
}

impl Tail {
    pub(super) async fn run(self, session: Session) -> anyhow::Result<ExitCode> {
        let client = session.connect().await?;
        let from = match self.from {
            Some(from) => from,
            None => client.last_sequence(&self.subject).await? + 1,
        };
        let request = Request::from_sequence(&self.subject, from).follow();
        let request = match self.limit {
            Some(limit) => request.limit(limit),
            None => request,
        };
        let mut messages: Messages = client.fetch(request).await?;
        let sink = Sink { client, args: self.sink, format: session.format };
        // Listened to in all rounds: a signal that comes while something is printed must not be lost.
        let mut signals = Signals::listen().context("signals cannot be received")?;
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => {
                        let message = message?;
                        sink.head(&message, false)?;
                        sink.write(&message).await?;
                    }
                    None => return Ok(ExitCode::SUCCESS),
                },
                _ = signals.next() => return Ok(ExitCode::SUCCESS),
            }
        }
    }
}

struct Sink {
    client: Client,
    args: SinkArgs,
    format: Format,
}

impl Sink {
    /// Prints what there is to say of a message, besides its data.
    fn head(&self, message: &Message, first: bool) -> anyhow::Result<()> {
        if self.args.raw {
            return Ok(());
        }
        if self.format == Format::Json {
            return output::print_json(&output::message_json(message));
        }
        if first {
            output::print_line(&format!("{:>10}  {:<24}  {:>10}  DATA", "SEQUENCE", "TIME", "SIZE"))?;
        }
        let mut shown: Vec<String> =
            message.headers.iter().map(|(name, value)| printable(&format!("{name}={value}")).collect()).collect();
        shown.sort();
        if message.size() > 0 {
            shown.insert(0, output::preview(message));
        }
        let (time, size) = (output::time(message.timestamp), output::bytes(message.size()));
        let shown = shown.join(" ");
        output::print_line(format!("{:>10}  {time:<24}  {size:>10}  {shown}", message.sequence).trim_end())
    }

    async fn write(&self, message: &Message) -> anyhow::Result<()> {
        if let Some(dir) = &self.args.to {
            let path = dir.join(file_name(message)?);
            return self.write_file(message, &path).await;
        }
        if self.args.raw {
            let mut data = self.data(message).await?;
            while let Some(piece) = data.next().await {
                std::io::stdout().lock().write_all(&piece?).context("standard output cannot be written")?;
            }
        }
        Ok(())
    }

    /// Writes beside the place and renames, so that a file is whole or not there.
    async fn write_file(&self, message: &Message, path: &Path) -> anyhow::Result<()> {
        let context = || format!("'{}' cannot be written", path.display());
        if let Some(dir) = path.parent() {
            tokio::fs::create_dir_all(dir).await.with_context(context)?;
        }
        // A name of its own: with something appended, a long name could be too long for the file system.
        let beside = path.with_file_name(format!(".{}.part", message.sequence));
        let mut file = tokio::fs::File::create(&beside).await.with_context(context)?;
        let mut data = self.data(message).await?;
        while let Some(piece) = data.next().await {
            tokio::io::AsyncWriteExt::write_all(&mut file, &piece?).await.with_context(context)?;
        }
        file.sync_all().await.with_context(context)?;
        tokio::fs::rename(&beside, path).await.with_context(context)
    }

    async fn data(&self, message: &Message) -> anyhow::Result<Pieces> {
        Ok(match &message.data {
            Some(data) => Box::pin(futures_util::stream::iter([Ok(data.clone())])),
            None => Box::pin(self.client.read(&message.subject, message.sequence).await?),
        })
    }
}

type Pieces =
    std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<bytes::Bytes, minitoolstream_client::Error>> + Send>>;

/// Where a message is written below the directory: never outside it.
fn file_name(message: &Message) -> anyhow::Result<PathBuf> {
    let Some(given) = message.headers.get("path") else {
        return Ok(message.sequence.to_string().into());
    };
    let path = Path::new(given);
    let name: PathBuf =
        path.components().filter(|part| !matches!(part, Component::RootDir | Component::CurDir)).collect();
    if name.as_os_str().is_empty() || name.components().any(|part| !matches!(part, Component::Normal(_))) {
        let Message { subject, sequence, .. } = message;
        bail!(
            "message {sequence} of {subject} has the path '{}', which leads out of the directory: go on with --from {}, or \
             ack {sequence} to pass it",
            printable(given).collect::<String>(),
            sequence + 1
        );
    }
    Ok(name)
}
