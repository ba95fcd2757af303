//! Messages of any size: uploads, reads in ranges, and the same rules at every size.
//!
//! `LARGE=1` adds messages of 1 GiB, `ROUNDS=n` sets how often uploads are interrupted.
#![allow(clippy::unwrap_used)]

mod api;
mod interrupted;
mod leases;
mod pattern;
mod quota;
mod ranges;
mod refusals;
mod resume;
mod rules;
mod sizes;
