//! Promises under load: many publishers, many messages, many bytes.
#![allow(clippy::unwrap_used)]

mod crashes;
mod memory;
mod order;
mod recovery;
mod redelivery;
mod sizes;
mod uploads;
mod worker;
mod workers;
