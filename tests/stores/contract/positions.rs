//! Positions of durable consumers (P4).

use minitoolstream::Error;

use crate::{
    rig::Rig,
    words::{durable, many, subject},
};

pub(crate) async fn p4_positions_never_move_backwards(rig: &mut Rig) {
    rig.store([many("a", 9)]).await;
    assert_eq!(rig.position("d", "a").await, 0);
    assert_eq!(rig.ack([("d", "a", 5)]).await, [Ok(5)]);
    rig.pause().await;
    assert_eq!(rig.ack([("d", "a", 3), ("d", "a", 0)]).await, [Ok(5), Ok(5)]);
    assert_eq!(rig.position("d", "a").await, 5);
    let answers = rig.ack([("d", "a", 7), ("d", "a", 6), ("d", "a", 9), ("d", "a", 8)]).await;
    assert_eq!(answers, [Ok(7), Ok(7), Ok(9), Ok(9)]);
    rig.pause().await;
    assert_eq!(rig.position("d", "a").await, 9);
}

pub(crate) async fn p4_an_ack_beyond_the_end_is_refused_alone(rig: &mut Rig) {
    rig.store([many("a", 3)]).await;
    let answers = rig.ack([("d", "a", 2), ("d", "a", 4), ("e", "b", 1), ("e", "b", 0), ("f", "a", 3)]).await;
    assert_eq!([&answers[0], &answers[3], &answers[4]], [&Ok(2), &Ok(0), &Ok(3)]);
    for refused in [&answers[1], &answers[2]] {
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    assert_eq!(rig.position("d", "a").await, 2);
    assert_eq!(rig.position("e", "b").await, 0);
    rig.store([many("a", 1)]).await;
    assert_eq!(rig.ack([("d", "a", 4)]).await, [Ok(4)]);
}

pub(crate) async fn positions_belong_to_durable_and_subject(rig: &mut Rig) {
    rig.store([many("a", 5), many("a.b", 5)]).await;
    rig.ack([("d", "a", 1), ("d", "a.b", 2), ("d.a", "a", 3), ("e", "a.b", 4)]).await;
    rig.pause().await;
    let expected = [("d", "a", 1), ("d", "a.b", 2), ("d.a", "a", 3), ("e", "a", 0), ("e", "a.b", 4)];
    for (of, on, at) in expected {
        assert_eq!(rig.position(of, on).await, at, "{of} on {on}");
    }
}

pub(crate) async fn positions_outlive_messages(rig: &mut Rig) {
    rig.store([many("a", 5)]).await;
    rig.ack([("d", "a", 2)]).await;
    rig.purge("a", 5, 10).await;
    rig.pause().await;
    assert_eq!(rig.position("d", "a").await, 2);
    assert_eq!(rig.ack([("d", "a", 5)]).await, [Ok(5)], "what was purged can still be passed");
}

pub(crate) async fn positions_are_paged(rig: &mut Rig) {
    rig.store([many("a", 1), many("b", 1), many("b.c", 1)]).await;
    let all = [("d", "a"), ("d", "b"), ("d", "b.c"), ("d e", "a"), ("é", "b"), ("日本", "a")];
    for (of, on) in all {
        rig.ack([(of, on, 1)]).await;
    }
    rig.pause().await;
    for limit in [1, 2, 4, 100] {
        let (mut found, mut after) = (Vec::new(), None);
        for _ in 0..=all.len() {
            let page = rig.metadata().positions(after.as_ref(), limit).await.unwrap();
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            after = Some((last.durable.clone(), last.subject.clone()));
            found.extend(page.into_iter().map(|ack| (ack.durable, ack.subject, ack.sequence)));
        }
        assert_eq!(found, all.map(|(of, on)| (durable(of), subject(on), 1)), "pages of {limit}");
    }
}
