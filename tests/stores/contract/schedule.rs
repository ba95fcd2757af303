//! Messages that wait for their time.

use minitoolstream::{block::guard::Refusal, types::Timestamp};

use crate::{
    rig::Rig,
    words::{With, draft, inline, many, object, slice, subject},
    workers::on,
};

/// Delivers what is due: the subjects that got something, and whether more is due.
async fn deliver(rig: &Rig, limit: usize) -> (Vec<(String, u64)>, bool) {
    let due = rig.metadata().deliver_due(rig.now, limit).await.unwrap();
    (
        due.raised.into_iter().filter(|(of, _)| !of.is_reserved()).map(|(of, at)| (of.to_string(), at)).collect(),
        due.more,
    )
}

async fn next_due(rig: &Rig) -> Option<Timestamp> {
    rig.metadata().next_due().await.unwrap()
}

pub(crate) async fn p2_a_message_gets_its_sequence_when_it_is_due(rig: &mut Rig) {
    let due = rig.now.0 + 100;
    assert_eq!(next_due(rig).await, None);
    assert_eq!(rig.store([inline([draft("a", "later").due(due)]), many("a", 1)]).await, [0, 1]);
    assert_eq!(rig.live("a").await, [1], "it is not seen");
    assert_eq!(next_due(rig).await, Some(Timestamp(due)));
    rig.pause().await;
    rig.create("c", on("a")).await;
    rig.create("all", on(">")).await;
    assert_eq!(rig.take("c", 1, 9).await.len(), 1);
    assert_eq!(rig.take("all", 1, 9).await.len(), 1);
    rig.store([many("a", 1)]).await;
    rig.pass(99);
    assert_eq!(deliver(rig, 10).await, (vec![], false));
    rig.pass(1);
    assert_eq!(deliver(rig, 10).await, (vec![("a".into(), 3)], false), "behind what came meanwhile");
    assert_eq!(next_due(rig).await, None);
    rig.pause().await;
    assert_eq!(deliver(rig, 10).await, (vec![], false), "once");
    let stored = rig.messages("a").await.remove(2);
    assert_eq!((&*stored.record.data, stored.sequence), (&b"later"[..], 3));
    let attempts = |given: Vec<(u64, u32)>| given.into_iter().map(|(_, attempt)| attempt).collect::<Vec<_>>();
    assert_eq!(attempts(rig.take("c", 1, 9).await), [2, 1, 1]);
    assert_eq!(attempts(rig.take("all", 1, 9).await), [2, 1, 1]);
    assert!(rig.live("$scheduled").await.is_empty());
}

pub(crate) async fn what_is_due_first_goes_first(rig: &mut Rig) {
    let start = rig.now.0;
    let later = |data: &str, millis: u64| inline([draft("a", data).due(start + millis)]);
    rig.store([later("3", 30), later("1", 10), later("2", 20), later("1b", 10)]).await;
    rig.pause().await;
    rig.pass(20);
    assert_eq!(deliver(rig, 2).await, (vec![("a".into(), 2)], true));
    assert_eq!(deliver(rig, 2).await, (vec![("a".into(), 3)], false));
    assert_eq!(next_due(rig).await, Some(Timestamp(start + 30)));
    rig.pass(10);
    deliver(rig, 2).await;
    let data: Vec<_> = rig.messages("a").await.iter().map(|stored| stored.record.data.clone()).collect();
    assert_eq!(data, ["1", "1b", "2", "3"]);
    assert_eq!(rig.books("$scheduled").await, (4, 0, 0, 4));
    rig.store([inline([draft("a", "5").due(start + 40)])]).await;
    rig.pass(10);
    assert_eq!(deliver(rig, 2).await, (vec![("a".into(), 5)], false));
}

pub(crate) async fn p3_every_placement_can_wait(rig: &mut Rig) {
    let due = rig.now.0 + 10;
    let later = |data: &str| draft("a", data).due(due);
    rig.store([inline([later("inline")]), slice([later("slice")]), object(later("object"))]).await;
    rig.seal().await;
    rig.assert_sound().await;
    rig.pause().await;
    rig.pass(10);
    assert_eq!(deliver(rig, 10).await, (vec![("a".into(), 3)], false));
    rig.pause().await;
    for (stored, data) in rig.messages("a").await.iter().zip(["inline", "slice", "object"]) {
        assert_eq!(rig.data(stored).await, data);
    }
    assert!(rig.garbage().await.is_empty());
    assert_eq!(rig.payload_rows().await.iter().map(|row| row.alive).collect::<Vec<_>>(), [1, 1]);
}

pub(crate) async fn an_id_is_known_while_its_message_waits(rig: &mut Rig) {
    let due = rig.now.0 + 5000;
    rig.store([inline([draft("a", "1").id("x").due(due)])]).await;
    rig.pause().await;
    for again in [draft("a", "2").id("x"), draft("a", "3").id("x").due(due)] {
        assert_eq!(rig.refusals([inline([again])]).await, [(0, 0, Refusal::Duplicate(0))], "it has no sequence");
    }
    assert_eq!(rig.store([inline([draft("b", "1").id("x")])]).await, [1]);
    rig.pass(1000);
    assert_eq!(rig.store([inline([draft("a", "4").id("x")])]).await, [1], "its window is over");
}

pub(crate) async fn p5_what_expires_while_it_waits_is_never_delivered(rig: &mut Rig) {
    let (start, late) = (rig.now.0, 50);
    let later = |name: &str, millis| inline([draft(name, "x").due(start + late).expires(start + millis)]);
    rig.store([later("a", 10), later("b", late), later("c", late + 10)]).await;
    rig.pass(10);
    assert_eq!(rig.expire(10).await, (1, 1));
    rig.pause().await;
    rig.pass(40);
    deliver(rig, 10).await;
    assert!(rig.metadata().subject(&subject("a")).await.unwrap().is_none());
    assert_eq!(next_due(rig).await, None);
    if rig.metadata().subject(&subject("b")).await.unwrap().is_some() {
        assert!(rig.live("b").await.is_empty());
    }
    assert_eq!(rig.live("c").await, [1]);
    rig.pass(10);
    rig.expire(10).await;
    assert!(rig.live("c").await.is_empty());
    assert_eq!(rig.row("$scheduled").await.live(), 0);
}
