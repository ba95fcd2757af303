//! How the types of settings are written in YAML.

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use serde_yaml_ng::Value as Yaml;

use crate::{
    store::s3::Secret,
    types::{SubjectFilter, time},
};

/// A type that settings can have.
pub(super) trait Value: Sized {
    /// Reads the value; the error says what would be right.
    fn read(yaml: &Yaml) -> Result<Self, String>;
    /// The value as `read` takes it.
    fn show(&self) -> Yaml;
}

/// A number of bytes, written as `64MiB`, `16KiB` or `1000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

/// How long messages of the subjects that match a pattern live.
#[derive(Clone, Debug)]
pub struct TtlRule {
    /// Which subjects.
    pub channel: SubjectFilter,
    /// How long.
    pub duration: Duration,
}

/// Which services a process offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// All, on both ports.
    All,
    /// Publishing.
    Ingress,
    /// Consuming.
    Egress,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl ByteSize {
    /// As a length in memory; sizes beyond the address space stay at its end.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
        match units.iter().find(|(_, shift)| self.0 != 0 && self.0.is_multiple_of(1 << shift)) {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Value for ByteSize {
    fn read(yaml: &Yaml) -> Result<Self, String> {
        text(yaml)
            .and_then(|text| text.parse::<bytesize::ByteSize>().ok())
            .map(|size| Self(size.as_u64()))
            .ok_or_else(|| expected(yaml, "a size such as 64MiB, 16KiB or 1000"))
    }
    fn show(&self) -> Yaml {
        self.to_string().into()
    }
}

impl Role {
    /// Its word in the configuration and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

impl Value for Role {
    fn read(yaml: &Yaml) -> Result<Self, String> {
        match yaml.as_str() {
            Some("all") => Ok(Self::All),
            Some("ingress") => Ok(Self::Ingress),
            Some("egress") => Ok(Self::Egress),
            _ => Err(expected(yaml, "all, ingress or egress")),
        }
    }
    fn show(&self) -> Yaml {
        self.as_str().into()
    }
}

/// What stands for a secret wherever settings are shown.
const HIDDEN: &str = "(hidden)";

impl Value for Secret {
    fn read(yaml: &Yaml) -> Result<Self, String> {
        match text(yaml) {
            None if yaml.is_null() => Ok(Self::new("")),
            Some(text) if text == HIDDEN => Err("is the mark of a hidden secret: give the secret itself".into()),
            Some(text) => Ok(Self::new(text)),
            None => Err("is no text: put it in quotes".into()),
        }
    }
    fn show(&self) -> Yaml {
        if self.expose().is_empty() { "".into() } else { HIDDEN.into() }
    }
}

/// A list, or a text with commas.
impl Value for Vec<String> {
    fn read(yaml: &Yaml) -> Result<Self, String> {
        let items = match yaml {
            Yaml::Sequence(items) => items.iter().map(text).collect::<Option<Vec<_>>>(),
            Yaml::Null => Some(Vec::new()),
            other => text(other).map(|text| text.split(',').map(|item| item.trim().to_owned()).collect()),
        };
        let items = items.ok_or_else(|| expected(yaml, "a list, or a text with commas"))?;
        Ok(items.into_iter().filter(|item| !item.is_empty()).collect())
    }
    fn show(&self) -> Yaml {
        self.join(",").into()
    }
}

impl Value for Duration {
    fn read(yaml: &Yaml) -> Result<Self, String> {
        text(yaml)
            .and_then(|text| humantime::parse_duration(&text).ok())
            .ok_or_else(|| expected(yaml, "a duration such as 500ms, 30s, 2m, 24h or 7d"))
    }
    fn show(&self) -> Yaml {
        time::show(*self).into()
    }
}

impl Value for bool {
    fn read(yaml: &Yaml) -> Result<Self, String> {
        yaml.as_bool().ok_or_else(|| expected(yaml, "true or false"))
    }
    fn show(&self) -> Yaml {
        (*self).into()
    }
}

impl Value for u16 {
    fn read(yaml: &Yaml) -> Result<Self, String> {
        yaml.as_u64().and_then(|port| port.try_into().ok()).ok_or_else(|| expected(yaml, "a port from 0 to 65535"))
    }
    fn show(&self) -> Yaml {
        (*self).into()
    }
}

impl Value for usize {
    fn read(yaml: &Yaml) -> Result<Self, String> {
        yaml.as_u64().and_then(|count| count.try_into().ok()).ok_or_else(|| expected(yaml, "a whole number"))
    }
    fn show(&self) -> Yaml {
        (*self as u64).into()
    }
}

impl Value for String {
    fn read(yaml: &Yaml) -> Result<Self, String> {
        // An empty value in YAML is none.
        if yaml.is_null() { Ok(Self::new()) } else { text(yaml).ok_or_else(|| expected(yaml, "a text")) }
    }
    fn show(&self) -> Yaml {
        self.as_str().into()
    }
}

impl Value for PathBuf {
    fn read(yaml: &Yaml) -> Result<Self, String> {
        text(yaml).filter(|path| !path.is_empty()).map(Into::into).ok_or_else(|| expected(yaml, "a path"))
    }
    fn show(&self) -> Yaml {
        self.display().to_string().into()
    }
}

impl Value for IpAddr {
    fn read(yaml: &Yaml) -> Result<Self, String> {
        text(yaml)
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| expected(yaml, "an IP address such as 127.0.0.1, 0.0.0.0 or ::1"))
    }
    fn show(&self) -> Yaml {
        self.to_string().into()
    }
}

impl Value for LogFormat {
    fn read(yaml: &Yaml) -> Result<Self, String> {
        match yaml.as_str() {
            Some("text") => Ok(Self::Text),
            Some("json") => Ok(Self::Json),
            _ => Err(expected(yaml, "text or json")),
        }
    }
    fn show(&self) -> Yaml {
        match self {
            Self::Text => "text".into(),
            Self::Json => "json".into(),
        }
    }
}

impl Value for Vec<TtlRule> {
    fn read(yaml: &Yaml) -> Result<Self, String> {
        let form = "a list such as [{channel: \"logs.>\", duration: 7d}]";
        yaml.as_sequence().ok_or_else(|| expected(yaml, form))?.iter().map(|rule| read_rule(rule, form)).collect()
    }
    fn show(&self) -> Yaml {
        self.iter()
            .map(|rule| {
                let entries = [("channel", rule.channel.to_string().into()), ("duration", rule.duration.show())];
                entries.into_iter().map(|(key, value): (&str, Yaml)| (key.into(), value)).collect()
            })
            .map(Yaml::Mapping)
            .collect()
    }
}

fn read_rule(yaml: &Yaml, form: &str) -> Result<TtlRule, String> {
    let rule = yaml.as_mapping().filter(|rule| rule.len() == 2).ok_or_else(|| expected(yaml, form))?;
    let channel = rule.get("channel").and_then(Yaml::as_str).ok_or_else(|| expected(yaml, form))?;
    let channel = SubjectFilter::parse("channel", channel).map_err(|error| error.to_string())?;
    let duration = rule.get("duration").ok_or_else(|| expected(yaml, form))?;
    Ok(TtlRule { channel, duration: Duration::read(duration)? })
}

/// The text of a scalar: `port: 1` and `port: "1"` mean the same to a reader.
fn text(yaml: &Yaml) -> Option<String> {
    match yaml {
        Yaml::String(text) => Some(text.clone()),
        Yaml::Number(number) => Some(number.to_string()),
        Yaml::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn expected(yaml: &Yaml, what: &str) -> String {
    let given = serde_yaml_ng::to_string(yaml).unwrap_or_default();
    format!("'{}' is not {what}", given.trim())
}
