//! Rows of segments and objects, and what becomes of their bytes.

use minitoolstream::{
    block::PayloadKey,
    store::{Garbage, PayloadRow, Writer},
    types::Timestamp,
};

use crate::{
    rig::Rig,
    words::{With, draft, many, object, slice},
};

pub(crate) async fn commits_count_what_is_alive(rig: &mut Rig) {
    let key = rig.open(PayloadKey::Segment).await;
    assert_eq!(rig.payload_rows().await, [PayloadRow { key, alive: 0, len: 0, writer: Writer::Commits }]);
    rig.metadata().seal_payload(key, rig.now).await.unwrap();
    rig.store([slice([draft("a", "1")]), slice([draft("b", "1"), draft("b", "2")]), many("a", 3)]).await;
    rig.store([slice([draft("a", "5")])]).await;
    let [row] = rig.payload_rows().await[..] else { panic!("one segment") };
    assert_eq!((row.alive, row.writer), (3, Writer::Commits));
    let blocks = rig.scan("a", 5, 10, u64::MAX).await.blocks;
    assert!(blocks.iter().all(|block| block.payload() == Some(row.key)));
    rig.purge("b", 2, 10).await;
    assert_eq!(rig.payload_row(row.key).await, Some(PayloadRow { alive: 2, ..row }), "its length stays");
}

pub(crate) async fn garbage_begins_with_the_last_block(rig: &mut Rig) {
    let short = draft("b", "1").expires(rig.now.0 + 10);
    rig.store([slice([draft("a", "1")]), slice([short]), slice([draft("a", "2"), draft("a", "3")])]).await;
    let key = rig.seal().await.unwrap();
    assert_eq!(rig.payload_row(key).await.map(|row| (row.alive, row.writer)), Some((3, Writer::Nobody)));
    assert_eq!(rig.live("a").await, [1, 2, 3], "a sealed segment is read as before");
    rig.purge("a", 2, 10).await;
    rig.pass(10);
    assert_eq!(rig.expire(10).await, (1, 1));
    rig.pause().await;
    assert_eq!(rig.payload_row(key).await.map(|row| row.alive), Some(1), "part of its last block lives");
    assert!(rig.garbage().await.is_empty());
    rig.pass(10);
    rig.purge("a", 3, 10).await;
    assert_eq!(rig.payload_row(key).await, None);
    assert_eq!(rig.garbage().await, [Garbage { key, since: rig.now }]);
}

pub(crate) async fn an_open_segment_is_no_garbage(rig: &mut Rig) {
    rig.store([slice([draft("a", "1")])]).await;
    rig.purge("a", 1, 10).await;
    let [row] = rig.payload_rows().await[..] else { panic!("one segment") };
    assert_eq!((row.alive, row.writer), (0, Writer::Commits));
    assert!(rig.garbage().await.is_empty());
    rig.store([slice([draft("a", "2")])]).await;
    assert_eq!(rig.live("a").await, [2]);
    assert_eq!(rig.seal().await, Some(row.key));
    assert!(rig.garbage().await.is_empty());
    rig.purge("a", 2, 10).await;
    assert_eq!(rig.garbage().await, [Garbage { key: row.key, since: rig.now }]);
}

pub(crate) async fn a_segment_without_blocks_is_garbage_once_sealed(rig: &mut Rig) {
    let never_written = rig.open(PayloadKey::Segment).await;
    let never_committed = rig.open(PayloadKey::Object).await;
    rig.payload().put_object(never_committed.number(), "lost".into()).await.unwrap();
    assert!(rig.garbage().await.is_empty());
    for key in [never_written, never_committed] {
        rig.metadata().seal_payload(key, rig.now).await.unwrap();
    }
    assert!(rig.payload_rows().await.is_empty());
    rig.pause().await;
    let since = rig.now;
    let expected = [Garbage { key: never_written, since }, Garbage { key: never_committed, since }];
    assert_eq!(rig.garbage().await, expected);
}

pub(crate) async fn an_object_is_closed_by_its_commit(rig: &mut Rig) {
    rig.store([object(draft("a", "object"))]).await;
    let [row] = rig.payload_rows().await[..] else { panic!("one object") };
    assert_eq!((row.alive, row.len, row.writer), (1, 6, Writer::Nobody));
    rig.pause().await;
    assert_eq!(rig.payload_rows().await, [row]);
    rig.purge("a", 1, 10).await;
    assert_eq!(rig.garbage().await, [Garbage { key: row.key, since: rig.now }]);
}

pub(crate) async fn garbage_is_listed_by_age(rig: &mut Rig) {
    let mut expected = Vec::new();
    for (sequence, name) in (1..).zip(["a"; 4]) {
        rig.store([object(draft(name, "x"))]).await;
        rig.pass(10);
        rig.purge(name, sequence, 10).await;
        expected.push(rig.now);
    }
    rig.pause().await;
    let since = |garbage: Vec<Garbage>| garbage.iter().map(|garbage| garbage.since).collect::<Vec<_>>();
    assert_eq!(since(rig.garbage().await), expected);
    let metadata = rig.metadata();
    assert_eq!(since(metadata.garbage(Timestamp(u64::MAX), 2).await.unwrap()), expected[..2]);
    assert_eq!(since(metadata.garbage(expected[2], 10).await.unwrap()), expected[..2], "older, not as old");
    assert_eq!(since(metadata.garbage(expected[0], 10).await.unwrap()), []);
}

pub(crate) async fn p5_bytes_go_before_their_garbage_row(rig: &mut Rig) {
    for _ in 0..3 {
        rig.store([object(draft("a", "x"))]).await;
    }
    rig.purge("a", 2, 10).await;
    let garbage = rig.garbage().await;
    assert_eq!(garbage.len(), 2);
    for removed in &garbage {
        rig.payload().delete(removed.key).await.unwrap();
    }
    rig.pause().await;
    rig.assert_sound().await;
    assert_eq!(rig.garbage().await, garbage);
    rig.metadata().forget_garbage(&garbage[..1]).await.unwrap();
    rig.pause().await;
    assert_eq!(rig.garbage().await, garbage[1..]);
    rig.metadata().forget_garbage(&garbage).await.unwrap();
    assert!(rig.garbage().await.is_empty());
    assert_eq!(rig.live("a").await, [3]);
}

pub(crate) async fn p2_numbers_are_never_reused(rig: &mut Rig) {
    let mut numbers = Vec::new();
    for kind in [PayloadKey::Segment, PayloadKey::Object, PayloadKey::Segment, PayloadKey::Object] {
        let key = rig.open(kind).await;
        assert_eq!(key, kind(key.number()));
        numbers.push(key.number());
        rig.metadata().seal_payload(key, rig.now).await.unwrap();
        let garbage = rig.garbage().await;
        rig.metadata().forget_garbage(&garbage).await.unwrap();
        rig.pause().await;
    }
    assert!(numbers[0] > 0 && numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}

pub(crate) async fn rows_are_paged(rig: &mut Rig) {
    for _ in 0..5 {
        rig.store([object(draft("a", "x"))]).await;
    }
    let all = rig.payload_rows().await;
    assert_eq!(all.len(), 5);
    for limit in [1, 2, 5] {
        let (mut found, mut after) = (Vec::new(), 0);
        for _ in 0..=all.len() {
            let page = rig.metadata().payloads(after, limit).await.unwrap();
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            after = last.key.number();
            found.extend(page);
        }
        assert_eq!(found, all);
    }
}
