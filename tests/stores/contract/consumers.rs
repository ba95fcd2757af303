//! Consumers: made, shown, changed and removed.

use std::time::Duration;

use minitoolstream::{
    Error,
    consumer::{How, Patch, Start},
    store::{ConsumerChange, NewConsumer},
};

use crate::{
    rig::Rig,
    words::{many, subject},
    workers::{LETTER_TTL, close, consumer, from, given, on, take},
};

pub(crate) async fn a_consumer_is_made_once(rig: &mut Rig) {
    rig.store([many("a", 3)]).await;
    let made = rig.create("c", on("a")).await;
    assert_eq!((made.name.as_str(), made.created, made.paused), ("c", rig.now, false));
    assert_eq!((made.cursor, made.ack_floor, made.sequences, made.lag.pending), (1, 1, (1, 1), 3));
    assert_eq!(made.settings.dead_letters, Some(subject("$dlq.c")));
    assert_eq!(made.settings.dead_letter_ttl, LETTER_TTL);
    rig.pass(10);
    let again = rig.create("c", on("a")).await;
    assert_eq!((again.created, again.settings), (made.created, made.settings.clone()), "as it is");
    let refused = rig.create_refused("c", Patch { max_deliver: Some(3), ..on("a") }).await;
    assert!(matches!(&refused, Error::Precondition(why) if why.contains("max_deliver")), "{refused:?}");
    assert!(matches!(rig.create_refused("c", on("b")).await, Error::Precondition(_)));
    assert!(matches!(rig.create_refused("d", Patch::default()).await, Error::Invalid(_)), "no filter");
    assert!(matches!(rig.create_refused("d", from("a.*", Start::Sequence(1))).await, Error::Invalid(_)));
    rig.pause().await;
    assert_eq!(rig.view("c").await.unwrap().settings, made.settings);
    assert!(rig.view("d").await.is_none());
}

pub(crate) async fn p4_settings_and_state_outlive_the_process(rig: &mut Rig) {
    rig.store([many("a", 5)]).await;
    let back_off = vec![Duration::from_millis(7), Duration::from_secs(7)];
    let patch = Patch { back_off: Some(back_off), max_ack_pending: Some(4), max_deliver: Some(0), ..on("a") };
    rig.create("c", patch).await;
    assert_eq!(rig.take("c", 1, 3).await, [(1, 1), (2, 1), (3, 1)]);
    rig.answer("c", 1, &[(2, 1)], How::Ack).await;
    rig.answer("c", 1, &[(3, 1)], How::Nak(Some(Duration::from_millis(50)))).await;
    let before = rig.view("c").await.unwrap();
    assert_eq!((before.workers, before.lag.unacked, before.lag.redeliverable), (1, 1, 1));
    rig.pause().await;
    let after = rig.view("c").await.unwrap();
    assert_eq!((after.settings, after.counts), (before.settings, before.counts));
    assert_eq!((after.cursor, after.ack_floor, after.sequences), (4, 1, (1, 4)));
    assert_eq!((after.workers, after.lag.unacked, after.lag.redeliverable, after.lag.pending), (0, 0, 2, 2));
    assert_eq!(rig.take("c", 2, 9).await, [(1, 2), (4, 1), (5, 1)], "its lease is gone, the delay is not over");
    rig.pass(50);
    assert_eq!(rig.take("c", 2, 9).await, [(3, 2)]);
}

pub(crate) async fn what_is_not_durable_leaves_nothing_behind(rig: &mut Rig) {
    rig.store([many("a", 4)]).await;
    let made = rig.make("c", false, on("a")).await.unwrap();
    assert_eq!(made.settings.dead_letters, None);
    assert_eq!(rig.take("c", 1, 2).await, [(1, 1), (2, 1)]);
    rig.answer("c", 1, &[(1, 1)], How::Terminate("no".into())).await;
    assert_eq!(rig.view("c").await.unwrap().counts.dropped, 1);
    rig.change("c", ConsumerChange::Update(Patch { max_deliver: Some(2), ..Patch::default() })).await.unwrap();
    rig.change("c", ConsumerChange::Pause(true)).await.unwrap();
    rig.change("c", ConsumerChange::Reset(None)).await.unwrap();
    assert!(rig.names("", 10).await.is_empty(), "it is not listed");
    rig.pause().await;
    assert!(rig.view("c").await.is_none());
    rig.make("c", false, on("a")).await.unwrap();
    assert_eq!(rig.take("c", 1, 1).await, [(1, 1)]);
    assert_eq!(rig.take("c", 2, 1).await, [(2, 1)]);
    rig.step(close("c", 1)).await;
    assert!(rig.view("c").await.is_some(), "one worker is left");
    rig.step(close("c", 2)).await;
    assert!(rig.view("c").await.is_none(), "gone with its last worker");
    assert!(matches!(rig.steps([take("c", 1, 1)]).await[..], [Err(Error::NotFound(_))]));
}

