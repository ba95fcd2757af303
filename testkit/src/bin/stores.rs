//! Runs a command while a Tarantool and an S3 server of its own are there, as its environment says: a broker that it starts
//! works over them. Both end with the command.
//!
//! ```sh
//! cargo run -p minitoolstream-testkit --bin stores -- cargo run --release -- bench a b c
//! ```

use std::{
    path::Path,
    process::{Command, ExitCode},
};

use minitoolstream::{
    block::PayloadKey,
    metrics::Metrics,
    store::{
        PayloadStore,
        s3::{S3Payload, Settings},
    },
};
use minitoolstream_testkit::{SeaweedFs, Tarantool, environment};

/// As much as a million messages and their consumers need.
const MEMORY: &str = "1073741824";

#[tokio::main]
async fn main() -> ExitCode {
    let mut command = std::env::args_os().skip(1);
    let Some(program) = command.next() else {
        eprintln!("name a command: cargo run -p minitoolstream-testkit --bin stores -- COMMAND [ARGUMENT]...");
        return ExitCode::FAILURE;
    };
    // Next to what the tests installed.
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tmp");
    let tarantool = Tarantool::start(&[("MTS_WAL_MODE", "fsync"), ("MTS_MEMORY", MEMORY)]);
    let s3 = SeaweedFs::start(&home.to_string_lossy());
    let settings = s3.settings("stores");
    warm_up(&settings).await;
    let environment = environment(&tarantool.config(), &settings);
    match Command::new(&program).args(command).envs(environment).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => {
            eprintln!("{}: {status}", program.display());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{}: {error}", program.display());
            ExitCode::FAILURE
        }
    }
}

/// The first write to a bucket makes SeaweedFS prepare its files for about a second.
async fn warm_up(settings: &Settings) {
    let metrics = Metrics::new(0).expect("metrics are registered once");
    let payload = S3Payload::connect(settings.clone(), metrics).await.expect("SeaweedFS answers");
    payload.append(u64::MAX, vec!["warm".into()]).await.expect("SeaweedFS takes a write");
    payload.delete(PayloadKey::Segment(u64::MAX)).await.expect("SeaweedFS removes it");
}
