//! The files that deploy brokers are taken by the tools that read them, hold to rules, and speak of settings and metrics that
//! exist.
#![allow(clippy::unwrap_used)]

mod clients;
mod compose;
mod docs;
mod helm;
mod image;
mod instance;
mod kustomize;
mod monitoring;
mod network;
mod object;
mod policy;
mod probes;
mod rendering;
mod schemas;
mod scripts;
mod service;
mod settings;
mod stack;
mod tarantool;
mod tools;

use std::path::PathBuf;

/// A file of the repository.
fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}
