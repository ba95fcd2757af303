//! Dead letters: made in the transaction that gives a message up, by reference, and moved back.

use std::time::Duration;

use minitoolstream::{
    block::{Placement, letter::CONSUMER},
    consumer::{How, Patch},
    store::{ConsumerChange, PayloadRow, reader::Stored},
};

use crate::{
    rig::Rig,
    words::{Home, Parcel, draft, inline, object, slice, subject},
    workers::{LETTER_TTL, answer, close, header, on, story, take},
};

fn homes() -> [Parcel; 3] {
    let drafts = || [draft("a", "one"), draft("a", "two"), draft("a", "three")];
    let [_, two, _] = drafts();
    [inline(drafts()), slice(drafts()), object(two)]
}

/// Lets a new consumer `c` take all messages and terminate the one with the data "two"; gives that one.
async fn terminate_two(rig: &mut Rig, why: &str) -> Stored {
    rig.create("c", on("a")).await;
    let two = rig.messages("a").await.into_iter().find(|stored| header(stored, "kind") == "two").unwrap();
    rig.take("c", 1, 9).await;
    rig.answer("c", 1, &[(two.stream_sequence, 1)], How::Terminate(why.into())).await;
    two
}

async fn assert_two(rig: &Rig, stored: &Stored) {
    assert_eq!((&*rig.data(stored).await, header(stored, "kind")), (&b"two"[..], "two"));
}

/// Deletes the bytes of all garbage, as the reaper does.
async fn reclaim(rig: &Rig) -> usize {
    let garbage = rig.garbage().await;
    for removed in &garbage {
        rig.payload().delete(removed.key).await.unwrap();
    }
    rig.metadata().forget_garbage(&garbage).await.unwrap();
    garbage.len()
}

pub(crate) async fn p3_a_letter_keeps_its_bytes_alive(rig: &mut Rig) {
    for parcel in homes() {
        let has_payload = parcel.home != Home::Inline;
        rig.store([parcel]).await;
        rig.seal().await;
        let two = terminate_two(rig, "too old").await;
        rig.purge("a", rig.row("a").await.last, 100).await;
        rig.pass(5);
        assert_eq!(reclaim(rig).await, 0, "the letter refers to it");
        rig.pause().await;
        let letter = rig.only("$dlq.c").await;
        assert_two(rig, &letter).await;
        assert_eq!(story(&letter), ["a", &two.sequence.to_string(), "terminated", "1", "too old"]);
        assert_eq!(header(&letter, CONSUMER), "c");
        assert_eq!(letter.record.expires, Some(letter.record.created.after(LETTER_TTL)));
        rig.assert_sound().await;
        rig.purge("$dlq.c", letter.sequence, 100).await;
        assert_eq!(reclaim(rig).await, usize::from(has_payload), "with the letter it goes");
        assert!(rig.payload_rows().await.is_empty());
        rig.change("c", ConsumerChange::Delete).await.unwrap();
    }
}

pub(crate) async fn p3_a_redriven_letter_is_what_it_was(rig: &mut Rig) {
    for parcel in homes() {
        rig.store([parcel]).await;
        rig.seal().await;
        let original = terminate_two(rig, "").await;
        let last = rig.row("a").await.last;
        rig.purge("a", last, 100).await;
        reclaim(rig).await;
        rig.pass(5);
        let letter = rig.only("$dlq.c").await;
        assert_eq!(rig.redrive("$dlq.c", letter.sequence, "a").await, Some(last + 1));
        assert!(rig.messages("$dlq.c").await.is_empty());
        assert_eq!(rig.redrive("$dlq.c", letter.sequence, "a").await, None, "once");
        rig.pause().await;
        let again = rig.only("a").await;
        assert_two(rig, &again).await;
        assert_eq!(again.record.headers, original.record.headers, "nothing of the broker's is left");
        assert_eq!((again.record.created, again.record.expires), (rig.now, None));
        rig.assert_sound().await;
        // And given up again.
        assert_eq!(rig.take("c", 1, 9).await.len(), 1);
        rig.answer("c", 1, &[(again.stream_sequence, 1)], How::Terminate("again".into())).await;
        let second = rig.only("$dlq.c").await;
        assert_two(rig, &second).await;
        assert_eq!(story(&second), ["a", &again.sequence.to_string(), "terminated", "1", "again"]);
        rig.purge("a", again.sequence, 100).await;
        rig.purge("$dlq.c", second.sequence, 100).await;
        rig.change("c", ConsumerChange::Delete).await.unwrap();
        rig.pass(1);
        reclaim(rig).await;
        assert!(rig.payload_rows().await.is_empty());
    }
}

