//! Consumers that share work: who has which message, until when, and what comes next.
//!
//! ```text
//!                cursor moves over it          settled: acked, dead-lettered, dropped, expired
//!  not delivered ───────────────▶ LEASED ─────────────────────────────────────────────▶ gone
//!                                 │    ▲
//!      nak, ack wait over,        │    │ due, and a worker has credit: attempt + 1
//!      worker gone, release       ▼    │
//!                                WAITING (due now, or after a delay)
//! ```
//! A message is named by its stream sequence. A lease is (stream sequence, worker's session, attempt): an answer that
//! names another is refused, so that a message has one owner (P4). After the last attempt a message becomes a dead letter
//! instead of waiting again.
//!
//! Everything here is a plain function over plain state. Time is an argument, and what is stored comes through
//! [`Source`]; so a store can run a step inside its own transaction.

mod backoff;
mod begin;
mod counts;
mod deliver;
mod lag;
mod pending;
mod post;
pub mod row;
mod settings;
mod state;
mod step;
pub mod window;

use std::time::Duration;

pub use begin::{Places, beginning};
pub use counts::Counts;
pub use lag::{Lag, Standing};
pub use post::Posted;
pub use settings::{Patch, Settings, Start, WAIT_MAX};
pub use state::Consumer;
pub use step::{Given, How, Letter, Reason, Run, Session, Settle, Source, Step, Stepped, Want};

/// Messages that may be out over all consumers of a broker: about 150 bytes of memory each.
pub const LEASES_MAX: usize = 1_000_000;

/// How long a consumer that is not durable may be without a worker.
pub const JOINING_MAX: Duration = Duration::from_secs(60);
