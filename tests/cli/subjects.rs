use serde_json::{Value, json};

use crate::command::Session;

fn session() -> Session {
    let session = Session::start();
    for (subject, messages) in [("logs.eu.app", 3), ("logs.us.app", 1), ("logs.us.db.slow", 1), ("orders", 2)] {
        for number in 1..=messages {
            session.run(&format!("publish {subject} --data {number}")).text();
        }
    }
    session
}

fn names(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["subject"].as_str().unwrap()).collect()
}

#[test]
fn subjects_are_listed_with_their_books() {
    let session = session();
    session.run("purge orders --yes --up-to 1").text();
    insta::assert_snapshot!(session.transcript(&["subjects", "subjects 'logs.*.app'", "subjects nothing"]));
    let mut orders = session.json("subjects orders");
    let published = orders[0]["last_publish"].take();
    assert_eq!(published.as_str().unwrap().len(), 24);
    let bytes = orders[0]["bytes"].take();
    assert!(bytes.as_u64().unwrap() > 0);
    let books = json!({
        "subject": "orders", "first_sequence": 2, "last_sequence": 2, "accepted": 2, "live": 1, "expired": 0,
        "purged": 1, "bytes": null, "last_publish": null,
    });
    assert_eq!(orders, [books]);
}

#[test]
fn filters_choose_subjects() {
    let session = session();
    let all = ["logs.eu.app", "logs.us.app", "logs.us.db.slow", "orders"];
    for (filter, chosen) in [
        ("", &all[..]),
        (">", &all[..]),
        ("logs.>", &all[..3]),
        ("logs.us.>", &all[1..3]),
        ("logs.*.app", &all[..2]),
        ("*", &all[3..]),
        ("logs", &[]),
        ("logs.us", &[]),
    ] {
        assert_eq!(names(&session.json(&format!("subjects '{filter}'"))), chosen, "{filter}");
    }
}

#[test]
fn purge_removes_what_it_says_and_sequences_go_on() {
    let session = session();
    insta::assert_snapshot!(session.transcript(&[
        "purge logs.eu.app",
        "purge logs.eu.app --up-to 2 --yes",
        "purge logs.eu.app --up-to 2 --yes",
        "fetch logs.eu.app",
        "purge logs.eu.app -y",
        "fetch logs.eu.app",
        "publish logs.eu.app --data again",
        "purge nobody.published.here --yes",
    ]));
    assert_eq!(session.json("purge orders --yes"), [json!({ "purged": 2 })]);
    let listed = session.json("subjects orders");
    assert_eq!((&listed[0]["live"], &listed[0]["last_sequence"]), (&json!(0), &json!(2)));
}

#[test]
fn purge_does_not_take_an_answer_from_a_pipe() {
    let session = session();
    let ended = session.run_with_input("purge orders", b"y\n");
    assert_eq!(ended.refusal(), "error: nobody can be asked here: add --yes to purge 'orders'\n");
    assert_eq!(session.json("subjects orders")[0]["live"], 2);
}