pub(crate) async fn p4_the_last_attempt_makes_a_letter(rig: &mut Rig) {
    rig.store([inline([draft("a", "1"), draft("a", "2"), draft("a", "3")])]).await;
    let patch = Patch { max_deliver: Some(2), back_off: Some(vec![Duration::ZERO]), ..on("a") };
    rig.create("c", patch).await;
    assert_eq!(rig.take("c", 1, 3).await, [(1, 1), (2, 1), (3, 1)]);
    rig.answer("c", 1, &[(1, 1)], How::Nak(None)).await;
    rig.pass(100);
    assert_eq!(rig.take("c", 1, 3).await, [(1, 2), (2, 2), (3, 2)], "refused, or not answered");
    let stepped = rig.answer("c", 1, &[(1, 2)], How::Nak(Some(Duration::from_secs(9)))).await;
    assert_eq!(stepped.letters.len(), 1, "at once");
    rig.pass(100);
    let stepped = rig.step(take("c", 1, 0)).await;
    assert_eq!(stepped.letters.len(), 2, "even if nobody takes more");
    rig.pause().await;
    let letters = rig.messages("$dlq.c").await;
    let stories: Vec<_> = letters.iter().map(|letter| [story(letter)[1], story(letter)[2], story(letter)[3]]).collect();
    assert_eq!(stories, [["1", "max-deliver", "2"], ["2", "max-deliver", "2"], ["3", "max-deliver", "2"]]);
    let counts = rig.view("c").await.unwrap().counts;
    assert_eq!((counts.passed, counts.dead_lettered, counts.deliveries, counts.redeliveries), (3, 3, 6, 3));
    assert_eq!(rig.take("c", 1, 3).await, []);
}

pub(crate) async fn a_worker_that_leaves_uses_its_attempt(rig: &mut Rig) {
    rig.store([inline([draft("a", "1"), draft("a", "2")])]).await;
    rig.create("c", Patch { max_deliver: Some(1), ..on("a") }).await;
    rig.take("c", 1, 2).await;
    rig.answer("c", 1, &[(1, 1)], How::Release).await;
    assert_eq!(rig.step(close("c", 1)).await.letters.len(), 1);
    assert_eq!(story(&rig.only("$dlq.c").await)[1], "2");
    assert_eq!(rig.take("c", 2, 2).await, [(1, 1)], "what was not begun with is delivered for the first time");
}

pub(crate) async fn a_letter_of_a_letter_is_one(rig: &mut Rig) {
    for parcel in homes() {
        rig.store([parcel]).await;
        let two = terminate_two(rig, "first").await;
        rig.create("d", on("$dlq.c")).await;
        let first = rig.only("$dlq.c").await;
        assert_eq!(rig.take("d", 1, 9).await, [(first.stream_sequence, 1)]);
        rig.answer("d", 1, &[(first.stream_sequence, 1)], How::Terminate("second".into())).await;
        rig.pause().await;
        for name in ["a", "$dlq.c"] {
            let last = rig.row(name).await.last;
            rig.purge(name, last, 100).await;
        }
        reclaim(rig).await;
        let second = rig.only("$dlq.d").await;
        assert_two(rig, &second).await;
        let origin = story(&first);
        assert_eq!(story(&second), [origin[0], origin[1], "terminated", "1", "second"], "where it came from at first");
        assert_eq!(second.record.headers.iter().filter(|(name, _)| name.starts_with("Mts-")).count(), 7, "no doubles");
        rig.assert_sound().await;
        assert!(rig.redrive("$dlq.d", second.sequence, "a").await.is_some());
        let back = rig.only("a").await;
        assert_two(rig, &back).await;
        assert_eq!(back.record.headers, two.record.headers);
        rig.purge("a", back.sequence, 100).await;
        for name in ["c", "d"] {
            rig.change(name, ConsumerChange::Delete).await.unwrap();
        }
    }
}

