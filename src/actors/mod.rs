//! The actors, and how a message passes them.
//!
//! ```text
//!            Publish            Commit              HeadMoved
//! gRPC ──────────────▶ publisher ─────▶ storage ─ ─ ─ ─ ─ ─ ▶ subscriber ──▶ gRPC stream
//!   ▲                  (one a shard)     │   ▲
//!   └────────── results ─────────────────┘   └─ Ack, TakeStep ── gRPC
//!
//! reaper: expiry, garbage, message ids     scheduler: messages that wait for their time
//! ```
//!
//! Each lives on a thread of its own (subscribers share a few), so that a hang of one stops no other. All are rebuilt
//! by [`supervise`] after a panic or a hang; who waits for an answer then learns that the outcome is unknown.

pub mod follower;
pub mod handle;
pub mod heads;
pub mod instances;
mod job;
pub mod lag;
mod parcel;
pub mod publisher;
pub mod reaper;
pub mod rings;
pub mod scheduler;
pub mod storage;
pub mod subscriber;
pub mod supervise;
pub mod threads;

pub use parcel::Parcel;
