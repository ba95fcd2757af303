use std::{
    io::Write,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::json;

use crate::{command::Session, following::Following};

#[test]
fn subscribe_and_tail_stop_at_their_limit() {
    let session = Session::start();
    for number in 1..=3 {
        session.run(&format!("publish news --data {number}")).text();
    }
    insta::assert_snapshot!(session.transcript(&[
        "subscribe news --limit 1",
        "subscribe news --after 2 --limit 1",
        "ack reader news 1",
        "subscribe news --durable reader --limit 1",
        "tail news --from 2 --limit 2",
        "tail news --from 2 --limit 1 --raw",
    ]));
    assert_eq!(session.json("subscribe news --limit 1"), [json!({ "subject": "news", "sequence": 3 })]);
    let tail = session.json("tail news --from 1 --limit 2");
    assert_eq!((tail.len(), &tail[1]["text"]), (2, &json!("2")));
    session.run("tail news --from 1 --limit 3 --to out").text();
    assert_eq!(session.read("out/3"), b"3");
}

#[test]
fn tail_goes_on_with_what_comes_and_after_a_crash() {
    let mut session = Session::start();
    session.run("publish news --data old").text();
    let mut all = Following::start(&session, "-o json tail news --from 1");
    assert_eq!(all.next()["text"], "old");
    session.run("publish news --data second").text();
    assert_eq!(all.next()["text"], "second");
    let mut fresh = Following::start(&session, "-o json subscribe news --after 2");
    session.broker.crash_and_restart();
    session.run("publish news --data third").text();
    assert_eq!(all.next()["text"], "third", "a broken connection is opened again");
    assert_eq!(fresh.next()["sequence"], 3);
    assert_eq!((all.interrupt(), fresh.interrupt()), (Some(0), Some(0)));
}

/// Publishes numbers to `news`, one about every millisecond, until told to stop.
fn publish_on_and_on(session: &Session, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    let mut lines = session.command("publish news --lines");
    let mut publish = lines.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    std::thread::spawn(move || {
        let mut input = publish.stdin.take().unwrap();
        for number in 0..100_000 {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            writeln!(input, "{number}").unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(input);
        assert!(publish.wait().unwrap().success());
    })
}

#[test]
fn following_begins_now_and_ends_with_an_interrupt() {
    let session = Session::start();
    session.run("publish news --data old").text();
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = publish_on_and_on(&session, stop.clone());
    for _ in 0..10 {
        let mut tail = Following::start(&session, "-o json tail news");
        let mut subscribe = Following::start(&session, "-o json subscribe news --after 1");
        assert_ne!(tail.next()["text"], "old");
        assert!(subscribe.next()["sequence"].as_u64() > Some(1));
        assert_eq!((tail.interrupt(), subscribe.interrupt()), (Some(0), Some(0)), "each ends by itself");
    }
    stop.store(true, Ordering::Relaxed);
    publisher.join().unwrap();
}
