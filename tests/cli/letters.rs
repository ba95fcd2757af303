//! Dead letters.

use serde_json::json;

use crate::command::Session;

/// A session whose consumer `w` gave up three messages.
fn session() -> Session {
    let session = Session::start();
    session.run("publish jobs.eu --data first -H kind=good").text();
    session.run("publish jobs.us --data 'second\u{1b}[2J'").text();
    session.write("third", [0xff, 0]);
    session.run("publish jobs.us third").text();
    // The first waits for its back-off while the others are given up.
    session.run("consumer create w --filter jobs.> --back-off 2s --max-deliver 2").text();
    let ended = session.run("consume w --limit 4 --exec 'test $MTS_STREAM_SEQUENCE = 1 || exit 100; exit 1'");
    assert_eq!(ended.code, 0, "{}", ended.errors);
    session
}

#[test]
fn dead_letters_are_listed_shown_and_published_again() {
    let session = session();
    insta::assert_snapshot!(session.transcript(&[
        "dlq list w",
        "dlq show w 1",
        "dlq show w 2",
        "dlq show w 9",
        "dlq redrive w 1 9",
        "dlq redrive w --all --to jobs.repaired",
        "dlq list w",
        "fetch jobs.> --all",
        "-o json dlq redrive w 1",
    ]));
}

#[test]
fn dead_letters_are_documents_for_scripts() {
    let session = session();
    assert_eq!(session.json("dlq list w --from 2").len(), 2);
    assert_eq!(session.json("dlq list w --from 2 --limit 1").len(), 1);
    let mut letter = session.json("dlq list w").remove(0);
    for name in ["time", "original_time"] {
        assert_eq!(letter[name].take().as_str().unwrap().len(), "2026-01-01T00:00:00.000Z".len(), "{name}");
    }
    let expected = json!({
        "sequence": 1, "original_subject": "jobs.us", "original_sequence": 1, "original_time": null,
        "reason": "terminated", "detail": "exit code 100", "attempts": 1, "consumer": "w", "time": null, "size": 10,
    });
    assert_eq!(letter, expected);
    assert_eq!(session.run("dlq show w 2 --raw").output, [0xff, 0]);
    let shown = session.json("dlq show w 3").remove(0);
    assert_eq!((&shown["text"], &shown["headers"]["Mts-Reason"]), (&json!("first"), &json!("max-deliver")), "{shown}");
}

#[test]
fn letters_of_a_consumer_that_is_gone_are_found_by_their_subject() {
    let session = session();
    session.run("consumer delete w --yes").text();
    let refusal = session.run("dlq list w").refusal();
    assert!(refusal.contains("--subject '$dlq.w'"), "{refusal}");
    assert_eq!(session.json("dlq list w --subject $dlq.w").len(), 3);
    let redriven = session.json("dlq redrive w --subject $dlq.w --all");
    assert_eq!(redriven, [json!({ "redriven": 3, "not_found": [] })]);
    let back = session.json("fetch jobs.> --from-stream 7 --all");
    assert_eq!(back.len(), 3, "{back:?}");
    assert!(back.iter().any(|message| message["headers"] == json!({ "kind": "good" })), "as they were: {back:?}");
}
