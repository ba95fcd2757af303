//! Rules, alerts and dashboard: by Prometheus' own tool, and with a real Prometheus that watches
//! real brokers fail.
#![allow(clippy::unwrap_used)]

mod dashboard;
mod drill;
mod kubernetes;
mod promtool;
mod rules;
mod stage;

use std::{collections::BTreeSet, path::PathBuf};

/// Where what the tests unpack and install is.
const HOME: &str = env!("CARGO_TARGET_TMPDIR");

/// A file of the repository.
fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// What it says.
fn text(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Names of this project's metrics in a text, without the endings of histograms. Recorded series are told by their colons.
fn metrics(text: &str) -> BTreeSet<String> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    let names = text.split(|letter: char| !is_name(letter)).filter(|name| name.starts_with("minitoolstream_"));
    names
        .map(|name| ["_bucket", "_sum", "_count"].iter().fold(name, |name, end| name.trim_end_matches(end)).into())
        .collect()
}

/// Names of metrics that the code has.
fn known() -> BTreeSet<String> {
    minitoolstream::metrics::FAMILIES.iter().map(|family| family.name.to_owned()).collect()
}
