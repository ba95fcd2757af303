//! Versions of Tarantool's functions that are not there yet: whom they serve, and what others are told.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use minitoolstream::store::{
    MetadataStore,
    tarantool::{Config, TarantoolMetadata},
};
use minitoolstream_testkit::{Cluster, SETTINGS, SeaweedFs, Tarantool, environment, http};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::version::Version;

/// The present functions with another text in one of their files.
fn functions(file: &str, from: &str, to: &str) -> TempDir {
    let (copy, present) = (tempfile::tempdir().unwrap(), Version::present().modules);
    fs::create_dir(copy.path().join("mts")).unwrap();
    for dir in ["", "mts"] {
        for entry in fs::read_dir(present.join(dir)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, copy.path().join(dir).join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    let changed = copy.path().join(file);
    let text = fs::read_to_string(&changed).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{file} says '{from}'");
    fs::write(changed, text.replace(from, to)).unwrap();
    copy
}

/// Functions of these versions: the present one, and the oldest that they serve.
fn interfaces(present: u64, oldest: u64) -> TempDir {
    let (from, to) = ("INTERFACE, OLDEST = 2, 2", format!("INTERFACE, OLDEST = {present}, {oldest}"));
    functions("mts/facade.lua", from, &to)
}

async fn connect(modules: &Path) -> minitoolstream::Result<(TarantoolMetadata, Tarantool)> {
    let server = Tarantool::start_on(modules, &[]);
    let config = Config { timeout: Duration::from_millis(300), ..server.config() };
    TarantoolMetadata::connect(config).await.map(|metadata| (metadata, server))
}

#[tokio::test]
async fn functions_serve_brokers_of_an_earlier_version() {
    let modules = interfaces(4, 2);
    let (metadata, _server) = connect(modules.path()).await.unwrap();
    metadata.join().await.unwrap();
    assert_eq!(metadata.next_due().await.unwrap(), None);
}

#[tokio::test]
async fn who_is_not_served_is_told_what_to_upgrade() {
    let refusals = [
        (
            (3, 3),
            "its functions have version 3, and serve version 2, which this broker calls, no more: upgrade the broker",
        ),
        ((1, 1), "its functions have version 1, and this broker calls version 2: upgrade Tarantool's modules first"),
    ];
    for ((present, oldest), told) in refusals {
        let refusal = connect(interfaces(present, oldest).path()).await.map(|_| ()).unwrap_err().to_string();
        assert!(refusal.contains(told), "{refusal}");
    }
}

/// A broker, as long as the value lives, that may wait for its stores.
struct Waiting {
    child: Child,
    http: String,
}

impl Waiting {
    fn start(stores: &[(&'static str, String)]) -> Self {
        let http = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new(Version::present().binary);
        command.args(["serve"]).envs(SETTINGS).envs(stores.iter().map(|(name, value)| (name, value)));
        // It tells why after twice this time.
        command.env("TARANTOOL_TIMEOUT", "1s");
        command.env("HTTP_PORT", http.port().to_string()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { child: command.spawn().unwrap(), http: http.to_string() }
    }

    /// Waits until its readiness is this, and the reasons say so.
    async fn tells(&self, status: u16, what: &str) {
        let tells = async {
            while TcpStream::connect(&self.http).await.is_err() || {
                let (found, body) = http::get(&self.http, "/readyz").await;
                found != status || !body.contains(what)
            } {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), tells)
            .await
            .unwrap_or_else(|_| panic!("no {status} with '{what}'"));
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_broker_that_was_upgraded_first_waits_and_says_what_for() {
    let older = interfaces(1, 1);
    let (mut tarantool, s3) = (Tarantool::start_on(older.path(), &[]), SeaweedFs::start(env!("CARGO_TARGET_TMPDIR")));
    let broker = Waiting::start(&environment(&tarantool.config(), &s3.settings("letters")));
    broker.tells(503, "this broker calls version 2: upgrade Tarantool's modules first").await;
    assert_eq!(http::get(&broker.http, "/livez").await.0, 200, "a restart would not mend it");
    tarantool.restart_on(&Version::present().modules);
    broker.tells(200, "").await;
}

#[test]
#[ignore = "needs the version before this one: tests/run builds it"]
fn functions_serve_brokers_that_do_not_tell_their_version() {
    let modules = interfaces(3, 2);
    let tarantool = Tarantool::start_on(modules.path(), &[]);
    let config = tarantool.config();
    // Until it is ready.
    let previous = Version::previous();
    drop(Cluster::over((tarantool, &config), &previous.binary, env!("CARGO_TARGET_TMPDIR"), 1, &[]));
}

#[test]
#[should_panic(expected = "the schema has version 2, and this version of the modules knows 1: use the newer one")]
fn spaces_of_a_later_version_are_refused() {
    let later =
        functions("mts/schema.lua", "local function spaces()", "STEPS[2] = function() end\nlocal function spaces()");
    let mut server = Tarantool::start_on(later.path(), &[]);
    server.restart_on(&Version::present().modules);
}
