//! Consumers over the wire: workers that share messages, and what goes wrong with them.
#![allow(clippy::unwrap_used)]

mod answers;
mod disconnects;
mod handlers;
mod holds;
mod leaving;
mod letters;
mod orders;
mod reads;
mod sdk;
mod sharing;
mod worker;
