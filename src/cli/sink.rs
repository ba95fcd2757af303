use std::{
    io::{Read, Write},
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, bail};
use indicatif::ProgressBar;
use minitoolstream_client::{Message, Open};
use sha2::{Digest, Sha256};

use super::{
    bars::Bars,
    interruption::Hint,
    output::{self, Format, hex, printable},
};

/// Bytes of a file that are hashed at a time.
const STEP_BYTES: usize = 256 << 10;

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
    args: SinkArgs,
    format: Format,
    has_wildcards: bool,
    pub(super) bars: Bars,
    /// How to go on with what is being written.
    pub(super) hint: Hint,
}

impl Sink {
    pub(super) fn new(args: SinkArgs, format: Format, subject: &str) -> Self {
        let (has_wildcards, bars) = (has_wildcards(subject), Bars::new(format));
        Self { args, format, has_wildcards, bars, hint: Hint::default() }
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

    /// Writes the data of a message, which is opened with it. What an interruption leaves of a large one goes on when it is
    /// written again.
    pub(super) async fn write(&self, message: &Message, open: Open) -> anyhow::Result<()> {
        if let Some(dir) = &self.args.to {
            let path = dir.join(self.file_name(message)?);
            return self.write_file(message, open, &path).await;
        }
        if self.args.raw {
            let bar = self.bar(message);
            let mut reader = open.await?;
            while let Some(piece) = reader.piece().await? {
                std::io::stdout().lock().write_all(&piece).context("standard output cannot be written")?;
                bar.inc(piece.len() as u64);
            }
        }
        Ok(())
    }

    /// Writes beside the place and renames, so that a file is whole or not there.
    async fn write_file(&self, message: &Message, open: Open, path: &Path) -> anyhow::Result<()> {
        if let Some(dir) = path.parent() {
            let made = tokio::fs::create_dir_all(dir).await;
            made.with_context(|| format!("'{}' cannot be written", path.display()))?;
        }
        if is_there(message, path).await {
            return Ok(());
        }
        // A name of its own: with something appended, a long name could be too long for the file system. The digest
        // keeps what is left of one message from being taken for another.
        let digest = message.sha256().map_or_else(String::new, |digest| format!("-{}", hex(&digest[..8])));
        let part = path.with_file_name(format!(".{}{digest}.part", message.sequence));
        if message.data.is_none() {
            self.hint.set(format!("run the same command again to go on with '{}'", path.display()));
        }
        let bar = self.bar(message);
        let position = bar.clone();
        let save = open.save(path).part_file(part);
        let saved = save.on_progress(move |progress| position.set_position(progress.durable)).await;
        self.hint.clear();
        bar.finish_and_clear();
        saved?;
        Ok(())
    }

    /// Large messages take their time.
    fn bar(&self, message: &Message) -> ProgressBar {
        if message.data.is_some() { ProgressBar::hidden() } else { self.bars.bytes(Some(message.size())) }
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

/// True if a large message is there already, as after an earlier run that was interrupted at the next one.
async fn is_there(message: &Message, path: &Path) -> bool {
    let (Some(digest), path, size) = (message.sha256(), path.to_owned(), message.size()) else {
        return false;
    };
    let same = tokio::task::spawn_blocking(move || {
        let metadata = path.metadata()?;
        if !metadata.is_file() || metadata.len() != size {
            return Ok(false);
        }
        let mut found = Sha256::new();
        let mut step = vec![0; STEP_BYTES];
        let mut file = std::fs::File::open(path)?;
        loop {
            match file.read(&mut step)? {
                0 => return Ok::<_, std::io::Error>(<[u8; 32]>::from(found.finalize()) == digest),
                read => found.update(&step[..read]),
            }
        }
    });
    matches!(same.await, Ok(Ok(true)))
}

/// True if more than one subject may match.
pub(super) fn has_wildcards(subject: &str) -> bool {
    subject.split('.').any(|token| matches!(token, "*" | ">"))
}
