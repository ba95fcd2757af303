use std::{
    io::{BufRead, BufReader, Write},
    process::Stdio,
    time::Duration,
};

use serde_json::json;

use crate::command::Session;

#[test]
fn publish_tells_sequences() {
    let session = Session::start();
    session.write("one.txt", "first");
    session.write("below/two.json", "{}");
    insta::assert_snapshot!(session.transcript(&[
        "publish orders --data hello",
        "publish orders --data '' -H kind=empty -H origin=eu",
        "publish orders one.txt",
        "publish orders one.txt below/two.json",
        "publish orders --recursive below one.txt",
        "publish orders --data once --message-id m-1",
        "publish orders --data twice --message-id m-1",
        "publish orders --data 'the ninth' --expect-last 8",
        "publish orders --data 'too late' --expect-last 8",
        "publish other --data x --expect-last 0 --ttl 1h",
        "fetch orders --all",
    ]));
}

#[test]
fn publish_tells_sequences_as_json() {
    let session = Session::start();
    session.write("a.txt", "a");
    session.write("b.txt", "b");
    assert_eq!(session.json("publish x --data x"), [json!({ "sequence": 1, "duplicate": false })]);
    assert_eq!(session.json("publish x --data x -m id"), [json!({ "sequence": 2, "duplicate": false })]);
    assert_eq!(session.json("publish x --data x -m id"), [json!({ "sequence": 2, "duplicate": true })]);
    let files = [
        json!({ "sequence": 3, "duplicate": false, "path": "a.txt" }),
        json!({ "sequence": 4, "duplicate": false, "path": "b.txt" }),
    ];
    assert_eq!(session.json("publish x a.txt b.txt"), files);
}

#[test]
fn standard_input_is_one_message_or_one_a_line() {
    let session = Session::start();
    let input = "first\n\nthird, without an end of line".as_bytes();
    assert_eq!(session.run_with_input("publish whole", input).text(), "1\n");
    assert_eq!(session.run("fetch whole --raw").text().as_bytes(), input);
    let binary: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    assert_eq!(session.run_with_input("publish binary", &binary).text(), "1\n");
    assert!(session.run("fetch binary --raw").output == binary);

    let printed = session.run_with_input("publish lines --lines -H from=stdin -m run", input).text();
    assert_eq!(printed, "1\n2\n3\n3 messages are stored\n");
    let again = session.run_with_input("publish lines --lines -m run", b"first\n\nthird, changed\nfourth").text();
    assert_eq!(again, "1 (duplicate)\n2 (duplicate)\n3 (duplicate)\n4\n4 messages are stored\n");
    let lines = session.json("fetch lines");
    let texts: Vec<_> = lines.iter().map(|line| line["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["first", "", "third, without an end of line", "fourth"]);
    assert_eq!(lines[0]["headers"], json!({ "from": "stdin" }));
}

#[test]
fn lines_are_acknowledged_while_the_input_goes_on() {
    let session = Session::start();
    let mut publish =
        session.command("publish feed --lines").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = publish.stdin.take().unwrap();
    let mut printed = BufReader::new(publish.stdout.take().unwrap()).lines();
    for number in 1..=3 {
        writeln!(input, "line {number}").unwrap();
        assert_eq!(printed.next().unwrap().unwrap(), number.to_string());
    }
    drop(input);
    assert!(publish.wait().unwrap().success());
}

#[test]
fn what_was_sent_before_a_refusal_is_told() {
    let session = Session::start_with(&[("LIMITS_UPLOAD_MAX", "8MiB")]);
    let large = "x".repeat((8 << 20) + 1);
    let ended = session.run_with_input("publish mixed --lines", format!("small\n{large}\n").as_bytes());
    assert_eq!(String::from_utf8(ended.output.clone()).unwrap(), "1\n");
    assert_eq!(ended.refusal(), "error: data has 8388609 bytes: at most 8MiB are allowed\n");

    session.write("good", "good");
    session.write("large", large);
    session.write("good too", "good");
    let ended = session.run("publish files good large 'good too'");
    let stored = String::from_utf8(ended.output.clone()).unwrap();
    assert_eq!(
        ended.refusal(),
        "error: 'large' was not published: data has 8388609 bytes or more: at most 8MiB are allowed\n"
    );
    assert_eq!(stored.lines().next(), Some("1  good"));
    assert_eq!(session.json("subjects files")[0]["accepted"], stored.lines().count());

    let ended = session.run("publish none good missing");
    assert_eq!(ended.output, b"");
    ended.refusal();
    assert_eq!(session.json("subjects none"), Vec::<serde_json::Value>::new(), "nothing is sent before all are found");
}

#[test]
fn messages_end_with_their_ttl() {
    let session = Session::start();
    session.run("publish brief --data gone --ttl 300ms").text();
    session.run("publish brief --data stays --ttl 1h").text();
    std::thread::sleep(Duration::from_millis(400));
    let left: Vec<_> = session.json("fetch brief").iter().map(|message| message["sequence"].clone()).collect();
    assert_eq!(left, [2]);
}

#[test]
fn files_keep_their_paths_types_and_headers() {
    let session = Session::start();
    session.write("site/index.html", "<p>");
    session.write("site/img/a.png", [0x89, 0x50, 0xff]);
    session.write("site/img/no extension", "");
    let printed = session.json("publish site --recursive site -H version=7");
    let paths: Vec<_> = printed.iter().map(|line| line["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["img/a.png", "img/no extension", "index.html"]);
    let messages = session.json("fetch site");
    let types: Vec<_> = messages.iter().map(|message| message["headers"]["content-type"].as_str().unwrap()).collect();
    assert_eq!(types, ["image/png", "application/octet-stream", "text/html"]);
    assert!(messages.iter().all(|message| message["headers"]["version"] == "7"));
    assert_eq!((&messages[0]["base64"], &messages[1]["text"]), (&json!("iVD/"), &json!("")));
}
