//! MiniToolStream: a message stream for messages of any size.
//!
//! One message's way in and out:
//!
//! 1. `grpc/ingress.rs` or `grpc/publish_stream.rs` receives it; `broker/validate.rs` turns it into a draft;
//!    `admission.rs` makes it wait for a permit.
//! 2. `actors/publisher.rs` gathers drafts while a commit is in flight; `block/batch.rs` forms them into blocks.
//! 3. `actors/storage.rs` stores large bodies (`store/payload.rs`), then commits all blocks in one transaction
//!    (`store/metadata.rs`): there a message gets its sequence. Then it answers.
//!    A large one comes in pieces (`broker/upload/`): its bytes are an object before its draft goes this way.
//! 4. `actors/heads.rs` tells who waits for the subject; `actors/subscriber.rs` wakes up.
//! 5. `store/reader.rs` finds the block, verifies its checksum and takes records out of it; `grpc/egress.rs` and
//!    `grpc/follow.rs` send them, through `grpc/outlet.rs`, which waits for slow clients. `broker/read.rs` reads one of any
//!    size, part by part.
//! 6. Or workers share it: `grpc/consume/` takes a step for a worker (`consumer/`, inside the store's transaction): what it
//!    answered is settled, and what it takes next is leased.
//! 7. `actors/reaper.rs` removes what expired, first rows, then bytes.
//!
//! Over HTTP, `http/upload.rs` and `http/download.rs` do the same for people and browsers, through `broker/`.
//!
//! The stores are embedded (`store/embedded/`) or shared by many brokers (`store/tarantool/`, `store/s3/`); then
//! `actors/follower.rs` hears what others commit.
//!
//! `app.rs` wires all this, `actors/supervise.rs` keeps the actors alive, `main.rs` and `cli/` are the command line.

pub mod actors;
pub mod admission;
pub mod app;
pub mod block;
pub mod broker;
pub mod config;
pub mod consumer;
pub mod error;
pub mod grpc;
pub mod http;
pub mod metrics;
pub mod opened;
pub mod shutdown;
pub mod store;
pub mod types;

pub use error::{Error, Result};
