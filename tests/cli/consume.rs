use std::time::Duration;

use serde_json::{Value, json};

use crate::{command::Session, following::Following};

pub(crate) fn publish(session: &Session, subject: &str, count: u64) {
    let input: Vec<_> = (1..=count).map(|number| number.to_string()).collect();
    session.run_with_input(&format!("publish {subject} --lines"), input.join("\n").as_bytes()).text();
}

/// What the books say of the consumer `w`.
pub(crate) fn books(session: &Session) -> Value {
    session.json("consumer get w").remove(0)
}

/// Waits until something is true of the books of `w`, and gives them.
pub(crate) fn wait_for(session: &Session, is_so: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..200 {
        let books = books(session);
        if is_so(&books) {
            return books;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{}", books(session));
}

#[test]
fn consume_prints_and_acknowledges() {
    let session = Session::start();
    publish(&session, "jobs.eu", 2);
    session.run("publish jobs.us --data third -H kind=late").text();
    insta::assert_snapshot!(session.transcript(&[
        "consume w --limit 1",
        "consume w --filter jobs.> --limit 2",
        "lag w",
        "consume w --limit 1 --ack-wait 5m",
        "consume w --filter jobs.eu --limit 1",
        "consume w --limit 1",
        "lag",
        "-o json lag w",
    ]));
}

#[test]
fn consume_gives_all_of_a_message_as_json() {
    let session = Session::start();
    session.run("publish jobs --data '{}' -H kind=empty").text();
    let mut messages = session.json("consume w --filter jobs --limit 1");
    messages[0]["timestamp"].take();
    let message = json!({
        "subject": "jobs", "sequence": 1, "stream_sequence": 1, "timestamp": null, "headers": { "kind": "empty" },
        "size": 2, "text": "{}", "attempt": 1,
    });
    assert_eq!(messages, [message]);
}

#[test]
fn consume_goes_on_until_it_is_asked_to_stop_and_loses_nothing() {
    let session = Session::start();
    session.run("consumer create w --filter jobs").text();
    for signal in ["-INT", "-TERM"] {
        let mut worker = Following::start(&session, "-o json consume w");
        publish(&session, "jobs", 3);
        for text in ["1", "2", "3"] {
            let message = worker.next();
            assert_eq!((&message["text"], &message["attempt"]), (&json!(text), &json!(1)));
        }
        worker.signal(signal);
        assert_eq!(worker.end(), Some(0));
    }
    let books = books(&session);
    assert_eq!((&books["acked"], &books["lag"], &books["redeliveries"]), (&json!(6), &json!(0), &json!(0)), "{books}");
}

#[test]
fn workers_that_are_killed_have_their_messages_delivered_again() {
    let session = Session::start();
    session.run("consumer create w --filter jobs").text();
    publish(&session, "jobs", 3);
    let hanging = Following::start(&session, "consume w --exec 'exec sleep 3 2> /dev/null' --concurrency 3");
    wait_for(&session, |books| books["unacked"] == 3);
    hanging.signal("-KILL");
    let messages = session.json("consume w --limit 3");
    let attempts: Vec<_> = messages.iter().map(|message| (&message["text"], &message["attempt"])).collect();
    assert_eq!(attempts, [(&json!("1"), &json!(2)), (&json!("2"), &json!(2)), (&json!("3"), &json!(2))]);
}

#[test]
fn files_and_raw_data_are_written_before_they_are_acknowledged() {
    let session = Session::start();
    session.write("in/one.txt", "first");
    session.run("publish files.a -r in").text();
    session.run("publish files.b --data second").text();
    session.run("consume w --filter files.> --limit 2 --to out").text();
    assert_eq!((session.read("out/one.txt"), session.read("out/2")), (b"first".to_vec(), b"second".to_vec()));
    assert_eq!(session.run("consume raw --filter files.> --limit 2 --raw").text(), "firstsecond");
    session.run("publish files.a --data evil -H path=../evil").text();
    let refusal = session.run("consume w --limit 1 --to out").refusal();
    assert!(refusal.contains("leads out of the directory"), "{refusal}");
    let books = books(&session);
    assert_eq!((&books["acked"], &books["redeliverable"]), (&json!(2), &json!(1)), "{books}");
}

#[test]
fn a_consumer_that_is_deleted_ends_its_workers_with_the_reason() {
    let session = Session::start();
    publish(&session, "jobs", 1);
    let mut worker = Following::start(&session, "-o json consume w --filter jobs");
    assert_eq!(worker.next()["sequence"], 1);
    session.run("consumer delete w --yes").text();
    assert_eq!(worker.end(), Some(1));
}

#[test]
fn consume_goes_on_after_a_crash_and_need_not_wait_for_a_broker_that_is_gone() {
    let mut session = Session::start();
    publish(&session, "jobs", 1);
    let mut worker = Following::start(&session, "-o json consume w --filter jobs");
    assert_eq!(worker.next()["text"], "1");
    wait_for(&session, |books| books["acked"] == 1);
    session.broker.crash_and_restart();
    session.run("publish jobs --data second").text();
    let second = worker.next();
    assert_eq!((&second["text"], &second["attempt"]), (&json!("second"), &json!(1)));
    wait_for(&session, |books| books["acked"] == 2);
    session.broker.kill();
    worker.signal("-TERM");
    assert_eq!(worker.end(), Some(0), "all was confirmed");
}
