use std::time::{Duration, SystemTime};

use minitoolstream_client::{
    ConsumerSettings, Start,
    proto::{self, start::From},
};
use serde_json::{Value, json};

use super::{moment, output};

/// Settings of a consumer that may change. What is not given is the broker's default or, in an update, stays.
#[derive(Clone, Default, PartialEq, clap::Args)]
pub(super) struct Tuning {
    /// How long a message may stay unanswered before it is delivered again, such as 30s.
    #[arg(long, value_parser = humantime::parse_duration)]
    ack_wait: Option<Duration>,
    /// Dead-letter a message after this many attempts; 0: never.
    #[arg(long)]
    max_deliver: Option<u32>,
    /// Most messages delivered and not settled, over all workers.
    #[arg(long)]
    max_ack_pending: Option<u32>,
    /// Delays before the second, third, ... delivery of what failed, such as 1s,5s,30s.
    #[arg(long, value_delimiter = ',', value_parser = humantime::parse_duration)]
    back_off: Vec<Duration>,
    /// Where dead letters go.
    #[arg(long)]
    dead_letter_subject: Option<String>,
    /// How long dead letters live, such as 30d.
    #[arg(long, value_parser = humantime::parse_duration)]
    dead_letter_ttl: Option<Duration>,
}

impl Tuning {
    pub(super) fn apply(self, mut settings: ConsumerSettings) -> ConsumerSettings {
        if let Some(wait) = self.ack_wait {
            settings = settings.ack_wait(wait);
        }
        if let Some(attempts) = self.max_deliver {
            settings = settings.max_deliver(attempts);
        }
        if let Some(messages) = self.max_ack_pending {
            settings = settings.max_ack_pending(messages);
        }
        if !self.back_off.is_empty() {
            settings = settings.back_off(self.back_off);
        }
        if let Some(subject) = self.dead_letter_subject {
            settings = settings.dead_letter_subject(subject);
        }
        if let Some(ttl) = self.dead_letter_ttl {
            settings = settings.dead_letter_ttl(ttl);
        }
        settings
    }
}

/// Reads where a consumer begins.
pub(super) fn start(text: &str) -> Result<Start, String> {
    let number = |text: &str| text.parse().map_err(|_| format!("'{text}' is no sequence: give a number"));
    match text.split_once(':') {
        None if text == "all" => Ok(Start::All),
        None if text == "new" => Ok(Start::New),
        Some(("seq", sequence)) => number(sequence).map(Start::Sequence),
        Some(("stream", sequence)) => number(sequence).map(Start::StreamSequence),
        Some(("time", time)) => moment::since(time).map(Start::Time),
        _ => Err(format!("'{text}' is no start: use all, new, seq:N, stream:N or time:T")),
    }
}

/// Names and values for people.
pub(super) fn rows(settings: &proto::ConsumerSettings) -> Vec<(&'static str, String)> {
    let back_off = settings.back_off.iter().flat_map(|back_off| &back_off.delays);
    let back_off: Vec<String> = back_off.map(|delay| duration(Some(*delay))).collect();
    let number = |number: Option<u32>| number.map_or_else(String::new, |number| number.to_string());
    vec![
        ("filter", settings.filter.clone()),
        ("start", settings.start.map_or_else(String::new, start_text)),
        ("ack wait", duration(settings.ack_wait)),
        ("max deliver", number(settings.max_deliver)),
        ("max ack pending", number(settings.max_ack_pending)),
        ("back-off", back_off.join(", ")),
        ("dead letters go to", settings.dead_letter_subject.clone().unwrap_or_default()),
        ("dead letters live", duration(settings.dead_letter_ttl)),
    ]
}

/// The settings as JSON.
pub(super) fn json(settings: &proto::ConsumerSettings) -> Value {
    let back_off = settings.back_off.iter().flat_map(|back_off| &back_off.delays);
    json!({
        "filter": settings.filter,
        "start": settings.start.map(start_text),
        "ack_wait": duration(settings.ack_wait),
        "max_deliver": settings.max_deliver,
        "max_ack_pending": settings.max_ack_pending,
        "back_off": back_off.map(|delay| duration(Some(*delay))).collect::<Vec<_>>(),
        "dead_letter_subject": settings.dead_letter_subject,
        "dead_letter_ttl": duration(settings.dead_letter_ttl),
    })
}

/// As [`start`] reads it.
fn start_text(start: proto::Start) -> String {
    match start.from {
        None | Some(From::All(())) => "all".into(),
        Some(From::New(())) => "new".into(),
        Some(From::Sequence(sequence)) => format!("seq:{sequence}"),
        Some(From::StreamSequence(sequence)) => format!("stream:{sequence}"),
        Some(From::Time(time)) => {
            SystemTime::try_from(time).map_or_else(|_| "time:?".into(), |time| format!("time:{}", output::time(time)))
        }
    }
}

fn duration(duration: Option<prost_types::Duration>) -> String {
    let duration = duration.and_then(|duration| Duration::try_from(duration).ok());
    duration.map_or_else(String::new, |duration| humantime::format_duration(duration).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_read_as_they_are_shown() {
        for text in ["all", "new", "seq:7", "stream:12", "time:2025-01-31T12:00:00.000Z"] {
            assert_eq!(start_text(start(text).unwrap().into()), text);
        }
        for text in ["", "first", "seq:", "seq:x", "time:noon", "sequence:1"] {
            assert!(start(text).is_err(), "{text}");
        }
    }
}
