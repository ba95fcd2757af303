//! Where consumers begin.

use minitoolstream::{consumer::Start, store::ConsumerChange};

use crate::{
    rig::Rig,
    words::{With, draft, inline, many},
    workers::{from, sequences, take},
};

/// Sequences of the first messages that a new consumer gets, and of what is published after it was made.
async fn begins(rig: &mut Rig, pattern: &str, start: Start) -> Vec<(String, u64)> {
    rig.create("c", from(pattern, start)).await;
    let given = sequences(&rig.step(take("c", 1, 3)).await);
    rig.change("c", ConsumerChange::Delete).await.unwrap();
    given
}

fn named(found: &[(String, u64)]) -> Vec<(&str, u64)> {
    found.iter().map(|(name, sequence)| (name.as_str(), *sequence)).collect()
}

/// Stream: a.x 1-2, b 1, a.y 1, a.x 3-4 (later), a.y 2.
async fn fill(rig: &mut Rig) -> (u64, u64) {
    let early = rig.now.0;
    rig.store([many("a.x", 2), many("b", 1), many("a.y", 1)]).await;
    rig.pass(10);
    let late = rig.now.0;
    rig.store([many("a.x", 2)]).await;
    rig.pass(10);
    rig.store([many("a.y", 1)]).await;
    rig.pause().await;
    (early, late)
}

pub(crate) async fn one_subject_begins_where_it_is_told(rig: &mut Rig) {
    let (early, late) = fill(rig).await;
    let x = "a.x";
    for (start, expected) in [
        (Start::All, vec![(x, 1), (x, 2), (x, 3)]),
        (Start::New, vec![]),
        (Start::Sequence(1), vec![(x, 1), (x, 2), (x, 3)]),
        (Start::Sequence(2), vec![(x, 2), (x, 3), (x, 4)]),
        (Start::Sequence(4), vec![(x, 4)]),
        (Start::Sequence(5), vec![]),
        (Start::StreamSequence(0), vec![(x, 1), (x, 2), (x, 3)]),
        (Start::StreamSequence(2), vec![(x, 2), (x, 3), (x, 4)]),
        (Start::StreamSequence(3), vec![(x, 3), (x, 4)]),
        (Start::StreamSequence(6), vec![(x, 4)]),
        (Start::StreamSequence(99), vec![]),
        (Start::Time(0), vec![(x, 1), (x, 2), (x, 3)]),
        (Start::Time(early + 1), vec![(x, 3), (x, 4)]),
        (Start::Time(late), vec![(x, 3), (x, 4)]),
        (Start::Time(late + 1), vec![]),
    ] {
        assert_eq!(named(&begins(rig, x, start).await), expected, "{start:?}");
    }
}

pub(crate) async fn a_pattern_begins_where_it_is_told(rig: &mut Rig) {
    let (early, late) = fill(rig).await;
    let (x, y) = ("a.x", "a.y");
    for (start, expected) in [
        (Start::All, vec![(x, 1), (x, 2), (y, 1)]),
        (Start::New, vec![]),
        (Start::StreamSequence(2), vec![(x, 2), (y, 1), (x, 3)]),
        (Start::StreamSequence(3), vec![(y, 1), (x, 3), (x, 4)]),
        (Start::StreamSequence(99), vec![]),
        (Start::Time(early), vec![(x, 1), (x, 2), (y, 1)]),
        (Start::Time(early + 1), vec![(x, 3), (x, 4), (y, 2)]),
        (Start::Time(late + 1), vec![(y, 2)]),
        (Start::Time(late + 100), vec![]),
    ] {
        assert_eq!(named(&begins(rig, "a.*", start).await), expected, "{start:?}");
    }
}

pub(crate) async fn what_is_new_comes_after_it_was_made(rig: &mut Rig) {
    rig.store([many("a", 2)]).await;
    rig.create("new", from("a", Start::New)).await;
    rig.create("beyond", from("a", Start::Sequence(5))).await;
    rig.create("stream", from("a", Start::StreamSequence(99))).await;
    rig.create("none", from("none", Start::New)).await;
    rig.pause().await;
    rig.store([many("b", 1), many("a", 2), many("none", 1)]).await;
    assert_eq!(named(&sequences(&rig.step(take("new", 1, 9)).await)), [("a", 3), ("a", 4)]);
    assert_eq!(named(&sequences(&rig.step(take("stream", 1, 9)).await)), [("a", 3), ("a", 4)], "not given yet: new");
    assert_eq!(named(&sequences(&rig.step(take("none", 1, 9)).await)), [("none", 1)]);
    assert!(sequences(&rig.step(take("beyond", 1, 9)).await).is_empty());
    assert_eq!(rig.view("beyond").await.unwrap().counts.passed, 0);
    rig.pause().await;
    rig.store([many("a", 3)]).await;
    assert_eq!(named(&sequences(&rig.step(take("beyond", 1, 9)).await)), [("a", 5), ("a", 6), ("a", 7)]);
}

pub(crate) async fn p8_what_lies_before_the_start_is_not_counted(rig: &mut Rig) {
    let short = draft("a", "short").expires(rig.now.0 + 10);
    rig.store([many("a", 2), inline([short.clone(), short.clone()]), many("a", 3), inline([short]), many("a", 1)])
        .await;
    rig.create("c", from("a", Start::Sequence(6))).await;
    rig.pass(10);
    // What expired before its start does not take it back.
    assert_eq!(named(&sequences(&rig.step(take("c", 1, 9)).await)), [("a", 6), ("a", 7), ("a", 9)]);
    let counts = rig.view("c").await.unwrap().counts;
    assert_eq!((counts.passed, counts.expired), (4, 1));
    rig.change("c", ConsumerChange::Reset(Some(Start::Sequence(4)))).await.unwrap();
    assert_eq!(rig.expire(10).await, (2, 3));
    assert_eq!(rig.view("c").await.unwrap().lag.pending, 5, "4 is gone");
    assert_eq!(named(&sequences(&rig.step(take("c", 1, 9)).await)), [("a", 5), ("a", 6), ("a", 7), ("a", 9)]);
    let counts = rig.view("c").await.unwrap().counts;
    assert_eq!((counts.passed, counts.expired), (6, 2));
    // Nor does it where the start was not there yet.
    rig.create("later", from("a", Start::Sequence(12))).await;
    let short = draft("a", "short").expires(rig.now.0 + 10);
    rig.store([inline([short]), many("a", 3)]).await;
    rig.pass(10);
    assert_eq!(named(&sequences(&rig.step(take("later", 1, 9)).await)), [("a", 12), ("a", 13)]);
    let view = rig.view("later").await.unwrap();
    assert_eq!((view.counts.passed, view.counts.expired, view.sequences), (2, 0, (12, 14)));
}