pub(crate) async fn settings_can_change(rig: &mut Rig) {
    rig.store([many("a", 4)]).await;
    rig.create("c", on("a")).await;
    let held = rig.take("c", 1, 1).await;
    let wait = Duration::from_millis(500);
    let patch = Patch { ack_wait: Some(wait), max_deliver: Some(1), max_ack_pending: Some(2), ..Patch::default() };
    let changed = rig.change("c", ConsumerChange::Update(patch)).await.unwrap();
    assert_eq!((changed.settings.ack_wait, changed.settings.max_deliver, changed.workers), (wait, 1, 1));
    assert_eq!(rig.take("c", 1, 9).await, [(2, 1)], "two may be out");
    rig.answer("c", 1, &held, How::Ack).await;
    for refused in [
        Patch { filter: on("b").filter, ..Patch::default() },
        Patch { start: Some(Start::New), ..Patch::default() },
        Patch { max_ack_pending: Some(0), ..Patch::default() },
        Patch { dead_letters: Some(subject("a")), ..Patch::default() },
    ] {
        let refused = rig.change("c", ConsumerChange::Update(refused)).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    rig.answer("c", 1, &[(2, 1)], How::Ack).await;
    rig.pause().await;
    assert_eq!(rig.view("c").await.unwrap().settings, changed.settings);
    assert!(matches!(rig.change("d", ConsumerChange::Pause(true)).await, Err(Error::NotFound(_))));
}

pub(crate) async fn p4_a_refused_change_takes_no_lease(rig: &mut Rig) {
    rig.store([many("a", 2)]).await;
    rig.create("c", on("a.*")).await;
    rig.make("memory", false, on("a")).await.unwrap();
    rig.store([many("a.b", 1)]).await;
    let (held, of_memory) = (rig.take("c", 1, 1).await, rig.take("memory", 1, 1).await);
    for name in ["c", "memory"] {
        let patch = Patch { max_ack_pending: Some(0), ..Patch::default() };
        assert!(rig.change(name, ConsumerChange::Update(patch)).await.is_err());
    }
    let reset = rig.change("c", ConsumerChange::Reset(Some(Start::Sequence(1)))).await;
    assert!(matches!(reset, Err(Error::Invalid(_))), "a pattern has no sequences: {reset:?}");
    rig.answer("c", 1, &held, How::Ack).await;
    rig.answer("memory", 1, &of_memory, How::Ack).await;
}

pub(crate) async fn a_paused_consumer_delivers_nothing(rig: &mut Rig) {
    rig.store([many("a", 3)]).await;
    rig.create("c", on("a")).await;
    let held = rig.take("c", 1, 2).await;
    assert!(rig.change("c", ConsumerChange::Pause(true)).await.unwrap().paused);
    rig.answer("c", 1, &held[..1], How::Ack).await;
    rig.pass(100);
    assert_eq!(rig.take("c", 1, 9).await, []);
    rig.pause().await;
    assert!(rig.view("c").await.unwrap().paused);
    assert_eq!(rig.take("c", 1, 9).await, []);
    assert!(!rig.change("c", ConsumerChange::Pause(false)).await.unwrap().paused);
    assert_eq!(rig.take("c", 1, 9).await, [(2, 2), (3, 1)]);
}

pub(crate) async fn a_reset_begins_anew(rig: &mut Rig) {
    rig.store([many("a", 5)]).await;
    rig.create("c", from("a", Start::Sequence(2))).await;
    let held = rig.take("c", 1, 2).await;
    assert_eq!(held, [(2, 1), (3, 1)]);
    let view = rig.change("c", ConsumerChange::Reset(Some(Start::Sequence(4)))).await.unwrap();
    assert_eq!((view.sequences, view.counts.passed, view.lag.unacked, view.lag.pending), ((4, 4), 0, 0, 2));
    let refused = &rig.step(crate::workers::answer("c", 1, &held, &How::Ack)).await.settled;
    assert!(refused.iter().all(|settled| matches!(settled, Err(Error::Precondition(_)))), "{refused:?}");
    rig.pause().await;
    assert_eq!(rig.take("c", 1, 9).await, [(4, 1), (5, 1)]);
    let view = rig.change("c", ConsumerChange::Reset(None)).await.unwrap();
    assert_eq!(view.sequences, (2, 2), "at its own start");
    rig.pause().await;
    assert_eq!(rig.take("c", 1, 9).await, [(2, 1), (3, 1), (4, 1), (5, 1)]);
}

pub(crate) async fn a_deleted_consumer_is_gone(rig: &mut Rig) {
    rig.store([many("a", 3)]).await;
    rig.create("c", on("a")).await;
    rig.take("c", 1, 2).await;
    let last = rig.change("c", ConsumerChange::Delete).await.unwrap();
    assert_eq!(last.counts.passed, 2, "as it was");
    for _ in 0..2 {
        assert!(rig.view("c").await.is_none());
        assert!(matches!(rig.change("c", ConsumerChange::Delete).await, Err(Error::NotFound(_))));
        assert!(matches!(rig.steps([take("c", 1, 1)]).await[..], [Err(Error::NotFound(_))]));
        rig.pause().await;
    }
    assert_eq!(rig.create("c", on("a")).await.counts.passed, 0);
    assert_eq!(rig.take("c", 1, 9).await, [(1, 1), (2, 1), (3, 1)], "another of the same name knows nothing");
}

pub(crate) async fn consumers_are_paged(rig: &mut Rig) {
    let names = ["a", "a-b", "aa", "é", "日本"];
    for name in names {
        rig.create(name, on("x")).await;
    }
    rig.make("memory", false, on("x")).await.unwrap();
    rig.pause().await;
    for limit in [1, 2, 5, 100] {
        let (mut found, mut after) = (Vec::new(), String::new());
        for _ in 0..=names.len() {
            let page = rig.names(&after, limit).await;
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            after.clone_from(last);
            found.extend(page);
        }
        assert_eq!(found, names);
    }
}

pub(crate) async fn p6_durable_consumers_are_limited(rig: &mut Rig) {
    let make = |name: &str, is_durable, consumers_max| {
        let (name, dead_letter_ttl) = (consumer(name), LETTER_TTL);
        let new = NewConsumer { name, is_durable, patch: on("a"), dead_letter_ttl, consumers_max, now: rig.now };
        rig.metadata().create_consumer(new)
    };
    make("a", true, 2).await.unwrap();
    make("b", true, 2).await.unwrap();
    assert!(matches!(make("c", true, 2).await, Err(Error::Exhausted { .. })));
    make("b", true, 2).await.unwrap();
    make("memory", false, 2).await.unwrap();
    make("c", true, 3).await.unwrap();
    rig.change("a", ConsumerChange::Delete).await.unwrap();
    make("d", true, 3).await.unwrap();
    assert!(matches!(make("e", true, 3).await, Err(Error::Exhausted { .. })));
}

pub(crate) async fn workers_share_a_consumer(rig: &mut Rig) {
    rig.store([many("a", 6)]).await;
    rig.create("c", on("a")).await;
    let steps = rig.steps([take("c", 1, 2), take("c", 2, 2), take("c", 1, 1)]).await;
    let given: Vec<_> = steps.iter().map(|step| given(step.as_ref().unwrap())).collect();
    assert_eq!(given, [vec![(1, 1), (2, 1)], vec![(3, 1), (4, 1)], vec![(5, 1)]], "in one transaction");
    assert_eq!(rig.view("c").await.unwrap().workers, 2);
    let steps = rig.steps([close("c", 1), take("c", 2, 9)]).await;
    let given = crate::workers::given(steps[1].as_ref().unwrap());
    assert_eq!(given, [(1, 2), (2, 2), (5, 2), (6, 1)], "what one leaves another takes at once");
    let view = rig.view("c").await.unwrap();
    assert_eq!((view.workers, view.lag.unacked), (1, 6));
    rig.pause().await;
    assert_eq!(rig.take("c", 3, 2).await, [(1, 3), (2, 3)]);
}
