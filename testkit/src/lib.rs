//! Real brokers for tests: in this process ([`TestBroker`]) or as the binary that users run ([`Process`]). And what is
//! around them: a network that breaks ([`Proxy`]), a real S3 server ([`SeaweedFs`]), and one that fails ([`FaultProxy`]).
//!
//! Ports are chosen by the system, data lives in a temporary directory or on a [`SmallDisk`], and everything ends with
//! the value.

// A test that cannot set up its broker has failed: it says so by panicking.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

mod broker;
mod cluster;
mod disk;
mod fault_proxy;
/// A plain HTTP client.
pub mod http;
mod process;
mod proxy;
mod replicas;
mod seaweedfs;
mod tarantool;
mod virtualenv;

pub use broker::TestBroker;
pub use cluster::Cluster;
pub use disk::SmallDisk;
pub use fault_proxy::{Fault, FaultProxy};
pub use process::Process;
pub use proxy::{Proxy, Towards};
pub use replicas::Replicas;
pub use seaweedfs::SeaweedFs;
pub use tarantool::Tarantool;
pub use virtualenv::Virtualenv;

use minitoolstream::store;

/// Settings for tests: free ports, a short reaper interval, no reserve of disk space.
pub const SETTINGS: [(&str, &str); 6] = [
    ("SERVER_PORT", "0"),
    ("EGRESS_PORT", "0"),
    ("HTTP_PORT", "0"),
    ("REAPER_INTERVAL", "50ms"),
    ("REAPER_GRACE", "0s"),
    ("DATA_FREE_MIN", "0"),
];

/// What tells a broker of its shared stores, as environment variables.
pub fn environment(metadata: &store::tarantool::Config, payload: &store::s3::Settings) -> Vec<(&'static str, String)> {
    vec![
        ("TARANTOOL_ADDRESS", metadata.addresses.join(",")),
        ("TARANTOOL_PASSWORD", metadata.password.clone()),
        ("MINIO_ENDPOINT", payload.endpoint.clone()),
        ("MINIO_ACCESS_KEY_ID", payload.access_key.clone()),
        ("MINIO_SECRET_ACCESS_KEY", payload.secret_key.expose().to_owned()),
        ("MINIO_BUCKET_NAME", payload.bucket.clone()),
    ]
}

/// Settings of a test over [`SETTINGS`]: the last of a name counts.
fn lookup(extra: &[(String, String)], name: &str) -> Option<String> {
    let extra = extra.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    extra.or_else(|| SETTINGS.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into()))
}

fn owned(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    settings.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}
