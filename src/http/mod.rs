//! Health checks, metrics, and messages for people and browsers, over HTTP.
//!
//! ```text
//! PUT, POST ─▶ origin ─▶ announced ─▶ inflow ─▶ upload ─▶ broker/upload      a body becomes a message
//! GET, HEAD ─▶ target ─▶ broker/read ─▶ conditions ─▶ download               a message, or a part of it
//! /v1/uploads/{id} ─▶ uploads                                                where an interrupted upload stands
//! ```
//! Both ways are streams in bounded memory: what arrives waits for a permit, what leaves waits for the client.

mod announced;
mod conditions;
mod digest;
mod download;
mod health;
mod inflow;
mod origin;
mod refusal;
mod server;
mod target;
mod transfers;
mod upload;
mod uploads;
mod waiting;

pub use health::{Health, Probe};
pub use server::serve;
pub use transfers::Transfers;
pub use waiting::Waiting;
