//! The settings of Tarantool, as `tarantool/init.lua` takes them from the environment, and the probe.

use std::process::{Command, Output};

use minitoolstream_testkit::Tarantool;
use serde_json::{Value, json};

use crate::file;

const THREE: &str = "tarantool-0.tarantool:3301, tarantool-1.tarantool:3301,tarantool-2.tarantool:3301";

fn tarantool(arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("tarantool");
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap()).current_dir(dir.path());
    command.envs(settings.iter().copied()).output().expect("Tarantool starts: tests/run installs it")
}

/// What `box.cfg` is given.
fn read(settings: &[(&str, &str)]) -> Value {
    let modules = file("tarantool/?.lua");
    let script = format!(
        "package.path = '{};' .. package.path io.write(require('json').encode(require('mts.settings').read())) os.exit(0)",
        modules.display()
    );
    let output = tarantool(&["-e", &script], settings);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// Why `init.lua` does not start.
fn refusal(settings: &[(&str, &str)]) -> String {
    let init = file("tarantool/init.lua");
    let output = tarantool(&[init.to_str().unwrap()], settings);
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn p1_three_instances_commit_by_majority_and_sync() {
    let password = [("MTS_PASSWORD", "p"), ("MTS_REPLICATION_PASSWORD", "of-instances")];
    let three = read(&[&password[..], &[("MTS_REPLICATION", THREE)]].concat());
    let cfg = &three["box"];
    let uris = (0..3).map(|at| format!("replicator:of-instances@tarantool-{at}.tarantool:3301"));
    assert_eq!(cfg["replication"], json!(uris.collect::<Vec<_>>()));
    assert_eq!((&cfg["wal_mode"], &cfg["replication_synchro_quorum"]), (&json!("fsync"), &json!(2)));
    assert_eq!((&cfg["election_mode"], &cfg["election_fencing_mode"]), (&json!("candidate"), &json!("soft")));
    assert!(cfg["replication_synchro_timeout"].as_u64().unwrap() > 100_000, "nobody gives a commit up by himself");
    let five = read(&[&password[..], &[("MTS_REPLICATION", "a:1,b:1,c:1,d:1,e:1")]].concat());
    assert_eq!(five["box"]["replication_synchro_quorum"], 3);
    let single = read(&[("MTS_PASSWORD", "p"), ("MTS_REPLICATION", "")]);
    assert_eq!((&single["box"]["wal_mode"], &single["box"]["election_mode"]), (&json!("fsync"), &Value::Null));
}

#[test]
fn settings_that_break_a_rule_are_refused_by_name() {
    let faults = [
        ("a:1,b:1", "s", "MTS_REPLICATION names 2 instances: give 3 to 31"),
        ("a:1,b:1,b:1", "s", "'b:1' is there twice"),
        ("a:1,b,c:1", "s", "'b' is not host:port"),
        ("a:1,b:1,c:1", "", "MTS_REPLICATION_PASSWORD is not set"),
        ("a:1,b:1,c:1", "a@b", "MTS_REPLICATION_PASSWORD may have letters, digits and . _ ~ - only"),
    ];
    for (list, password, fault) in faults {
        let settings = [("MTS_PASSWORD", "p"), ("MTS_REPLICATION", list), ("MTS_REPLICATION_PASSWORD", password)];
        let why = refusal(&settings);
        assert!(why.contains(fault), "{list}: {why}");
    }
    assert!(refusal(&[]).contains("MTS_PASSWORD is not set"));
}

#[test]
fn a_version_without_elections_refuses_several_instances() {
    if Tarantool::version() >= (2, 11) {
        return;
    }
    let settings = [("MTS_PASSWORD", "p"), ("MTS_REPLICATION_PASSWORD", "s"), ("MTS_REPLICATION", THREE)];
    let why = refusal(&settings);
    assert!(why.contains("has no elections") && why.contains("use 2.11"), "{why}");
}

#[test]
fn the_probe_tells_who_answers() {
    let server = Tarantool::start(&[]);
    let (config, probe) = (server.config(), file("tarantool/healthy.lua"));
    let port = server.address().rsplit(':').next().unwrap();
    let ask = |listen: &str, password: &str| {
        tarantool(&[probe.to_str().unwrap()], &[("MTS_LISTEN", listen), ("MTS_PASSWORD", password)])
    };
    for listen in [server.address(), &format!("0.0.0.0:{port}"), port] {
        let output = ask(listen, &config.password);
        assert!(output.status.success(), "{listen}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let refused = ask(server.address(), "another");
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("password"), "{refused:?}");
    let one_of_many = tarantool(
        &[probe.to_str().unwrap()],
        &[("MTS_LISTEN", server.address()), ("MTS_PASSWORD", "new"), ("MTS_REPLICATION", THREE)],
    );
    assert!(one_of_many.status.success(), "its leader has not written the new password yet: {one_of_many:?}");
    assert!(!ask("127.0.0.1:1", &config.password).status.success(), "nobody listens there");
}
