use serde_json::{Value, json};

use crate::command::Session;

fn sequences(messages: &[Value]) -> Vec<u64> {
    messages.iter().map(|message| message["sequence"].as_u64().unwrap()).collect()
}

fn publish_lines(session: &Session, subject: &str, lines: u64) {
    let input: Vec<_> = (1..=lines).map(|line| line.to_string()).collect();
    session.run_with_input(&format!("publish {subject} --lines"), input.join("\n").as_bytes()).text();
}

#[test]
fn fetch_prints_a_table() {
    let session = Session::start();
    session.write("binary", [0xff, 0, 0xfe]);
    session.run_with_input("publish a", "two\nlines, and a tab\t".as_bytes()).text();
    session.run("publish a binary -H b=2 -H a=1").text();
    session.run_with_input("publish a", format!("a{}", "é".repeat(200)).as_bytes()).text();
    session.run("publish a --data ''").text();
    session.run("publish a --data '{\"id\": 1}\u{1b}[2J\u{202e}' -H 'path=new\nline\u{1b}c'").text();
    insta::assert_snapshot!(session.transcript(&[
        "fetch a",
        "fetch a --limit 1",
        "fetch a --from 3 --all",
        "fetch a --from 9",
        "fetch a --from 5 --to out",
        "fetch nobody.published.here",
        "fetch a --durable d --limit 2 --ack",
        "fetch a --durable d --limit 1",
    ]));
}

#[test]
fn fetch_gives_all_of_a_message_as_json() {
    let session = Session::start();
    session.write("f", [0xff]);
    session.run("publish a f").text();
    let mut messages = session.json("fetch a");
    let time = messages[0]["timestamp"].take();
    assert_eq!(time.as_str().unwrap().len(), "2026-01-01T00:00:00.000Z".len());
    let headers = json!({ "path": "f", "content-type": "application/octet-stream" });
    let message = json!({
        "subject": "a", "sequence": 1, "stream_sequence": 1, "timestamp": null, "headers": headers, "size": 1, "base64": "/w=="
    });
    assert_eq!(messages, [message]);
}

#[test]
fn limits_durables_and_acks() {
    let session = Session::start();
    publish_lines(&session, "n", 1234);
    assert_eq!(sequences(&session.json("fetch n")), (1..=10).collect::<Vec<_>>());
    assert_eq!(sequences(&session.json("fetch n --limit 1000 --from 200")), (200..1200).collect::<Vec<_>>());
    assert_eq!(sequences(&session.json("fetch n --all")), (1..=1234).collect::<Vec<_>>());
    assert_eq!(sequences(&session.json("fetch n --durable d --limit 700")), (1..=700).collect::<Vec<_>>());
    assert_eq!(sequences(&session.json("fetch n --durable d --limit 700 --ack")), (1..=700).collect::<Vec<_>>());
    assert_eq!(sequences(&session.json("fetch n --durable d")), (701..=710).collect::<Vec<_>>());
    assert_eq!(sequences(&session.json("fetch n --durable e --limit 1")), [1], "each durable has its own position");
    assert_eq!(sequences(&session.json("fetch n --durable d --all --ack")), (701..=1234).collect::<Vec<_>>());
    assert_eq!(session.json("fetch n --durable d --all --ack"), Vec::<Value>::new());
    assert_eq!(session.json("ack e n 5"), [json!({ "position": 5 })]);
    assert_eq!(session.json("ack e n 3"), [json!({ "position": 5 })], "positions never move backwards");
    insta::assert_snapshot!(session.transcript(&["ack e n 6", "ack e n 2", "ack e n 1235", "fetch n -d e -l 1"]));
}

#[test]
fn raw_is_the_data_and_nothing_else() {
    let session = Session::start();
    for data in ["one,", "", "two\n"] {
        session.run_with_input("publish a", data.as_bytes()).text();
    }
    assert_eq!(session.run("fetch a --raw").text(), "one,two\n");
}

#[test]
fn messages_become_files() {
    let session = Session::start();
    session.write("in/deep/er/file.bin", vec![7; 300_000]);
    session.write("in/empty", "");
    let long = "n".repeat(255);
    session.write(&format!("in/{long}"), "long");
    session.run("publish a -r in").text();
    session.run("publish a --data 'no path'").text();
    session.run("publish a --data absolute -H path=/etc/absolute").text();
    assert_eq!(sequences(&session.json("fetch a --to out")), [1, 2, 3, 4, 5]);
    assert!(session.read("out/deep/er/file.bin") == vec![7; 300_000]);
    assert_eq!(session.read("out/empty"), b"");
    assert_eq!(session.read(&format!("out/{long}")), b"long");
    assert_eq!(session.read("out/4"), b"no path");
    assert_eq!(session.read("out/etc/absolute"), b"absolute", "a path from the root stays below the directory");
    assert_eq!(std::fs::read_dir(session.dir.path().join("out")).unwrap().count(), 5, "nothing is left beside");
}

#[test]
fn no_message_is_written_outside_the_directory() {
    let session = Session::start();
    let paths = ["../evil", "a/../../evil", "/../evil", "a/..", "..", "/", "."];
    for (path, number) in paths.into_iter().zip(1..) {
        let subject = format!("evil.{number}");
        session.run(&format!("publish {subject} --data x -H path={path}")).text();
        let refusal = session.run(&format!("fetch {subject} --to out/in")).refusal();
        assert!(refusal.contains(&format!("has the path '{path}', which leads out of the directory")), "{refusal}");
    }
    assert!(!session.dir.path().join("evil").exists() && !session.dir.path().join("out/evil").exists());

    session.run("publish mixed --data x -H path=../evil").text();
    session.run("publish mixed --data fine -H path=fine").text();
    insta::assert_snapshot!(session.transcript(&["fetch mixed --durable d --all --ack --to out"]));
    session.run("ack d mixed 1").text();
    session.run("fetch mixed --durable d --all --ack --to out").text();
    assert_eq!(session.read("out/fine"), b"fine", "the refusal says how to pass the message");
}

#[test]
fn what_is_published_from_above_can_be_written_below() {
    let session = Session::start();
    session.write("beside/file", "x");
    std::fs::create_dir(session.dir.path().join("here")).unwrap();
    let mut publish = session.command("publish a ../beside/file ./../beside/./file");
    let printed = crate::command::Ended::of(publish.current_dir(session.dir.path().join("here"))).text();
    assert_eq!(printed, "1  beside/file\n2  beside/file\n2 messages are stored\n");
    session.run("fetch a --to out").text();
    assert_eq!(session.read("out/beside/file"), b"x");
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let session = Session::start();
    publish_lines(&session, "n", 5000);
    let mut fetch = session.command("fetch n --all").stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(fetch.stdout.take());
    assert!(fetch.wait().unwrap().success());
}
