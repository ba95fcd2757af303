use std::{io::Write, process::ExitCode};

use anyhow::{Context, bail};
use clap::{Subcommand, value_parser};
use futures_util::StreamExt;
use minitoolstream_client::{Client, Error, Fetch, Message};
use serde_json::json;

use super::{
    Session,
    output::{self, Format, printable},
};

/// Messages read at a time.
const PAGE: u32 = 500;

/// Shows dead letters, and publishes them again.
///
/// A dead letter is a message that a consumer gave up, with the reason in its headers.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  minitoolstream dlq list billing
  minitoolstream dlq show billing 17
  minitoolstream dlq redrive billing 17 18
  minitoolstream dlq redrive billing --all --to orders.repaired")]
pub(super) struct Dlq {
    #[command(subcommand)]
    deed: Deed,
}

#[derive(Subcommand)]
enum Deed {
    /// Lists dead letters, oldest first.
    List {
        #[command(flatten)]
        place: Place,
        /// Begin with this sequence.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// At most this many.
        #[arg(short, long, default_value_t = 100, value_parser = value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Prints the headers and data of a dead letter.
    Show {
        #[command(flatten)]
        place: Place,
        /// Its sequence, from 'dlq list'.
        sequence: u64,
        /// Write the data alone to standard output.
        #[arg(long)]
        raw: bool,
    },
    /// Publishes dead letters to where they came from, and removes them.
    Redrive {
        #[command(flatten)]
        place: Place,
        /// Their sequences, from 'dlq list'.
        #[arg(required_unless_present = "all")]
        sequences: Vec<u64>,
        /// All that are there.
        #[arg(long, conflicts_with = "sequences")]
        all: bool,
        /// Publish them to this subject instead.
        #[arg(long)]
        to: Option<String>,
    },
}

/// Where dead letters are.
#[derive(clap::Args)]
struct Place {
    /// The consumer that gave them up.
    consumer: String,
    /// The subject that holds them; without it, what the consumer's settings say.
    #[arg(long)]
    subject: Option<String>,
}

impl Dlq {
    pub(super) async fn run(self, session: Session) -> anyhow::Result<ExitCode> {
        let client = session.connect().await?;
        match self.deed {
            Deed::List { place, from, limit } => list(&client, &place, from, limit, session.format).await,
            Deed::Show { place, sequence, raw } => show(&client, &place, sequence, raw, session.format).await,
            Deed::Redrive { place, sequences, to, .. } => {
                redrive(&client, &place, &sequences, to.as_deref(), session.format).await
            }
        }
    }
}

impl Place {
    async fn subject(&self, client: &Client) -> anyhow::Result<String> {
        let name = &self.consumer;
        match &self.subject {
            Some(subject) => Ok(subject.clone()),
            None => match client.consumer(name).dead_letter_subject().await {
                Err(error @ Error::NotFound(_)) => {
                    bail!("{error}: if there was one, say where its dead letters are, as with --subject '$dlq.{name}'")
                }
                subject => Ok(subject?),
            },
        }
    }
}

async fn list(client: &Client, place: &Place, from: u64, limit: u32, format: Format) -> anyhow::Result<ExitCode> {
    let subject = place.subject(client).await?;
    let (mut from, mut left) = (from, limit);
    let mut rows = Vec::new();
    loop {
        let step = left.min(PAGE);
        let request = Fetch::from_sequence(&subject, from).limit(step).max_message_bytes(1);
        let mut letters = client.fetch(request).await?;
        let mut count = 0;
        while let Some(letter) = letters.next().await {
            let letter = letter?;
            (from, count) = (letter.sequence + 1, count + 1);
            match format {
                Format::Json => output::print_json(&letter_json(&letter))?,
                Format::Text => rows.push(row(&letter)),
            }
        }
        left = left.saturating_sub(count);
        if count == 0 || left == 0 {
            break;
        }
    }
    if format == Format::Text {
        let header = ["sequence", "original subject", "original sequence", "reason", "attempts", "time", "detail"];
        output::print_line(&output::table(&header, &[0, 2, 4], rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(client: &Client, place: &Place, sequence: u64, raw: bool, format: Format) -> anyhow::Result<ExitCode> {
    let subject = place.subject(client).await?;
    let mut letters = client.fetch(Fetch::from_sequence(&subject, sequence).limit(1)).await?;
    let letter = letters.next().await.transpose()?.filter(|letter| letter.sequence == sequence);
    let Some(letter) = letter else {
        bail!("{subject} has no message {sequence} (any more): see 'minitoolstream dlq list {}'", place.consumer);
    };
    if raw {
        let mut reader = client.open(&letter).await?;
        while let Some(piece) = reader.piece().await? {
            std::io::stdout().lock().write_all(&piece).context("standard output cannot be written")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if format == Format::Json {
        output::print_json(&output::message_json(&letter))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut headers: Vec<_> = letter.headers.iter().collect();
    headers.sort();
    for (name, value) in headers {
        output::print_line(&printable(&format!("{name}: {value}")).collect::<String>())?;
    }
    let data = letter.data.as_deref().map(std::str::from_utf8);
    output::print_line("")?;
    match data {
        Some(Ok(text)) => {
            for line in text.lines() {
                output::print_line(&printable(line).collect::<String>())?;
            }
        }
        Some(Err(_)) => output::print_line(&format!("(binary, {}: use --raw)", output::bytes(letter.size())))?,
        None => output::print_line(&format!("(large, {}: use --raw)", output::bytes(letter.size())))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn redrive(
    client: &Client,
    place: &Place,
    sequences: &[u64],
    to: Option<&str>,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let subject = place.subject(client).await?;
    let redriven = client.redrive(&subject, sequences, to).await?;
    let missing = &redriven.not_found;
    match format {
        Format::Json => output::print_json(&json!({ "redriven": redriven.count, "not_found": missing }))?,
        Format::Text => {
            output::print_line(&format!("{} dead letters of {subject} published again", redriven.count))?;
            if !missing.is_empty() {
                let missing: Vec<String> = missing.iter().map(u64::to_string).collect();
                eprintln!("no dead letters are at {}", missing.join(", "));
            }
        }
    }
    Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn header<'a>(letter: &'a Message, name: &str) -> &'a str {
    letter.headers.get(name).map_or("", String::as_str)
}

fn row(letter: &Message) -> Vec<String> {
    let shown = |name| printable(header(letter, name)).collect::<String>();
    vec![
        letter.sequence.to_string(),
        shown("Mts-Original-Subject"),
        shown("Mts-Original-Sequence"),
        shown("Mts-Reason"),
        shown("Mts-Attempts"),
        output::time(letter.timestamp),
        shown("Mts-Detail"),
    ]
}

fn letter_json(letter: &Message) -> serde_json::Value {
    let number = |name| header(letter, name).parse::<u64>().ok();
    json!({
        "sequence": letter.sequence,
        "original_subject": header(letter, "Mts-Original-Subject"),
        "original_sequence": number("Mts-Original-Sequence"),
        "original_time": header(letter, "Mts-Original-Time"),
        "reason": header(letter, "Mts-Reason"),
        "detail": header(letter, "Mts-Detail"),
        "attempts": number("Mts-Attempts"),
        "consumer": header(letter, "Mts-Consumer"),
        "time": output::time(letter.timestamp),
        "size": letter.size(),
    })
}
