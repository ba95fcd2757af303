//! Health checks and metrics over HTTP.

mod health;
mod server;

pub use health::Health;
pub use server::serve;
