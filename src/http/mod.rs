//! Health checks and metrics over HTTP.

mod health;
mod server;

pub use health::{Health, Probe};
pub use server::serve;
