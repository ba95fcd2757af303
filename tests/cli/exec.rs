//! Commands that are run for messages.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    command::Session,
    consume::{books, publish, wait_for},
    following::Following,
};

/// Waits for a file that a command makes.
fn wait_for_file(session: &Session, name: &str) {
    for _ in 0..500 {
        if session.dir.path().join(name).exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("nobody made '{name}'");
}

#[test]
fn a_command_gets_the_message() {
    let session = Session::start();
    session.run("publish jobs.eu --data 'some data' -H content-type=text/plain -H 'note=two words'").text();
    let show = "env | grep ^MTS_ | grep -v ^MTS_TIME | sort; echo \"at $MTS_TIME\"; cat; echo";
    insta::assert_snapshot!(session.transcript(&[&format!("consume w --filter jobs.> --limit 1 --exec '{show}'")]));
    let large: Vec<u8> = (0..=250).cycle().take(5 << 20).collect();
    session.write("large", &large);
    session.run("publish jobs.us large").text();
    session.run("consume w --limit 1 --exec 'cat > copy'").text();
    assert!(session.read("copy") == large);
    session.run("publish jobs.us large").text();
    session.run("consume w --limit 1 --exec 'head -c 1 > first'").text();
    assert_eq!(session.read("first"), [0], "a command need not read all");
    assert_eq!(books(&session)["acked"], 3);
}

#[test]
fn its_exit_code_is_the_answer() {
    let session = Session::start();
    publish(&session, "jobs", 3);
    session.run("consumer create w --filter jobs --back-off 100ms").text();
    let command = "case $MTS_SEQUENCE.$MTS_ATTEMPT in 2.1) exit 7;; 3.*) exit 100;; esac";
    let mut answers = session.json(&format!("consume w --limit 4 --exec '{command}'"));
    // What waits for its back-off is overtaken.
    answers.sort_by_key(|answer| (answer["sequence"].as_u64(), answer["attempt"].as_u64()));
    let answer = |sequence: u64, attempt: u64, answer: &str, code: i32| {
        json!({
            "subject": "jobs", "sequence": sequence, "attempt": attempt, "answer": answer, "exit_code": code,
            "error": null,
        })
    };
    let expected =
        [answer(1, 1, "ack", 0), answer(2, 1, "nak", 7), answer(2, 2, "ack", 0), answer(3, 1, "terminate", 100)];
    assert_eq!(answers, expected);
    let books = books(&session);
    let numbers = ["acked", "dead_lettered", "lag"].map(|name| books[name].as_u64().unwrap());
    assert_eq!(numbers, [2, 1, 0], "{books}");
}

#[test]
fn what_a_command_does_not_do_is_told() {
    let session = Session::start();
    publish(&session, "jobs", 3);
    insta::assert_snapshot!(session.transcript(&[
        "consume w --filter jobs --limit 1 --exec 'exit 7'",
        "consume w --limit 1 --exec 'exit 100'",
        "consume w --limit 1 --exec 'kill -KILL $$'",
    ]));
    assert_eq!(books(&session)["dead_lettered"], 1);
}

#[test]
fn several_commands_run_at_a_time_and_leases_outlast_them() {
    let session = Session::start();
    publish(&session, "jobs", 4);
    session.run("consumer create w --filter jobs --ack-wait 500ms").text();
    let begun = std::time::Instant::now();
    let answers = session.json("consume w --limit 4 --concurrency 4 --exec 'sleep 1.5'");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(answers.iter().all(|answer| answer["answer"] == "ack" && answer["error"] == Value::Null), "{answers:?}");
    let books = books(&session);
    assert_eq!((&books["acked"], &books["deliveries"]), (&json!(4), &json!(4)), "{books}");
}

#[test]
fn a_stop_lets_commands_come_to_their_end() {
    let session = Session::start();
    publish(&session, "jobs", 5);
    session.run("consumer create w --filter jobs").text();
    let command = "touch begun.$MTS_SEQUENCE; while ! test -e go; do sleep 0.02; done";
    let mut worker = Following::start(&session, &format!("consume w --concurrency 2 --exec '{command}'"));
    wait_for_file(&session, "begun.1");
    wait_for_file(&session, "begun.2");
    worker.signal("-TERM");
    // It takes nothing more, and others get the rest.
    let rest = session.json("consume w --limit 3");
    let rest: Vec<_> = rest.iter().map(|message| (&message["text"], &message["attempt"])).collect();
    assert_eq!(rest, [(&json!("3"), &json!(1)), (&json!("4"), &json!(1)), (&json!("5"), &json!(1))]);
    assert!(worker.goes_on());
    session.write("go", "");
    assert_eq!(worker.end(), Some(0));
    assert!(!session.dir.path().join("begun.3").exists(), "it began with nothing more");
    let books = books(&session);
    assert_eq!((&books["acked"], &books["redeliveries"]), (&json!(5), &json!(0)), "{books}");
}

#[test]
fn a_second_stop_ends_commands() {
    let session = Session::start();
    publish(&session, "jobs", 1);
    session.run("consumer create w --filter jobs --back-off 1h").text();
    let worker = Following::start(&session, "consume w --exec 'touch begun; sleep 60; touch ended'");
    wait_for_file(&session, "begun");
    worker.signal("-TERM");
    worker.signal("-INT");
    assert_eq!(worker.end(), Some(1));
    assert!(!session.dir.path().join("ended").exists());
    let books = wait_for(&session, |books| books["unacked"] == 0);
    assert_eq!(books["acked"], 0, "{books}");
    assert_eq!(books["redeliverable"], 1, "{books}");
}
