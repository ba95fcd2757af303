//! Reading and purging many subjects at a time.

use serde_json::{Value, json};

use crate::{command::Session, consume::publish};

fn session() -> Session {
    let session = Session::start();
    for subject in ["sensors.kitchen", "sensors.attic", "orders", "sensors.kitchen.old"] {
        publish(&session, subject, 2);
    }
    session
}

/// As subject and sequence.
fn named(messages: &[Value]) -> Vec<(&str, u64)> {
    messages.iter().map(|found| (found["subject"].as_str().unwrap(), found["sequence"].as_u64().unwrap())).collect()
}

#[test]
fn patterns_are_read_in_the_order_of_all_messages() {
    let session = session();
    insta::assert_snapshot!(session.transcript(&[
        "fetch sensors.*",
        "fetch sensors.> --limit 5",
        "fetch > --from-stream 4 --limit 2",
        "fetch sensors.* --last",
        "fetch orders --last",
        "fetch nothing.> --last",
        "fetch sensors.* --last --limit 1",
        "fetch sensors.* --raw",
    ]));
    let durable = session.json("fetch sensors.* --durable d --limit 3 --ack");
    assert_eq!(named(&durable), [("sensors.kitchen", 1), ("sensors.kitchen", 2), ("sensors.attic", 1)]);
    assert_eq!(named(&session.json("fetch sensors.* --durable d --all --ack")), [("sensors.attic", 2)]);
    session.run("fetch sensors.* --all --to out").text();
    assert_eq!(session.read("out/2"), b"2", "named by the place in the order of all messages");
    assert_eq!(session.read("out/3"), b"1");
}

#[test]
fn reading_begins_with_a_time() {
    let session = session();
    assert_eq!(session.json("fetch > --since 1h --all").len(), 8);
    assert_eq!(named(&session.json("fetch orders --since 2020-01-31T12:00:00Z")), [("orders", 1), ("orders", 2)]);
    assert_eq!(session.json("fetch > --since 2999-01-01 --all"), Vec::<Value>::new());
    let messages = session.json("fetch > --all");
    let last = messages[7]["timestamp"].as_str().unwrap();
    let since = session.json(&format!("fetch > --since {last} --all"));
    assert!(since.len() <= 2 || messages[5]["timestamp"] == messages[7]["timestamp"], "{since:?}");
    assert_eq!(named(&since).last(), Some(&("sensors.kitchen.old", 2)));
    assert!(session.run("fetch orders --since soon").errors.contains("or how long ago it was, such as 2h"));
}

#[test]
fn a_purge_keeps_the_last_messages() {
    let session = session();
    insta::assert_snapshot!(session.transcript(&[
        "purge sensors.* --keep 1",
        "purge sensors.* --keep 1 --yes",
        "purge sensors.* --keep 1 --yes",
        "fetch sensors.>",
        "purge sensors.> --yes",
        "purge orders --keep 1 --up-to 1 --yes",
        "purge orders --keep 0 --yes",
        "fetch >",
    ]));
    publish(&session, "orders", 1);
    assert_eq!(session.json("purge > --keep 5 -y"), [json!({ "purged": 0 })]);
}
