//! Numbers are born in the commit (P2), and what was committed can be read (P3).

use minitoolstream::{Error, block::Placement};

use crate::{
    rig::Rig,
    words::{With, draft, inline, many, object, slice, subject},
};

pub(crate) async fn p2_numbers_are_contiguous_from_one(rig: &mut Rig) {
    let mut next = 1;
    for count in [1, 3, 1, 7, 2] {
        assert_eq!(rig.store([many("a", count)]).await, [next]);
        next += count as u64;
        assert_eq!(rig.row("a").await.last, next - 1);
        rig.pause().await;
    }
    assert_eq!(rig.live("a").await, (1..next).collect::<Vec<_>>());
}

pub(crate) async fn p2_a_group_is_numbered_in_order(rig: &mut Rig) {
    rig.store([many("b", 5)]).await;
    let firsts = rig
        .store([
            many("a", 2),
            many("b", 1),
            slice([draft("a", "s1"), draft("a", "s2"), draft("a", "s3")]),
            object(draft("c", "o")),
            inline([draft("a", "i")]),
            many("b", 2),
        ])
        .await;
    assert_eq!(firsts, [1, 6, 3, 1, 6, 7]);
    rig.pause().await;
    for (name, last) in [("a", 6), ("b", 8), ("c", 1)] {
        assert_eq!(rig.live(name).await, (1..=last).collect::<Vec<_>>(), "{name}");
    }
}

pub(crate) async fn p2_numbers_go_on_after_everything_went(rig: &mut Rig) {
    rig.store([many("a", 4), inline([draft("b", "x").expires(rig.now.0 + 10)])]).await;
    rig.purge("a", u64::MAX, 10).await;
    rig.pass(10);
    rig.expire(10).await;
    assert!(rig.live("a").await.is_empty() && rig.live("b").await.is_empty());
    rig.pause().await;
    assert_eq!(rig.store([many("a", 1), many("b", 1)]).await, [5, 2]);
    assert_eq!(rig.live("a").await, [5]);
    assert_eq!(rig.live("b").await, [2]);
}

pub(crate) async fn p3_every_placement_is_read_back(rig: &mut Rig) {
    let texts = ["in the row", "in a segment", "in the same segment", "an object", ""];
    let drafts = texts.map(|text| draft("a", text));
    let [first, second, third, fourth, fifth] = drafts;
    rig.store([inline([first]), slice([second, third]), object(fourth), object(fifth)]).await;
    for _ in 0..2 {
        let messages = rig.messages("a").await;
        assert_eq!(messages.len(), texts.len());
        for (message, text) in messages.iter().zip(texts) {
            assert_eq!(rig.data(message).await, text);
            assert_eq!(message.record.headers, [("kind".to_owned(), text.to_owned())]);
            assert_eq!((message.record.created, message.record.expires), (rig.now, None));
        }
        rig.pause().await;
    }
}

pub(crate) async fn a_group_without_its_payload_row_fails_whole(rig: &mut Rig) {
    rig.store([many("a", 1)]).await;
    let (blocks, mut placements) = rig.place(&[many("a", 1), many("a", 2), many("b", 1)]).await;
    placements[1] = Placement::Slice { segment: 999, offset: 0, len: 1 };
    let acks = vec![crate::words::ack("d", "a", 1)];
    let error = rig.commit_placed(blocks, placements, acks).await.unwrap_err();
    assert!(matches!(error, Error::DataLoss(_)), "{error}");
    assert_eq!(rig.live("a").await, [1]);
    assert_eq!(rig.metadata().subject(&subject("b")).await.unwrap(), None);
    assert_eq!(rig.position("d", "a").await, 0);
}