pub(crate) async fn p7_lost_data_is_reported_and_never_brought_back(rig: &mut Rig) {
    rig.store([slice([draft("a", "1"), draft("a", "2")])]).await;
    rig.create("c", on("a")).await;
    rig.take("c", 1, 2).await;
    rig.answer("c", 1, &[(2, 1)], How::Damaged("its checksum does not match".into())).await;
    rig.pause().await;
    let letter = rig.only("$dlq.c").await;
    assert_eq!(story(&letter), ["a", "2", "data-loss", "1", "its checksum does not match"]);
    assert!(letter.record.data.is_empty() && header(&letter, "kind").is_empty());
    let scan = rig.scan("$dlq.c", 1, 9, u64::MAX).await;
    assert!(matches!(scan.blocks[0].placement, Placement::Inline(_)), "it refers to nothing");
    assert_eq!(rig.redrive("$dlq.c", 1, "a").await, None, "an empty message is not what was lost");
    assert_eq!(rig.only("$dlq.c").await.sequence, 1);
    assert_eq!(rig.row("a").await.last, 2);
}

pub(crate) async fn what_is_no_letter_is_not_moved(rig: &mut Rig) {
    rig.store([inline([draft("a", "1"), draft("a", "2")]), inline([draft("a", "3")]), slice([draft("a", "4")])]).await;
    for sequence in 0..6 {
        assert_eq!(rig.redrive("a", sequence, "b").await, None);
    }
    assert_eq!(rig.redrive("none", 1, "b").await, None);
    assert_eq!(rig.live("a").await, [1, 2, 3, 4]);
    assert!(rig.metadata().subject(&subject("b")).await.unwrap().is_none());
}

pub(crate) async fn p8_a_letter_moved_to_where_it_is_stays_readable(rig: &mut Rig) {
    rig.store([inline([draft("a", "1")])]).await;
    rig.create("c", on("a")).await;
    rig.take("c", 1, 1).await;
    rig.answer("c", 1, &[(1, 1)], How::Terminate(String::new())).await;
    assert_eq!(rig.redrive("$dlq.c", 1, "$dlq.c").await, Some(2));
    assert_eq!(rig.live("$dlq.c").await, [2]);
}

pub(crate) async fn a_letter_in_one_transaction_counts_its_payload_once(rig: &mut Rig) {
    rig.store([slice([draft("a", "1"), draft("a", "2"), draft("a", "3")])]).await;
    rig.create("c", on("a")).await;
    rig.create("d", on("a")).await;
    rig.take("c", 1, 3).await;
    rig.take("d", 1, 3).await;
    let all = [(1, 1), (2, 1), (3, 1)];
    let [of_c, of_d] = ["c", "d"].map(|name| answer(name, 1, &all, &How::Terminate("no".into())));
    let steps = rig.steps([of_c, of_d]).await;
    assert!(steps.iter().all(|step| step.as_ref().unwrap().letters.len() == 3));
    let [PayloadRow { alive, .. }] = rig.payload_rows().await[..] else { panic!("one segment") };
    assert_eq!(alive, 7, "one block and six letters");
    assert_eq!((rig.live("$dlq.c").await, rig.live("$dlq.d").await), (vec![1, 2, 3], vec![1, 2, 3]));
}

pub(crate) async fn p8_what_is_gone_makes_no_letter(rig: &mut Rig) {
    rig.store([inline([draft("a", "1")]), inline([draft("a", "2")])]).await;
    rig.create("c", on("a")).await;
    rig.take("c", 1, 2).await;
    rig.purge("a", 1, 10).await;
    rig.answer("c", 1, &[(1, 1)], How::Terminate("no".into())).await;
    rig.answer("c", 1, &[(2, 1)], How::Gone).await;
    assert!(rig.metadata().subject(&subject("$dlq.c")).await.unwrap().is_none());
    let counts = rig.view("c").await.unwrap().counts;
    assert_eq!((counts.passed, counts.expired, counts.dead_lettered), (2, 2, 0));
}
