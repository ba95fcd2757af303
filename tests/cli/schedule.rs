//! Messages that wait for their time.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{command::Session, following::Following};

#[test]
fn a_delayed_message_comes_at_its_time() {
    let session = Session::start();
    let mut tail = Following::start(&session, "-o json tail a --from 1");
    let begun = Instant::now();
    insta::assert_snapshot!(session.transcript(&[
        "publish a --data later --delay 2s",
        "publish a --data now",
        "publish a --data 'long ago' --at 2020-01-31T12:00:00Z",
        "publish b --data 'in a while' --delay 1d -m once",
        "publish b --data again --delay 1d -m once",
        "publish b --data never --at 2100-01-01",
        "fetch b",
    ]));
    assert_eq!(session.json("publish b --data x --delay 1d"), [json!({ "scheduled": true, "duplicate": false })]);
    assert_eq!((&tail.next()["text"], &tail.next()["text"]), (&json!("now"), &json!("long ago")));
    let later = tail.next();
    assert_eq!((&later["text"], &later["sequence"]), (&json!("later"), &json!(3)), "its sequence is of that moment");
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn scheduled_messages_outlive_the_broker_and_reach_consumers() {
    let mut session = Session::start();
    session.run("publish jobs --data later --delay 500ms").text();
    session.broker.crash_and_restart();
    let message = session.json("consume w --filter jobs --limit 1").remove(0);
    assert_eq!((&message["text"], &message["sequence"]), (&json!("later"), &json!(1)));
}
