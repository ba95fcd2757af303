use std::{
    io::Write,
    path::{Component, Path, PathBuf},
    pin::Pin,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use minitoolstream_client::{Client, Error, Message};

use super::output::{self, Format, printable};

/// Where messages go.
#[derive(Default, clap::Args)]
pub(super) struct SinkArgs {
    /// Write each message to a file below this directory, named by its header 'path' or its sequence (with wildcards: its
    /// place in the order of all messages).
    #[arg(long)]
    to: Option<PathBuf>,
    /// Write the data alone to standard output, one message after another.
    #[arg(long, conflicts_with = "to")]
    raw: bool,
}

/// Where messages of a subject go, or of all that match a pattern.
pub(super) struct Sink {
    client: Client,
    args: SinkArgs,
    format: Format,
    has_wildcards: bool,
}

impl Sink {
    pub(super) fn new(client: &Client, args: SinkArgs, format: Format, subject: &str) -> Self {
        Self { client: client.clone(), args, format, has_wildcards: has_wildcards(subject) }
    }

    /// Prints what there is to say of a message, besides its data. A consumer counts its attempts.
    pub(super) fn head(&self, message: &Message, attempt: Option<u32>, first: bool) -> anyhow::Result<()> {
        if self.args.raw {
            return Ok(());
        }
        if self.format == Format::Json {
            let mut value = output::message_json(message);
            if let Some(attempt) = attempt {
                value["attempt"] = attempt.into();
            }
            return output::print_json(&value);
        }
        let column = |subject: &str| match self.has_wildcards {
            true => format!("{:<24}  ", printable(subject).collect::<String>()),
            false => String::new(),
        };
        if first {
            let subject = column("SUBJECT");
            output::print_line(&format!("{:>10}  {subject}{:<24}  {:>10}  DATA", "SEQUENCE", "TIME", "SIZE"))?;
        }
        let mut shown: Vec<String> =
            message.headers.iter().map(|(name, value)| printable(&format!("{name}={value}")).collect()).collect();
        shown.sort();
        if message.size() > 0 {
            shown.insert(0, output::preview(message));
        }
        let (time, size) = (output::time(message.timestamp), output::bytes(message.size()));
        let (subject, shown) = (column(&message.subject), shown.join(" "));
        output::print_line(format!("{:>10}  {subject}{time:<24}  {size:>10}  {shown}", message.sequence).trim_end())
    }

    pub(super) async fn write(&self, message: &Message) -> anyhow::Result<()> {
        if let Some(dir) = &self.args.to {
            let path = dir.join(self.file_name(message)?);
            return self.write_file(message, &path).await;
        }
        if self.args.raw {
            let mut data = data(&self.client, message).await?;
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
        let mut data = data(&self.client, message).await?;
        while let Some(piece) = data.next().await {
            tokio::io::AsyncWriteExt::write_all(&mut file, &piece?).await.with_context(context)?;
        }
        file.sync_all().await.with_context(context)?;
        tokio::fs::rename(&beside, path).await.with_context(context)
    }

    /// Where a message is written below the directory: never outside it.
    fn file_name(&self, message: &Message) -> anyhow::Result<PathBuf> {
        let Some(given) = message.headers.get("path") else {
            // Sequences of several subjects may be the same.
            let number = if self.has_wildcards { message.stream_sequence } else { message.sequence };
            return Ok(number.to_string().into());
        };
        let path = Path::new(given);
        let name: PathBuf =
            path.components().filter(|part| !matches!(part, Component::RootDir | Component::CurDir)).collect();
        if name.as_os_str().is_empty() || name.components().any(|part| !matches!(part, Component::Normal(_))) {
            let Message { subject, sequence, .. } = message;
            bail!(
                "message {sequence} of {subject} has the path '{}', which leads out of the directory: go on with --from \
                 {}, or ack {sequence} to pass it",
                printable(given).collect::<String>(),
                sequence + 1
            );
        }
        Ok(name)
    }
}

pub(super) type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// The data of a message, wherever it is.
pub(super) async fn data(client: &Client, message: &Message) -> Result<Pieces, Error> {
    Ok(match &message.data {
        Some(data) => Box::pin(futures_util::stream::iter([Ok(data.clone())])),
        None => {
            let reader = client.open(message).await?;
            Box::pin(futures_util::stream::try_unfold(reader, async |mut reader| {
                Ok(reader.piece().await?.map(|piece| (piece, reader)))
            }))
        }
    })
}

/// True if more than one subject may match.
pub(super) fn has_wildcards(subject: &str) -> bool {
    subject.split('.').any(|token| matches!(token, "*" | ">"))
}
