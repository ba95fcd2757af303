//! Messages of any size through the client library: uploads, reads and files, and the network breaking under them.
#![allow(clippy::unwrap_used)]

mod leases;
mod reading;
mod refusals;
mod resuming;
mod saving;
mod sizes;
mod world;
