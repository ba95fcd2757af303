//! One order over all subjects.

use minitoolstream::{
    block::{Located, ScanLimits},
    store::reader::{self, Stored},
};

use crate::{
    rig::Rig,
    words::{With, draft, filter, inline, many, object, slice},
    workers::{given, on, take},
};

const ALL: ScanLimits = ScanLimits { blocks: usize::MAX, bytes: u64::MAX, rows: usize::MAX };

fn places(blocks: &[Located]) -> Vec<(u64, &str, u64)> {
    blocks.iter().map(|located| (located.block.stream_first, located.subject.as_str(), located.block.first)).collect()
}

/// Stream 1-2: a, 3: b, 4: a.b, 5-6: a, 7: $dlq.x, 8: a.b.
async fn fill(rig: &mut Rig) {
    rig.store([many("a", 2), slice([draft("b", "1")]), object(draft("a.b", "1"))]).await;
    rig.store([many("a", 2)]).await;
    rig.store([many("$dlq.x", 1), inline([draft("a.b", "2")])]).await;
    rig.pause().await;
}

pub(crate) async fn p2_blocks_come_in_the_order_they_were_stored(rig: &mut Rig) {
    fill(rig).await;
    for (pattern, from, expected) in [
        (">", 1, &[(1, "a", 1), (3, "b", 1), (4, "a.b", 1), (5, "a", 3), (8, "a.b", 2)][..]),
        (">", 2, &[(1, "a", 1), (3, "b", 1), (4, "a.b", 1), (5, "a", 3), (8, "a.b", 2)]),
        (">", 6, &[(5, "a", 3), (8, "a.b", 2)]),
        ("*", 1, &[(1, "a", 1), (3, "b", 1), (5, "a", 3)]),
        ("a.>", 5, &[(8, "a.b", 2)]),
        ("a", 3, &[(5, "a", 3)]),
        ("$dlq.x", 1, &[(7, "$dlq.x", 1)]),
        ("$dlq.*", 1, &[(7, "$dlq.x", 1)]),
        ("none", 1, &[]),
    ] {
        let scan = rig.metadata().stream(&filter(pattern), from, ALL).await.unwrap();
        assert_eq!(
            (places(&scan.blocks), scan.next, scan.is_end),
            (expected.to_vec(), 9, true),
            "{pattern} from {from}"
        );
    }
    let beyond = rig.metadata().stream(&filter(">"), 20, ALL).await.unwrap();
    assert_eq!((beyond.blocks.len(), beyond.next, beyond.is_end), (0, 20, true));
}

pub(crate) async fn scans_are_bounded(rig: &mut Rig) {
    fill(rig).await;
    for limits in [
        ScanLimits { blocks: 1, ..ALL },
        ScanLimits { blocks: 2, ..ALL },
        ScanLimits { bytes: 0, ..ALL },
        ScanLimits { rows: 1, ..ALL },
        ScanLimits { rows: 3, ..ALL },
    ] {
        for (pattern, expected) in [(">", vec![1, 3, 4, 5, 8]), ("a.b", vec![4, 8]), ("a", vec![1, 5])] {
            let (mut found, mut next) = (Vec::new(), 1);
            for _ in 0..20 {
                let scan = rig.metadata().stream(&filter(pattern), next, limits).await.unwrap();
                assert!(scan.blocks.len() <= limits.blocks && (limits.bytes > 0 || scan.blocks.len() <= 1));
                found.extend(scan.blocks.iter().map(|located| located.block.stream_first));
                next = scan.next;
                if scan.is_end {
                    break;
                }
            }
            assert_eq!((found, next), (expected, 9), "{pattern} by {limits:?}");
        }
    }
}

pub(crate) async fn p2_places_are_never_given_again(rig: &mut Rig) {
    fill(rig).await;
    rig.purge("a", 3, 10).await;
    rig.purge("a.b", 2, 10).await;
    rig.pause().await;
    let scan = rig.metadata().stream(&filter(">"), 1, ALL).await.unwrap();
    assert_eq!(places(&scan.blocks), [(3, "b", 1), (5, "a", 3)]);
    assert_eq!(scan.blocks[1].floor, 4, "part of it is gone");
    rig.store([many("a.b", 1)]).await;
    let scan = rig.metadata().stream(&filter("a.b"), 1, ALL).await.unwrap();
    assert_eq!(places(&scan.blocks), [(9, "a.b", 3)]);
}

