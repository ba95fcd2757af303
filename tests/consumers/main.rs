//! Consumers that share work, against a naive model: random operations, and after each of them the same deliveries,
//! answers, dead letters and counts. The same sequences run on the pure state machine, which is fast, and on real stores,
//! where rows and transactions are part of it.
//!
//! `MODEL_CASES=100000 cargo nextest run --test consumers` tries more; a failure is shrunk and its seed kept.
#![allow(clippy::unwrap_used)]

mod backend;
mod machine;
mod model;
mod operations;
mod pair;
mod reference;
mod stored;
mod world;
