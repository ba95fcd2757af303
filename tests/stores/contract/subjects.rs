//! The list of subjects, and their books.

use minitoolstream::block::Block;

use crate::{
    rig::Rig,
    words::{draft, filter, inline, many, object, slice},
};

const NAMES: [&str; 8] = ["a", "a-b", "a.b", "a.b.c", "a.c", "ab", "b.b", "日.本"];

pub(crate) async fn filters_choose(rig: &mut Rig) {
    rig.store(NAMES.map(|name| many(name, 1))).await;
    rig.pause().await;
    for (pattern, expected) in [
        (">", &NAMES[..]),
        ("*", &["a", "a-b", "ab"]),
        ("a", &["a"]),
        ("a.*", &["a.b", "a.c"]),
        ("a.>", &["a.b", "a.b.c", "a.c"]),
        ("*.b", &["a.b", "b.b"]),
        ("*.b.>", &["a.b.c"]),
        ("日.>", &["日.本"]),
        ("c.>", &[]),
        ("a.b.c.d", &[]),
    ] {
        let rows = rig.metadata().subjects(&filter(pattern), "", 100).await.unwrap();
        let names: Vec<_> = rows.iter().map(|row| row.subject.as_str()).collect();
        assert_eq!(names, expected, "{pattern}");
    }
}

pub(crate) async fn subjects_are_paged(rig: &mut Rig) {
    rig.store(NAMES.map(|name| many(name, 1))).await;
    for (pattern, expected) in [(">", &NAMES[..]), ("a.>", &["a.b", "a.b.c", "a.c"]), ("*", &["a", "a-b", "ab"])] {
        for limit in [1, 2, 3, 100] {
            let (mut found, mut after) = (Vec::new(), String::new());
            for _ in 0..=NAMES.len() {
                let page = rig.metadata().subjects(&filter(pattern), &after, limit).await.unwrap();
                assert!(page.len() <= limit);
                let Some(last) = page.last() else { break };
                last.subject.as_str().clone_into(&mut after);
                found.extend(page.into_iter().map(|row| row.subject.to_string()));
            }
            assert_eq!(found, expected, "{pattern} in pages of {limit}");
        }
    }
    let beyond = rig.metadata().subjects(&filter("a.>"), "zzz", 10).await.unwrap();
    assert!(beyond.is_empty());
}

pub(crate) async fn books_are_kept(rig: &mut Rig) {
    let start = rig.now;
    rig.store([many("a", 3)]).await;
    rig.pass(7);
    rig.store([slice([draft("a", "slice")]), object(draft("a", "object")), inline([draft("a", "inline")])]).await;
    rig.pause().await;
    let row = rig.row("a").await;
    assert_eq!((row.last, row.floor, row.expired, row.purged, row.live()), (6, 1, 0, 0, 6));
    assert_eq!(row.updated.0, start.0 + 7);
    let blocks = rig.scan("a", 1, 10, u64::MAX).await.blocks;
    assert_eq!(row.bytes, blocks.iter().map(Block::bytes).sum::<u64>());
    assert_eq!(rig.subjects().await, [row]);
}
