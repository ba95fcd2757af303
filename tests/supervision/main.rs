//! Actors that panic or hang: they are rebuilt, and nobody is told a lie or loses an acknowledged message.
#![allow(clippy::unwrap_used)]

mod actors;
mod budget;
mod commits;
mod gated;
mod load;
mod subscribers;
mod supervisor;
mod truth;
mod victim;
mod workers;
