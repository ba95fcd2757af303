//! Payload in S3 as brokers use it: uploads that are interrupted, deletions that leave nothing behind, large objects in
//! little memory, and a network that fails. The server is real; faults are put between it and the store.
#![allow(clippy::unwrap_used)]

mod deletion;
mod faults;
mod memory;
mod resume;
mod rig;
mod start;
