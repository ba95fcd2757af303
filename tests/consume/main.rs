//! Consumers over the wire: workers that share messages, and what goes wrong with them.
#![allow(clippy::unwrap_used)]

mod answers;
mod disconnects;
mod letters;
mod orders;
mod sharing;
mod worker;