pub(crate) async fn p5_messages_are_read_in_the_order_of_the_stream(rig: &mut Rig) {
    let deadline = rig.now.0 + 10;
    let short = |data: &str| draft("b", data).expires(deadline);
    rig.store([many("a", 2), slice([draft("b", "1"), short("2")]), object(draft("a.b", "1"))]).await;
    rig.store([many("a", 2), inline([short("3"), short("4")]), slice([draft("b", "5")]), many("$dlq.x", 1)]).await;
    rig.purge("a", 1, 10).await;
    rig.pass(10);
    for is_reaped in [false, true] {
        for (pattern, expected) in [
            (">", &[(2, "a", 2), (3, "b", 1), (5, "a.b", 1), (6, "a", 3), (7, "a", 4), (10, "b", 5)][..]),
            ("*", &[(2, "a", 2), (3, "b", 1), (6, "a", 3), (7, "a", 4), (10, "b", 5)]),
            ("b", &[(3, "b", 1), (10, "b", 5)]),
            ("none", &[]),
        ] {
            for (limit, from) in [(1, 1), (2, 1), (3, 0), (100, 1), (1, 6), (2, 11), (1, 20)] {
                let (mut found, mut next) = (Vec::new(), from);
                for _ in 0..20 {
                    let page = reader::read_stream(rig.stores(), &filter(pattern), next, limit, rig.now).await.unwrap();
                    assert_eq!(page.damage, None);
                    assert!(page.messages.len() <= limit && page.next >= next);
                    let place = |of: &Stored| (of.stream_sequence, of.subject.to_string(), of.sequence);
                    found.extend(page.messages.iter().map(place));
                    next = page.next;
                    if page.is_end {
                        break;
                    }
                }
                let expected = expected.iter().filter(|(at, ..)| *at >= from);
                let expected: Vec<_> = expected.map(|(at, of, sequence)| (*at, (*of).to_owned(), *sequence)).collect();
                assert_eq!((found, next), (expected, from.max(12)), "{pattern}, {limit} from {from}, {is_reaped}");
            }
        }
        rig.expire(10).await;
        rig.pause().await;
    }
}

pub(crate) async fn a_time_names_a_place(rig: &mut Rig) {
    let start = rig.now;
    rig.store([many("a", 2)]).await;
    rig.pass(10);
    rig.store([many("b", 1)]).await;
    rig.pass(10);
    rig.store([many("a", 1)]).await;
    rig.pause().await;
    let at = async |pattern: &str, millis: u64| {
        let time = minitoolstream::types::Timestamp(start.0 + millis);
        rig.metadata().stream_at(&filter(pattern), time).await.unwrap()
    };
    for (millis, all, a, b) in [(0, 1, 1, 3), (1, 3, 4, 3), (10, 3, 4, 3), (11, 4, 4, 5), (20, 4, 4, 5), (21, 5, 5, 5)]
    {
        assert_eq!((at(">", millis).await, at("a", millis).await, at("b", millis).await), (all, a, b), "{millis}");
    }
    assert_eq!(at("none", 0).await, 5);
}

pub(crate) async fn wildcards_pass_over_what_is_the_brokers(rig: &mut Rig) {
    fill(rig).await;
    rig.create("all", on(">")).await;
    rig.create("letters", on("$dlq.x")).await;
    assert_eq!(rig.view("all").await.unwrap().lag.pending, 7);
    let stepped = rig.step(take("all", 1, 99)).await;
    assert_eq!(given(&stepped).iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 8]);
    assert_eq!(rig.take("letters", 1, 9).await, [(7, 1)]);
}

pub(crate) async fn p2_a_step_does_not_see_its_own_group(rig: &mut Rig) {
    rig.create("c", on("a.*")).await;
    let (blocks, placements) = rig.place(&[many("a.b", 2)]).await;
    let step = std::sync::Arc::new(minitoolstream::consumer::Step { now: rig.now, ..take("c", 1, 9) });
    let group = minitoolstream::store::Group {
        blocks,
        placements,
        steps: vec![step],
        now: rig.now,
        ..minitoolstream::store::Group::default()
    };
    let committed = rig.metadata().commit(group).await.unwrap();
    let minitoolstream::store::Committed::Stored { firsts, steps, raised, .. } = committed else { panic!("refused") };
    assert_eq!(firsts, [1]);
    assert_eq!(raised, [(crate::words::subject("a.b"), 2)]);
    assert!(steps[0].as_ref().unwrap().runs.is_empty());
    assert_eq!(rig.take("c", 1, 9).await, [(1, 1), (2, 1)]);
}
