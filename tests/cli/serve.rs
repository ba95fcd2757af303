use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use minitoolstream_client::NewMessage;
use minitoolstream_testkit::Process;
use serde_json::json;

use crate::command::{BINARY, Ended, Session, command};

const FREE_PORTS: &str = "--port 0 --egress-port 0 --http-port 0";

fn terminate(child: &mut Child) -> Option<i32> {
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    child.wait().unwrap().code()
}

#[test]
fn serve_tells_where_it_is_and_stops_gracefully() {
    let dir = tempfile::tempdir().unwrap();
    let mut serve = command(dir.path(), &format!("serve {FREE_PORTS}"));
    let mut child = serve.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines: Vec<_> = BufReader::new(child.stdout.take().unwrap()).lines().take(6).map(Result::unwrap).collect();
    let ports: Vec<u16> = lines.iter().flat_map(|line| line.split("127.0.0.1:").skip(1)).map(leading_number).collect();
    let text = ports.iter().fold(lines.join("\n"), |text, port| text.replace(&port.to_string(), "PORT"));
    insta::assert_snapshot!(text.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
    assert!(dir.path().join("data").is_dir(), "without an option, data is kept in ./data");

    let hello = format!("-a http://127.0.0.1:{} publish greetings --data hello", ports[1]);
    assert_eq!(Ended::of(&mut command(dir.path(), &hello)).text(), "1\n");
    assert_eq!(terminate(&mut child), Some(0));
    let mut logs = String::new();
    child.stderr.take().unwrap().read_to_string(&mut logs).unwrap();
    assert!(logs.contains("stopping") && logs.contains("stopped"), "{logs}");
    assert!(!logs.contains('\u{1b}'), "colours are for terminals: {logs}");
}

fn leading_number(text: &str) -> u16 {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().unwrap()
}

#[test]
fn logs_can_be_json() {
    let dir = tempfile::tempdir().unwrap();
    let mut serve = command(dir.path(), &format!("serve {FREE_PORTS}"));
    let mut child = serve.env("LOG_FORMAT", "json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    assert_eq!(terminate(&mut child), Some(0));
    let mut logs = String::new();
    child.stderr.take().unwrap().read_to_string(&mut logs).unwrap();
    let last: serde_json::Value = serde_json::from_str(logs.lines().last().unwrap()).unwrap();
    assert_eq!((&last["level"], &last["fields"]["message"]), (&json!("INFO"), &json!("stopped")));
}

#[test]
fn a_data_directory_has_one_broker() {
    let session = Session::start();
    session.run("publish a --data x").text();
    insta::assert_snapshot!(
        session.transcript(&[&format!("serve --data-dir broker/data {FREE_PORTS}"), "check --data-dir broker/data"])
    );
    assert_eq!(session.json("fetch a")[0]["text"], "x", "the first one is none the worse");
}

#[test]
fn a_taken_port_is_named_with_its_setting() {
    let dir = tempfile::tempdir().unwrap();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap();
    let port = taken.port();
    for (options, setting) in [
        (format!("--port {port} --egress-port 0 --http-port 0"), "server.port"),
        (format!("--port 0 --egress-port {port} --http-port 0"), "server.egress_port"),
        (format!("--port 0 --egress-port 0 --http-port {port}"), "http.port"),
    ] {
        let refusal = Ended::of(&mut command(dir.path(), &format!("serve {options}"))).refusal();
        let expected = format!(
            "error: cannot listen on {taken} ({setting}): Address already in use (os error 98); stop what uses the \
             port, or set {setting} to another (0 lets the system choose)\n"
        );
        assert_eq!(refusal, expected);
    }
    assert!(!dir.path().join("data").exists(), "nothing is made before the ports are there");
}

#[test]
fn what_cannot_be_served_is_refused() {
    let session = Session::start();
    session.write("file", "not a directory");
    session.write("strange/meta.redb", vec![7; 10_000]);
    insta::assert_snapshot!(session.transcript(&[
        &format!("serve --data-dir file {FREE_PORTS}"),
        &format!("serve --data-dir strange {FREE_PORTS}"),
        "serve --host 192.0.2.1 --port 0",
        "serve --host nowhere",
        "serve --port 70000",
    ]));
    let mut serve = session.command(&format!("serve --data-dir other {FREE_PORTS}"));
    insta::assert_snapshot!("log_level", Ended::of(serve.env("LOG_LEVEL", "loud=very=much")).refusal());
}

#[test]
fn data_outlives_the_broker() {
    let mut session = Session::start();
    session.run("publish a --data before -m id").text();
    session.run("ack d a 1").text();
    assert!(session.broker.terminate().success());
    session.broker.restart();
    assert_eq!(session.json("fetch a")[0]["text"], "before");
    assert_eq!(session.json("publish a --data again -m id"), [json!({ "sequence": 1, "duplicate": true })]);
    assert_eq!(session.json("publish a --data after"), [json!({ "sequence": 2, "duplicate": false })]);
    assert_eq!(session.json("fetch a -d d")[0]["text"], "after");
    assert!(fs::exists(Path::new(&session.broker.data_dir()).join("meta.redb")).unwrap());
}

#[tokio::test]
async fn a_broker_that_says_it_is_ready_takes_messages() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let broker = Process::start(BINARY, dir.path(), &[("LOG_LEVEL", "warn")]);
        let publisher = broker.client().publisher();
        let first = publisher.publish(NewMessage::new("a", "first")).await;
        assert_eq!(first.unwrap().sequence, 1);
    }
}
