//! Removal by request.

use crate::{
    rig::Rig,
    words::{With, draft, inline, many, slice, subject},
};

pub(crate) async fn p8_purging_goes_in_steps(rig: &mut Rig) {
    for _ in 0..5 {
        rig.store([many("a", 2)]).await;
    }
    let mut steps = Vec::new();
    for _ in 0..3 {
        steps.push(rig.purge("a", 7, 2).await);
        rig.pause().await;
    }
    assert_eq!(steps, [(4, false), (3, true), (0, true)]);
    assert_eq!(rig.books("a").await, (10, 3, 0, 7));
    assert_eq!(rig.live("a").await, [8, 9, 10]);
}

pub(crate) async fn p8_part_of_a_block_can_go(rig: &mut Rig) {
    rig.store([many("a", 3), many("a", 5)]).await;
    let bytes = rig.row("a").await.bytes;
    assert_eq!(rig.purge("a", 5, 10).await, (5, true));
    rig.pause().await;
    let row = rig.row("a").await;
    assert_eq!((row.floor, row.live(), row.purged), (6, 3, 5));
    assert!(0 < row.bytes && row.bytes < bytes, "the bytes of a part stay with the block");
    let scan = rig.scan("a", 1, 10, u64::MAX).await;
    assert_eq!((scan.floor, scan.last), (6, 8));
    assert_eq!(scan.blocks.iter().map(|block| block.first).collect::<Vec<_>>(), [4]);
    assert_eq!(rig.live("a").await, [6, 7, 8]);
    assert_eq!(rig.purge("a", 6, 10).await, (1, true));
    assert_eq!(rig.live("a").await, [7, 8]);
    assert_eq!(rig.purge("a", 8, 10).await, (2, true));
    let row = rig.row("a").await;
    assert_eq!((row.floor, row.live(), row.purged, row.bytes), (9, 0, 8, 0));
}

pub(crate) async fn p8_purging_again_brings_nothing_back(rig: &mut Rig) {
    rig.store([many("a", 4), many("a", 6)]).await;
    assert_eq!(rig.purge("a", 7, 10).await, (7, true));
    let row = rig.row("a").await;
    for up_to in 0..=7 {
        assert_eq!(rig.purge("a", up_to, 10).await, (0, true), "up to {up_to}");
        assert_eq!(rig.row("a").await, row);
    }
    rig.pause().await;
    assert_eq!(rig.live("a").await, [8, 9, 10]);
}

pub(crate) async fn purging_beyond_the_end_takes_all(rig: &mut Rig) {
    rig.store([many("a", 4), slice([draft("a", "5")]), many("b", 2)]).await;
    assert_eq!(rig.purge("a", u64::MAX, 10).await, (5, true));
    rig.pause().await;
    let row = rig.row("a").await;
    assert_eq!((row.last, row.floor, row.live(), row.bytes), (5, 6, 0, 0));
    assert_eq!(rig.purge("a", u64::MAX, 10).await, (0, true));
    assert_eq!(rig.live("b").await, [1, 2], "neighbours stay");
}

pub(crate) async fn purging_nothing_is_done_at_once(rig: &mut Rig) {
    assert_eq!(rig.purge("unknown", 10, 10).await, (0, true));
    assert_eq!(rig.metadata().subject(&subject("unknown")).await.unwrap(), None);
    rig.store([many("a", 3)]).await;
    assert_eq!(rig.purge("a", 0, 10).await, (0, true));
    assert_eq!(rig.live("a").await, [1, 2, 3]);
}

pub(crate) async fn p8_gaps_are_not_counted(rig: &mut Rig) {
    let short = || draft("a", "short").expires(rig.now.0 + 10);
    rig.store([many("a", 2), inline([short(), short(), short()]), many("a", 2)]).await;
    rig.pass(10);
    assert_eq!(rig.expire(10).await, (1, 3));
    rig.pause().await;
    assert_eq!(rig.purge("a", 4, 10).await, (2, true));
    assert_eq!(rig.books("a").await, (7, 2, 3, 2));
    assert_eq!(rig.purge("a", 6, 10).await, (1, true));
    assert_eq!(rig.books("a").await, (7, 1, 3, 3));
    assert_eq!(rig.live("a").await, [7]);
}
