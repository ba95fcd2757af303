//! What pods do that are clients: their commands, given to real brokers.

use std::process::Command;

use minitoolstream_testkit::Process;
use serde_json::Value;

use crate::{object::containers, rendering::Rendering, tools::output};

/// The command of a container, at a broker of this process.
fn command(container: &Value, broker: &Process) -> Command {
    let address = container["env"][0]["value"].as_str().unwrap();
    assert_eq!(container["env"][0]["name"], "MINITOOLSTREAM_ADDRESS");
    let role = if address.contains("ingress") { "ingress" } else { "egress" };
    let port = if role == "ingress" { 50051 } else { 50052 };
    assert_eq!(address, format!("http://minitoolstream-{role}-service:{port}"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_minitoolstream"));
    command.args(container["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap()));
    command.env_clear().env("MINITOOLSTREAM_ADDRESS", format!("http://{}", broker.address(role)));
    command
}

#[test]
fn the_charts_test_reads_what_it_published() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Process::start(env!("CARGO_BIN_EXE_minitoolstream"), dir.path(), &[]);
    let chart = Rendering::of_chart(None, &[]);
    let pod = chart.find("Pod", "minitoolstream-round-trip").pod().unwrap();
    let said: Vec<_> = containers(pod).into_iter().map(|container| output(&mut command(container, &broker))).collect();
    assert_eq!(said.len(), 2);
    assert!(said[1].contains("it works"), "{said:?}");
}

#[test]
fn the_load_is_taken_by_an_ingress() {
    let dir = tempfile::tempdir().unwrap();
    let settings = [("SERVER_ROLE", "ingress")];
    let broker = Process::start(env!("CARGO_BIN_EXE_minitoolstream"), dir.path(), &settings);
    let load = Rendering::of("kustomize/load");
    let mut container = containers(load.find("Job", "minitoolstream-load").pod().unwrap())[0].clone();
    let duration = container["args"].as_array_mut().unwrap().iter_mut().find(|argument| *argument == "5m").unwrap();
    *duration = "500ms".into();
    let report = output(command(&container, &broker).args(["--output", "json"]));
    let rows: Vec<Value> = report.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.len() == 2 && rows.iter().all(|row| row["messages"].as_u64().unwrap() > 0), "{report}");
}
