//! Several brokers over one Tarantool and one S3 server: the promises hold whoever is killed, frozen, cut off or slow.
//!
//! Most files are a suite for one promise, that publishes and consumes through a [`site::Site`] while [`faults`] go on.
#![allow(clippy::unwrap_used)]

mod age;
mod basics;
mod books;
mod damage;
mod durable;
mod expiry;
mod failover;
mod faults;
mod guards;
mod large;
mod ledger;
mod load;
mod memory;
mod order;
mod site;
mod sizes;
mod work;

use minitoolstream_testkit::Cluster;

/// Two brokers of each role.
fn start(settings: &[(&str, &str)]) -> Cluster {
    Cluster::start(env!("CARGO_BIN_EXE_minitoolstream"), env!("CARGO_TARGET_TMPDIR"), 2, settings)
}
