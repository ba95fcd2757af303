//! Files that are missing, cut short, foreign or of another time are named and refused; those of earlier formats are
//! brought to the present one.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    super::{
        Limits,
        aligned::ALIGN,
        batch::Batch,
        disk::{Create, Disk, OpenMode},
        engine::Engine,
        frame::{Round, Slot},
        journal::JOURNAL,
        tables::{FACT_FORMAT, FACTS, FORMAT},
        volume::{Sizes, Volume},
        witness::LOCK,
    },
    disk::{Call, FailingDisk, Fault},
    load::{Load, ROOMY, file},
};
use crate::{block::PayloadKey, error::Error, store::PayloadStore};

const DATABASE: &str = "meta.redb";

/// Stores with acknowledged messages, and how they were left.
async fn left(seed: u64, messages: usize, is_killed: bool) -> Load {
    let mut load = Load::new(FailingDisk::new(seed, ROOMY), seed);
    load.open().await.unwrap();
    for _ in 0..messages {
        load.publish_data("a", Bytes::from_static(b"acknowledged")).await;
    }
    if is_killed {
        load.kill();
    } else {
        load.stop();
    }
    load
}

/// Opening is refused with a text that has all of `parts`.
async fn assert_refused(load: &mut Load, parts: &[&str]) {
    let Err(error) = load.open().await else { panic!("it was opened, and should have been refused: {parts:?}") };
    let text = error.to_string();
    assert!(parts.iter().all(|part| text.contains(part)), "{text} has not all of {parts:?}");
    assert!(matches!(error, Error::DataLoss(_) | Error::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn p1_a_journal_that_is_missing_or_cut_short_is_refused() {
    for is_killed in [true, false] {
        let mut load = left(1, 5, is_killed).await;
        let whole = load.disk.content(&file(JOURNAL)).unwrap();
        load.disk.put(&file(JOURNAL), None);
        assert_refused(&mut load, &["/data/journal", "is missing", "restore a backup"]).await;
        for len in [0, 100, ALIGN, 3 * ALIGN, whole.len() - 1] {
            load.disk.put(&file(JOURNAL), Some(whole[..len].to_vec()));
            assert_refused(&mut load, &["/data/journal", &format!("has {len} bytes of 49152")]).await;
        }
        load.disk.put(&file(JOURNAL), Some(whole));
        load.open().await.unwrap();
        load.verify().await;
    }
}

#[tokio::test]
async fn p1_a_journal_of_another_directory_or_of_an_earlier_time_is_refused() {
    let mut load = left(1, 3, false).await;
    let earlier = load.disk.content(&file(JOURNAL)).unwrap();
    let foreign = left(2, 3, true).await.disk.content(&file(JOURNAL)).unwrap();
    load.open().await.unwrap();
    load.publish_data("a", Bytes::from_static(b"in the same round")).await;
    let same_round = load.disk.content(&file(JOURNAL)).unwrap();
    for _ in 0..3 {
        load.publish_data("a", Bytes::from_static(b"more")).await;
    }
    load.kill();
    let newest = load.disk.content(&file(JOURNAL)).unwrap();
    for (journal, text) in [
        (foreign, "does not belong to this 'meta.redb'"),
        (vec![0; newest.len()], "has no readable header"),
        (earlier, "acknowledged"),
        (same_round, "were acknowledged: it is an older copy"),
    ] {
        load.disk.put(&file(JOURNAL), Some(journal));
        assert_refused(&mut load, &["/data/journal", text]).await;
    }
    load.disk.put(&file(JOURNAL), Some(newest));
    load.open().await.unwrap();
    load.verify().await;
}

#[tokio::test]
async fn p1_a_database_that_is_missing_or_of_an_earlier_time_is_refused() {
    let mut load = left(1, 3, false).await;
    let earlier = load.disk.content(&file(DATABASE)).unwrap();
    load.open().await.unwrap();
    for _ in 0..40 {
        load.publish_data("a", Bytes::from(vec![1; 3000])).await;
    }
    load.kill();
    let newest = load.disk.content(&file(DATABASE)).unwrap();
    load.disk.put(&file(DATABASE), Some(earlier));
    assert_refused(&mut load, &["is newer than 'meta.redb'"]).await;
    load.disk.put(&file(DATABASE), None);
    assert_refused(&mut load, &["'/data/meta.redb' is missing", "has journal"]).await;
    load.disk.put(&file(JOURNAL), None);
    load.disk.put(&file("segments/0000000000000001"), Some(vec![0; 10]));
    assert_refused(&mut load, &["'/data/meta.redb' is missing", "has segments"]).await;
    assert!(load.disk.content(&file(DATABASE)).is_none(), "nothing was made in its place");
    load.disk.put(&file(DATABASE), Some(newest));
    assert_refused(&mut load, &["/data/journal", "is missing"]).await;
}

#[tokio::test]
async fn a_directory_that_was_set_back_on_purpose_opens_without_its_witness() {
    let mut load = left(1, 3, false).await;
    let earlier = [JOURNAL, DATABASE].map(|name| (name, load.disk.content(&file(name))));
    load.open().await.unwrap();
    load.publish_data("b.c", Bytes::from_static(b"later")).await;
    load.stop();
    for (name, content) in earlier {
        load.disk.put(&file(name), content);
    }
    assert_refused(&mut load, &["If the directory was set back on purpose, remove '/data/LOCK'"]).await;
    load.disk.put(&file(LOCK), None);
    load.open().await.unwrap();
    assert_eq!(load.subjects().await, ["a"]);
}

#[tokio::test]
async fn a_journal_of_a_later_format_names_it() {
    let mut load = left(1, 3, true).await;
    let mut journal = load.disk.content(&file(JOURNAL)).unwrap();
    for at in [0, ALIGN] {
        let room = &mut journal[at..at + ALIGN];
        Slot { round: Round { number: 9, secret: [1; 16] }, first: 1, journal_bytes: 1 }.encode(room);
        room[8..12].copy_from_slice(&3u32.to_le_bytes());
        let crc = {
            let mut crc = crc32fast::Hasher::new();
            crc.update(&room[8..12]);
            crc.update(&room[16..56]);
            crc.finalize()
        };
        room[12..16].copy_from_slice(&crc.to_le_bytes());
    }
    load.disk.put(&file(JOURNAL), Some(journal));
    assert_refused(&mut load, &["has format 3, and this version reads formats up to 2: use the version that wrote it"])
        .await;
}

#[tokio::test]
async fn a_transaction_of_a_later_format_is_no_damage() {
    for (format, text) in [
        (Some(FORMAT + 1), "has format 5, and this version reads formats up to 4: use the version that wrote it"),
        (Some(FORMAT), "has a transaction that cannot be read: "),
        (None, "has a transaction that cannot be read: "),
    ] {
        let disk = FailingDisk::new(1, ROOMY);
        let sizes = Sizes { journal: 48 << 10, ..Sizes::default() };
        let volume = Arc::new(Volume::on(Arc::new(disk.clone()), super::load::file("").as_path(), sizes));
        let engine = Engine::open(volume.clone()).unwrap();
        if let Some(format) = format {
            let mut batch = Batch::default();
            batch.put(FACTS, FACT_FORMAT, format.to_le_bytes());
            engine.commit(&batch).unwrap();
        }
        let mut batch = Batch::default();
        batch.put_unknown();
        engine.commit_to_journal(&batch);
        disk.kill();
        drop(engine);
        let refused = Engine::open(volume).map(drop).unwrap_err().to_string();
        assert!(refused.contains(text), "{refused}");
    }
}

#[tokio::test]
async fn p7_a_page_that_cannot_be_read_is_named_and_the_others_are_served() {
    let mut load = Load::new(FailingDisk::new(4, ROOMY), 4);
    load.open().await.unwrap();
    for _ in 0..300 {
        load.publish_data("a", Bytes::from(vec![7; 3000])).await;
    }
    load.stop();
    load.open().await.unwrap();
    let calls = load.disk.calls().len() as u64;
    load.verify().await;
    let reads = load.disk.calls().split_off(usize::try_from(calls).unwrap());
    let read = reads.iter().position(|(call, file)| (*call, file.as_str()) == (Call::Read, DATABASE)).unwrap() as u64;
    // Once: not noticed. Again and again: named, and everything is there once the disk works again.
    for fault in [Fault::Passing, Fault::Lasting] {
        load.stop();
        load.open().await.unwrap();
        load.disk.fail_at(load.disk.calls().len() as u64 + read, fault);
        let first = load.read_all("a").await;
        if fault == Fault::Passing {
            assert_eq!(first.unwrap(), 300);
        } else {
            let error = first.unwrap_err();
            assert!(matches!(error, Error::DataLoss(_)), "{error:?}");
            assert!(error.to_string().contains("'/data/meta.redb' cannot be read at byte "), "{error}");
        }
        assert!(load.disk.injected().keys().any(|(call, _, injected)| (*call, *injected) == (Call::Read, fault)));
        load.disk.heal();
        assert_eq!(load.read_all("a").await.unwrap(), 300, "it heals by itself");
    }
}

#[tokio::test]
async fn p6_a_segment_that_cannot_be_made_takes_no_quota() {
    let disk = FailingDisk::new(1, ROOMY);
    let limits = Limits { quota: 1 << 20, ..Limits::default() };
    let sizes = Sizes { journal: 48 << 10, segment: 24 << 10, reserve: 0, ..Sizes::default() };
    let volume = Volume::on(Arc::new(disk.clone()), &file(""), sizes);
    let (_metadata, files) = super::super::open_on(volume, limits).unwrap();
    for number in 1..100 {
        // Its space cannot be taken: the file is there, and empty.
        disk.fail_at(disk.calls().len() as u64 + 1, Fault::Full);
        let refused = files.append(number, vec![Bytes::from_static(b"x")]).await.unwrap_err();
        assert!(refused.to_string().contains("could not be made"), "{number}: {refused}");
    }
    disk.heal();
    assert_eq!(files.append(100, vec![Bytes::from_static(b"x")]).await.unwrap(), Some(0), "the quota is not used up");
}

#[tokio::test]
async fn p7_a_bad_sector_of_a_segment_is_damage_and_stops_nothing_else() {
    let disk = FailingDisk::new(3, ROOMY);
    let sizes = Sizes { journal: 48 << 10, segment: 24 << 10, reserve: 0, ..Sizes::default() };
    let volume = Volume::on(Arc::new(disk.clone()), &file(""), sizes);
    let (_metadata, files) = super::super::open_on(volume, Limits::default()).unwrap();
    for number in [1, 2] {
        files.append(number, vec![Bytes::from(vec![7; 5000])]).await.unwrap();
    }
    for fault in [Fault::Passing, Fault::Lasting] {
        // The open, then the read.
        disk.fail_at(disk.calls().len() as u64 + 1, fault);
        let read = files.read(PayloadKey::Segment(1), 0, 5000).await;
        match (fault, read) {
            (Fault::Passing, read) => assert_eq!(read.unwrap(), vec![7; 5000]),
            (_, Err(Error::DataLoss(what))) => assert!(what.contains("bytes 0 to 5000 of the file"), "{what}"),
            (_, other) => panic!("{other:?}"),
        }
        assert_eq!(files.read(PayloadKey::Segment(2), 0, 5000).await.unwrap(), vec![7; 5000]);
    }
    assert!(disk.injected().values().sum::<u64>() >= 4, "one passes, three tries fail");
}

/// Fault by fault: the process ends between the write and the sync of a frame, a new one finds the frame, answers the
/// repeated publish as a duplicate, and the power goes.
#[tokio::test]
async fn p1_a_duplicate_that_was_found_after_a_crash_survives_a_power_loss() {
    for seed in 0..40 {
        let mut load = Load::new(FailingDisk::new(seed, ROOMY), seed);
        load.open().await.unwrap();
        load.publish_data("a", Bytes::from_static(b"first")).await;
        // The write of the next frame, then its sync.
        load.disk.fail_at(load.disk.calls().len() as u64 + 1, Fault::Kill);
        load.publish_data("a", Bytes::from_static(b"second")).await;
        assert!(load.disk.is_dead(), "the process ended at the sync");
        load.kill();
        load.disk.heal();
        load.open().await.unwrap();
        // Nothing is written in between; what verify sees counts as acknowledged.
        load.verify().await;
        assert_eq!(load.read_all("a").await.unwrap(), 2, "the frame is in the page cache");
        load.lose_power();
        load.open().await.unwrap();
        assert_eq!(load.read_all("a").await.unwrap(), 2, "seed {seed}");
        load.verify().await;
    }
}

#[test]
fn new_files_are_laid_out_whole() {
    let disk = FailingDisk::new(1, ROOMY);
    let path = file("x");
    let opened = disk.open(&path, OpenMode::WRITE.create(Create::New)).unwrap();
    opened.write_all_at(b"abc", 2).unwrap();
    assert_eq!(disk.content(&path).unwrap(), b"\0\0abc");
    disk.kill();
    assert!(opened.sync_data().is_err(), "a process that is gone does nothing");
}
