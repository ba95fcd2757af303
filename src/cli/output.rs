use std::{
    io::{self, Write},
    time::SystemTime,
};

use anyhow::Context;
use base64::Engine;
use comfy_table::{Cell, CellAlignment, Table, presets};
use minitoolstream_client::Message;
use serde_json::{Value, json};

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Tables for people.
    #[default]
    Text,
    /// One JSON document a line.
    Json,
}

/// Prints one JSON document.
pub(super) fn print_json(value: &Value) -> anyhow::Result<()> {
    print_line(&value.to_string())
}

/// Prints a line; a reader that went away is an error that ends the command quietly.
pub(super) fn print_line(line: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("standard output cannot be written")
}

/// True for a write to a pipe whose reader is gone, as with `| head`.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<io::Error>();
    cause.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A table whose columns named in `right` are numbers.
pub(super) fn table(header: &[&str], right: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let align = |index: usize, cell: Cell| {
        if right.contains(&index) { cell.set_alignment(CellAlignment::Right) } else { cell }
    };
    table.set_header(header.iter().enumerate().map(|(index, name)| align(index, Cell::new(name.to_uppercase()))));
    for row in rows {
        table.add_row(row.into_iter().enumerate().map(|(index, text)| align(index, Cell::new(text))));
    }
    table
        .to_string()
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end())
        .collect::<Vec<_>>()
        .join("\n")
}

/// A number of bytes for people.
pub(super) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// Hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A moment, to the millisecond.
pub(super) fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// A message as JSON: text where it is UTF-8, base64 where it is not, neither where it was too large to be sent along.
pub(super) fn message_json(message: &Message) -> Value {
    let mut value = json!({
        "subject": message.subject,
        "sequence": message.sequence,
        "timestamp": time(message.timestamp),
        "headers": message.headers,
        "size": message.size(),
    });
    if message.stream_sequence > 0 {
        value["stream_sequence"] = message.stream_sequence.into();
    }
    if let Some(data) = &message.data {
        match std::str::from_utf8(data) {
            Ok(text) => value["text"] = text.into(),
            Err(_) => value["base64"] = base64::engine::general_purpose::STANDARD.encode(data).into(),
        }
    }
    value
}

/// Text that stays on its line, and that a terminal takes for text: whoever published it may have meant it for more.
pub(super) fn printable(text: &str) -> impl Iterator<Item = String> {
    let is_harmful = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(move |c| if is_harmful(c) { c.escape_debug().to_string() } else { c.to_string() })
}

/// The beginning of a message's data on one line.
pub(super) fn preview(message: &Message) -> String {
    const SHOWN: usize = 60;
    let Some(data) = &message.data else {
        return "(large: use --to DIR)".into();
    };
    let start = &data[..data.len().min(SHOWN * 4)];
    // Cut off here, the last character may be a part of one.
    let whole = match std::str::from_utf8(start) {
        Err(error) if error.error_len().is_none() && start.len() < data.len() => &start[..error.valid_up_to()],
        _ => start,
    };
    match std::str::from_utf8(whole) {
        Ok(text) => {
            let line: String = printable(text.trim_end()).take(SHOWN).collect();
            if text.chars().count() > SHOWN { format!("{line}…") } else { line }
        }
        Err(_) => "(binary)".into(),
    }
}
