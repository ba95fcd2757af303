//! Clients of the first version keep working: with stubs made from the API as it was (`legacy.proto`), every call means
//! what it meant. Python's gRPC stands for any client that is not ours.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, path::Path};

use minitoolstream_testkit::{Process, Virtualenv};
use serde_json::{Value, json};

/// What the client is written with. All packages of gRPC share one version.
const GRPC_VERSION: &str = "1.76.0";
const PACKAGES: [&str; 5] = ["grpcio", "grpcio-tools", "grpcio-status", "grpcio-health-checking", "grpcio-reflection"];
const MODULES: &str = "import grpc, grpc_tools.protoc, grpc_status, grpc_health.v1, grpc_reflection.v1alpha";

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/compat/legacy_client.py");

#[test]
fn clients_that_publish_on_one_port_and_consume_on_the_other() {
    check("ingress", "egress");
}

#[test]
fn clients_that_use_the_ports_the_other_way_round() {
    check("egress", "ingress");
}

fn check(publish: &str, consume: &str) {
    let packages = PACKAGES.map(|package| format!("{package}=={GRPC_VERSION}"));
    let (home, name) = (Path::new(env!("CARGO_TARGET_TMPDIR")), format!("virtualenv-grpcio-{GRPC_VERSION}"));
    let virtualenv = Virtualenv::find_or_make(home, &name, &packages, MODULES);
    let dir = tempfile::tempdir().unwrap();
    let stubs = tempfile::tempdir().unwrap();
    let broker = Process::start(env!("CARGO_BIN_EXE_minitoolstream"), dir.path(), &[]);
    let arguments = [&broker.address(publish), &broker.address(consume), stubs.path().to_str().unwrap()];
    let output = virtualenv.run(Path::new(SCRIPT), &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let mut saw = checks(&String::from_utf8(output.stdout).unwrap());
    let mut wrong = Vec::new();
    for (check, expected) in expected() {
        // Each address is asked about itself; all else is asked once.
        let found = saw.remove(check).unwrap_or_default();
        if found.is_empty() || found.iter().any(|found| *found != expected) {
            wrong.push(format!("{check}: saw {}, not {expected}", Value::from(found)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for version in ["v1", "v1alpha"] {
        let lists = saw.remove(&format!("services listed by reflection {version}")).unwrap();
        assert_eq!(lists.len(), 2);
        for service in ["minitoolstream.IngressService", "minitoolstream.EgressService", "grpc.health.v1.Health"] {
            let lacks = lists.iter().find(|list| !list.as_array().unwrap().contains(&service.into()));
            assert_eq!(lacks, None, "{version} does not list {service}");
        }
    }
    assert_eq!(saw, BTreeMap::new(), "nothing is expected of these");
}

/// What was seen, by check.
fn checks(output: &str) -> BTreeMap<String, Vec<Value>> {
    let mut checks: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in output.lines() {
        let mut line: Value = serde_json::from_str(line).unwrap();
        checks.entry(line["check"].as_str().unwrap().into()).or_default().push(line["saw"].take());
    }
    checks
}

fn expected() -> Vec<(&'static str, Value)> {
    [publishing(), fetching(), acknowledging(), subscribing(), refused(), serving()].concat()
}

fn publishing() -> Vec<(&'static str, Value)> {
    vec![
        (
            "publish answers with the first sequence",
            json!({ "sequence": 1, "object_name": "", "status_code": 0, "error_message": "" }),
        ),
        ("publish takes no data", json!(2)),
        ("publish takes a subject in Unicode", json!(1)),
        ("last sequence", json!([2, 1, 0])),
        ("a large message has a place", json!({ "sequence": 1, "placed": true })),
    ]
}

fn fetching() -> Vec<(&'static str, Value)> {
    let headers = json!({ "content-type": "text/plain", "länge": "größer" });
    vec![
        (
            "fetch gives what was published",
            json!([
                { "subject": "orders.new", "sequence": 1, "data": "one", "headers": headers },
                { "subject": "orders.new", "sequence": 2, "data": "", "headers": {} },
            ]),
        ),
        ("timestamps are of now", json!(true)),
        ("fetch gives Unicode", json!(["événements.日本 é"])),
        ("fetch gives ten when the batch size is 0", json!([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])),
        ("fetch changes nothing", json!([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])),
        ("fetch gives at most the batch size", json!([1, 2, 3])),
        ("fetch of an unknown subject is empty", json!([])),
        ("a message over the default limit does not block the rest", json!([[1, 0], [2, 5]])),
    ]
}

fn acknowledging() -> Vec<(&'static str, Value)> {
    vec![
        ("ack succeeds", json!({ "success": true, "error_message": "" })),
        ("fetch starts after the acked position", json!([5, 6, 7, 8, 9, 10, 11, 12, 13, 14])),
        ("other consumers stay where they are", json!([1])),
        ("an ack of the past succeeds", json!(true)),
        ("positions never move backwards", json!([5])),
        ("an ack beyond the end is refused", invalid(&["sequence"])),
        ("a refused ack moves nothing", json!([5])),
        ("nothing is left after an ack of the last", json!([])),
        ("the next message is there again", json!([15])),
    ]
}

fn subscribing() -> Vec<(&'static str, Value)> {
    let first_is = |sequence| json!({ "first": sequence, "last": sequence, "rising": true, "subject": "news" });
    vec![
        ("subscribe tells of what is there", first_is(3)),
        ("subscribe tells the latest sequence", json!({ "last": 5, "rising": true })),
        ("start_sequence means only beyond it", first_is(6)),
        ("a durable hears only beyond its position", first_is(6)),
        ("the further of both counts", first_is(6)),
        ("start_sequence may lie ahead", first_is(7)),
        ("a durable's lag is told at once", json!(7)),
    ]
}

fn refused() -> Vec<(&'static str, Value)> {
    vec![
        ("publish without a subject", invalid(&["subject"])),
        ("publish to a wildcard", invalid(&["subject"])),
        ("publish to a wildcard of many", invalid(&["subject"])),
        ("publish to a subject of 256 bytes", invalid(&["subject"])),
        ("publish with a reserved header", invalid(&["headers"])),
        ("publish with two faults", invalid(&["subject", "headers"])),
        ("fetch without a subject", invalid(&["subject"])),
        ("fetch of half a wildcard", invalid(&["subject"])),
        ("fetch of a negative batch", invalid(&["batch_size"])),
        ("subscribe without a subject", invalid(&["subject"])),
        ("last sequence of a wildcard", invalid(&["subject"])),
        ("ack without a name", invalid(&["durable_name"])),
        ("ack without a subject", invalid(&["subject"])),
        ("ack of an unknown subject", invalid(&["sequence"])),
    ]
}

fn serving() -> Vec<(&'static str, Value)> {
    vec![
        ("health of ''", json!("SERVING")),
        ("health of 'minitoolstream.IngressService'", json!("SERVING")),
        ("health of 'minitoolstream.EgressService'", json!("SERVING")),
        ("health of an unknown service", json!("NOT_FOUND")),
        ("what the broker's own description lacks or changed", json!([])),
    ]
}

fn invalid(fields: &[&str]) -> Value {
    json!({ "code": "INVALID_ARGUMENT", "fields": fields })
}
