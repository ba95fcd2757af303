//! The files that deploy brokers speak of settings that exist.
#![allow(clippy::unwrap_used)]

mod compose;
mod tarantool;

use std::path::PathBuf;

/// A file of the repository.
fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}
