//! The present version and the one before it, on one store: brokers of both at once, one after the other, and commands of the
//! one against brokers of the other. Nothing is lost on the way there, nor on the way back.
//!
//! Which version was before is pinned by commit, in the file `previous`.
#![allow(clippy::unwrap_used)]

mod backup;
mod commands;
mod embedded;
mod future;
mod load;
mod shared;
mod uploads;
mod version;
#[path = "../backup/world.rs"]
mod world;
