//! Scans of a subject's blocks.

use minitoolstream::block::BLOCK_RECORDS_MAX;

use crate::{
    rig::Rig,
    words::{With, draft, inline, many, object, slice},
};

pub(crate) async fn any_sequence_is_found(rig: &mut Rig) {
    // A neighbour by name on either side must not be seen.
    rig.store([many("0", 3), many("b", 3), many("a.b", 3)]).await;
    rig.store([many("a", 3), slice([draft("a", "4")]), many("a", 4), object(draft("a", "9"))]).await;
    rig.pause().await;
    let expected = [&[1, 4, 5, 9][..], &[1, 4, 5, 9], &[1, 4, 5, 9], &[1, 4, 5, 9], &[4, 5, 9]];
    let expected = expected.into_iter().chain([&[5, 9][..]; 4]).chain([&[9][..], &[], &[]]);
    for (from, firsts) in (0..).zip(expected) {
        assert_eq!(rig.firsts("a", from, 10, u64::MAX).await, firsts, "from {from}");
    }
    assert!(rig.firsts("a", u64::MAX, 10, u64::MAX).await.is_empty());
    let scan = rig.scan("a", 6, 10, u64::MAX).await;
    assert_eq!((scan.floor, scan.last), (1, 9));
    assert_eq!((scan.blocks[0].first, scan.blocks[0].count, scan.blocks[0].end()), (5, 4, 9));
}

pub(crate) async fn p2_limits_cut_between_blocks(rig: &mut Rig) {
    for _ in 0..5 {
        rig.store([many("a", 2)]).await;
    }
    let bytes = rig.scan("a", 1, 1, 0).await.blocks[0].bytes();
    rig.pause().await;
    for (blocks_max, bytes_max, firsts) in [
        (1, u64::MAX, &[3][..]),
        (3, u64::MAX, &[3, 5, 7]),
        (10, 0, &[3]),
        (10, bytes, &[3]),
        (10, 2 * bytes - 1, &[3]),
        (10, 2 * bytes, &[3, 5]),
        (10, 3 * bytes, &[3, 5, 7]),
        (2, 3 * bytes, &[3, 5]),
    ] {
        assert_eq!(rig.firsts("a", 4, blocks_max, bytes_max).await, firsts, "{blocks_max} blocks, {bytes_max} bytes");
    }
}

pub(crate) async fn gaps_are_passed_over(rig: &mut Rig) {
    let short = || draft("a", "short").expires(rig.now.0 + 10);
    let parcels = [many("a", 3), inline([short(), short()]), inline([short()]), many("a", 2), inline([short()])];
    rig.store(parcels).await;
    rig.pass(10);
    assert_eq!(rig.expire(10).await, (3, 4));
    rig.pause().await;
    assert_eq!(rig.firsts("a", 1, 10, u64::MAX).await, [1, 7]);
    for from in 4..=8 {
        assert_eq!(rig.firsts("a", from, 10, u64::MAX).await, [7], "from {from}");
    }
    let scan = rig.scan("a", 9, 10, u64::MAX).await;
    assert_eq!((scan.blocks.len(), scan.floor, scan.last), (0, 1, 9));
    assert_eq!(rig.live("a").await, [1, 2, 3, 7, 8]);
}

pub(crate) async fn full_blocks_are_found_from_any_record(rig: &mut Rig) {
    rig.store([many("a", BLOCK_RECORDS_MAX), many("a", BLOCK_RECORDS_MAX)]).await;
    let full = BLOCK_RECORDS_MAX as u64;
    for (from, first) in [(1, 1), (2, 1), (full, 1), (full + 1, full + 1), (2 * full, full + 1)] {
        assert_eq!(rig.firsts("a", from, 1, 0).await, [first], "from {from}");
    }
    assert_eq!(rig.purge("a", full + 7, 10).await, (full + 7, true));
    assert_eq!(rig.firsts("a", 1, 10, u64::MAX).await, [full + 1]);
    assert_eq!(rig.scan("a", 1, 1, 0).await.floor, full + 8);
}

pub(crate) async fn an_unknown_subject_is_empty(rig: &mut Rig) {
    rig.store([many("a.b", 1)]).await;
    for from in [0, 1, u64::MAX] {
        let scan = rig.scan("a", from, 10, u64::MAX).await;
        assert_eq!((scan.floor, scan.last, scan.blocks.len()), (1, 0, 0));
    }
    assert!(rig.live("a").await.is_empty());
}
