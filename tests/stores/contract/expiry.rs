//! Removal of what has expired (P5).

use crate::{
    rig::Rig,
    words::{With, draft, inline, many, slice},
};

pub(crate) async fn p5_blocks_go_when_their_last_message_expires(rig: &mut Rig) {
    let start = rig.now.0;
    let at = |millis| draft("a", "x").expires(start + millis);
    rig.store([inline([at(10), at(20)]), inline([at(10), draft("a", "for ever")]), slice([at(5)])]).await;
    rig.pass(4);
    assert_eq!(rig.expire(10).await, (0, 0));
    assert_eq!(rig.live("a").await, [1, 2, 3, 4, 5]);
    rig.pass(6);
    assert_eq!(rig.live("a").await, [2, 4], "a reader does not wait for the removal");
    rig.pause().await;
    assert_eq!(rig.expire(10).await, (1, 1));
    assert_eq!(rig.firsts("a", 1, 10, u64::MAX).await, [1, 3]);
    rig.pass(9);
    assert_eq!(rig.expire(10).await, (0, 0));
    rig.pass(1);
    assert_eq!(rig.expire(10).await, (1, 2), "at its deadline, not after it");
    rig.pause().await;
    rig.pass(1_000_000);
    assert_eq!(rig.expire(10).await, (0, 0), "a block with a message that never expires stays");
    assert_eq!(rig.books("a").await, (5, 2, 3, 0));
    assert_eq!(rig.live("a").await, [4]);
    assert_eq!(rig.row("a").await.floor, 3);
}

pub(crate) async fn p8_steps_are_bounded_and_counted(rig: &mut Rig) {
    let start = rig.now.0;
    for millis in [30, 10, 20, 40] {
        let at = |name| draft(name, "x").expires(start + millis);
        rig.store([inline([at("a"), at("a")]), inline([at("b")])]).await;
    }
    rig.pass(30);
    assert_eq!(rig.expire(2).await, (2, 3), "what expired first goes first");
    assert_eq!(rig.firsts("a", 1, 10, u64::MAX).await, [1, 5, 7]);
    rig.pause().await;
    assert_eq!(rig.expire(3).await, (3, 5));
    assert_eq!(rig.expire(3).await, (1, 1));
    assert_eq!(rig.expire(3).await, (0, 0));
    assert_eq!(rig.books("a").await, (8, 2, 6, 0));
    assert_eq!(rig.books("b").await, (4, 1, 3, 0));
    assert_eq!((rig.row("a").await.floor, rig.row("b").await.floor), (7, 4));
    rig.pass(10);
    assert_eq!(rig.expire(10).await, (2, 3));
    let row = rig.row("a").await;
    assert_eq!((row.floor, row.live(), row.bytes), (9, 0, 0));
}

pub(crate) async fn p8_a_partly_purged_block_counts_the_rest(rig: &mut Rig) {
    let short = || draft("a", "short").expires(rig.now.0 + 10);
    rig.store([slice([short(), short(), short(), short(), short()])]).await;
    assert_eq!(rig.purge("a", 2, 10).await, (2, true));
    rig.pass(10);
    rig.pause().await;
    assert_eq!(rig.expire(10).await, (1, 3));
    assert_eq!(rig.books("a").await, (5, 0, 3, 2));
    assert_eq!(rig.row("a").await.floor, 6);
}

pub(crate) async fn p2_expiry_inside_a_subject_leaves_a_gap(rig: &mut Rig) {
    let short = || draft("a", "short").expires(rig.now.0 + 10);
    rig.store([many("a", 1), inline([short()]), many("a", 1), inline([short(), short()])]).await;
    rig.pass(10);
    assert_eq!(rig.expire(10).await, (2, 3));
    rig.pause().await;
    assert_eq!(rig.live("a").await, [1, 3]);
    assert_eq!(rig.row("a").await.floor, 1);
    assert_eq!(rig.purge("a", 1, 10).await, (1, true));
    assert_eq!(rig.live("a").await, [3]);
    assert_eq!(rig.store([many("a", 1)]).await, [6]);
    assert_eq!(rig.books("a").await, (6, 2, 3, 1));
}
