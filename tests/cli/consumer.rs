use serde_json::{Value, json};

use crate::{
    command::Session,
    consume::{books, publish, wait_for},
    following::Following,
};

#[test]
fn consumers_are_looked_after() {
    let session = Session::start();
    publish(&session, "jobs.eu", 3);
    insta::assert_snapshot!(session.transcript(&[
        "consumer list",
        "consumer create w --filter jobs.> --max-deliver 5 --back-off 1s,1m --ack-wait 45s",
        "consumer create w --filter jobs.> --max-deliver 7",
        "consumer create w --filter jobs.*",
        "consumer create other --filter jobs.* --start seq:3",
        "consume w --limit 2 --exec true",
        "consumer get w",
        "consumer list",
        "consumer update w --ack-wait 1s --start all",
        "consumer reset w",
        "consumer delete w",
        "consumer delete w --yes",
        "consumer get w",
        "consumer list",
    ]));
}

#[test]
fn what_is_given_to_an_update_changes_and_the_rest_stays() {
    let session = Session::start();
    publish(&session, "jobs", 3);
    let created = session.json("consumer create w --filter jobs --start seq:2 --max-deliver 5");
    assert_eq!(created[0]["pending"], 2, "{}", created[0]);
    assert_eq!(session.json("consumer create w --filter jobs --start seq:2 --max-deliver 5"), created);
    let updated =
        session.json("consumer update w --max-ack-pending 50 --dead-letter-subject dead.jobs --back-off 1s,90s");
    let mut expected = created[0]["settings"].clone();
    expected["max_ack_pending"] = json!(50);
    expected["dead_letter_subject"] = json!("dead.jobs");
    expected["back_off"] = json!(["1s", "1m 30s"]);
    assert_eq!(updated[0]["settings"], expected);
    session.run("consume w --limit 2 --exec true").text();
    let reset = session.json("consumer reset w --yes --start stream:3");
    assert_eq!((&reset[0]["pending"], &reset[0]["acked"], &reset[0]["cursor"]), (&json!(1), &json!(0), &json!(3)));
    let reset = session.json("consumer reset w --yes");
    assert_eq!((&reset[0]["pending"], &reset[0]["settings"]), (&json!(2), &expected), "where it began");
}

#[test]
fn consumers_are_documents_for_scripts() {
    let session = Session::start();
    let mut created = session.json("consumer create w --filter jobs.> --max-deliver 0").remove(0);
    assert_eq!(created["created"].take().as_str().unwrap().len(), "2026-01-01T00:00:00.000Z".len());
    let settings = json!({
        "filter": "jobs.>", "start": "all", "ack_wait": "30s", "max_deliver": 0, "max_ack_pending": 10_000,
        "back_off": ["1s", "5s", "30s", "2m"], "dead_letter_subject": "$dlq.w", "dead_letter_ttl": "30days",
    });
    let expected = json!({
        "consumer": "w", "created": null, "paused": false, "settings": settings, "workers": 0, "cursor": 1,
        "ack_floor": 1, "pending": 0, "unacked": 0, "redeliverable": 0, "passed": 0, "acked": 0, "dead_lettered": 0,
        "dropped": 0, "expired": 0, "deliveries": 0, "redeliveries": 0, "lag": 0,
    });
    assert_eq!(created, expected);
    assert_eq!(session.json("consumer pause w")[0]["paused"], true);
    assert_eq!(session.json("consumer resume w")[0]["paused"], false);
    assert_eq!(session.json("consumer list").len(), 1);
    assert_eq!(session.json("consumer delete w -y"), [json!({ "deleted": "w" })]);
    assert_eq!(session.json("consumer list"), Vec::<Value>::new());
}

#[test]
fn a_pause_holds_messages_and_a_reset_brings_them_again() {
    let session = Session::start();
    session.run("consumer create w --filter jobs").text();
    let mut worker = Following::start(&session, "-o json consume w");
    publish(&session, "jobs", 1);
    assert_eq!(worker.next()["text"], "1");
    wait_for(&session, |books| books["acked"] == 1);
    session.run("consumer pause w").text();
    session.run("publish jobs --data second").text();
    let paused = books(&session);
    assert_eq!((&paused["paused"], &paused["pending"], &paused["workers"]), (&json!(true), &json!(1), &json!(1)));
    session.run("consumer resume w").text();
    assert_eq!(worker.next()["text"], "second");
    wait_for(&session, |books| books["acked"] == 2);
    assert_eq!(session.json("consumer reset w --yes")[0]["acked"], 0);
    assert_eq!((&worker.next()["text"], &worker.next()["text"]), (&json!("1"), &json!("second")));
    assert_eq!(worker.interrupt(), Some(0));
}

#[test]
fn many_consumers_are_listed_in_the_order_of_their_names() {
    let session = Session::start();
    let names: Vec<_> = (0..120).map(|number| format!("w{number:03}")).collect();
    for name in names.iter().rev() {
        session.run(&format!("consumer create {name} --filter jobs")).text();
    }
    let listed: Vec<_> = session.json("consumer list");
    assert_eq!(listed.iter().map(|consumer| consumer["consumer"].as_str().unwrap()).collect::<Vec<_>>(), names);
    assert_eq!(session.json("lag").len(), names.len());
}
