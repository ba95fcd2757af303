//! Several brokers over one Tarantool and one S3 server: the promises hold whoever is killed, frozen or slow.
#![allow(clippy::unwrap_used)]

mod basics;
mod chaos;
mod failover;
mod large;
mod load;

use minitoolstream_testkit::Cluster;

/// Two brokers of each role.
fn start(settings: &[(&str, &str)]) -> Cluster {
    Cluster::start(env!("CARGO_BIN_EXE_minitoolstream"), env!("CARGO_TARGET_TMPDIR"), 2, settings)
}
