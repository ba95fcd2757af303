//! Conditions of a commit: a group passes whole or writes nothing.

use minitoolstream::{
    block::{
        PayloadKey,
        guard::{RecordAt, Refusal},
    },
    store::{Committed, Writer},
};

use crate::{
    rig::Rig,
    words::{With, ack, draft, inline, many, object, slice, subject},
};

pub(crate) async fn a_refused_group_writes_nothing(rig: &mut Rig) {
    rig.store([inline([draft("a", "1").id("known")])]).await;
    let before = rig.row("a").await;
    rig.pass(5);
    let parcels = [
        inline([draft("a", "2").id("fresh"), draft("a", "3").id("known")]),
        slice([draft("b", "1").expires(rig.now.0 + 5)]),
        object(draft("c", "1")),
    ];
    let refused = rig.commit(&parcels, vec![ack("d", "a", 1)]).await.unwrap();
    assert!(matches!(refused, Committed::Refused(_)));
    assert_eq!(rig.row("a").await, before);
    for name in ["b", "c"] {
        assert_eq!(rig.metadata().subject(&subject(name)).await.unwrap(), None);
        assert!(rig.scan(name, 1, 10, u64::MAX).await.blocks.is_empty());
    }
    assert_eq!(rig.position("d", "a").await, 0);
    assert!(rig.payload_rows().await.iter().all(|row| row.alive == 0 && row.len == 0 && row.writer == Writer::Commits));
    assert_eq!(rig.payload_rows().await.len(), 2);
    rig.pass(10);
    assert_eq!(rig.expire(10).await, (0, 0));
    rig.pause().await;
    assert_eq!(rig.store([inline([draft("a", "2").id("fresh")])]).await, [2], "its id was not remembered");
}

pub(crate) async fn every_refusal_is_listed(rig: &mut Rig) {
    rig.store([inline([draft("a", "1"), draft("a", "2").id("known")]), many("b", 3)]).await;
    rig.pause().await;
    let refused = rig
        .refusals([
            inline([draft("a", "3").id("x"), draft("a", "4").id("known"), draft("a", "5").id("x")]),
            inline([draft("b", "4").expected(2), draft("b", "4").expected(3)]),
            inline([draft("a", "4").id("x"), draft("a", "4").expected(9)]),
            inline([draft("c", "1").expected(1)]),
        ])
        .await;
    let first_x = RecordAt { block: 0, record: 0 };
    assert_eq!(
        refused,
        [
            (0, 1, Refusal::Duplicate(2)),
            (0, 2, Refusal::Follows(first_x)),
            (1, 0, Refusal::Expected(3)),
            (2, 0, Refusal::Follows(first_x)),
            (2, 1, Refusal::Expected(3)),
            (3, 0, Refusal::Expected(0)),
        ]
    );
}

pub(crate) async fn conditions_see_the_group_before_them(rig: &mut Rig) {
    let firsts = rig
        .store([
            inline([draft("a", "1").expected(0), draft("a", "2"), draft("a", "3").expected(2)]),
            slice([draft("b", "1").expected(0)]),
            inline([draft("a", "4").expected(3)]),
        ])
        .await;
    assert_eq!(firsts, [1, 1, 4]);
    rig.pause().await;
    assert_eq!(rig.refusals([inline([draft("a", "5").expected(3)])]).await, [(0, 0, Refusal::Expected(4))]);
    rig.purge("a", 4, 10).await;
    assert_eq!(rig.refusals([inline([draft("a", "5").expected(0)])]).await, [(0, 0, Refusal::Expected(4))]);
    assert_eq!(rig.store([inline([draft("a", "5").expected(4)])]).await, [5]);
}

pub(crate) async fn without_the_refused_the_group_passes(rig: &mut Rig) {
    rig.store([inline([draft("a", "1").id("known")])]).await;
    let good = [draft("a", "2").id("x"), draft("a", "3").expected(2)];
    let [second, third] = good.clone();
    let refused = rig.refusals([slice([draft("a", "no").id("known"), second, draft("a", "no").id("x"), third])]).await;
    assert_eq!(refused.iter().map(|(_, record, _)| *record).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(rig.store([slice(good)]).await, [2]);
    assert_eq!(rig.live("a").await, [1, 2, 3]);
    // The bytes of the refused attempt lie in the segment, before those that count.
    let [row] = rig.payload_rows().await[..] else { panic!("one segment") };
    assert_eq!((row.alive, row.key), (1, PayloadKey::Segment(row.key.number())));
}
