//! Payload that looks like the stores' own structures, over several rounds of the journal and restarts.

use bytes::Bytes;

use super::{
    super::{
        aligned::ALIGN,
        batch::Batch,
        frame::{FRAME_HEADER, Round, Slot, seal},
        journal::JOURNAL,
        tables::{self, SUBJECTS},
        witness::LOCK,
    },
    disk::FailingDisk,
    load::{Load, ROOMY, file},
};
use crate::{store::SubjectRow, types::Subject};

/// A transaction that creates a subject.
fn forged_batch(len: usize) -> Vec<u8> {
    let forged = Subject::parse("subject", "forged").unwrap();
    let mut batch = Batch::default();
    batch.put(SUBJECTS, "forged", tables::subject_value(&SubjectRow { last: 9, ..SubjectRow::new(forged) }));
    let mut bytes = vec![0; batch.encoded_len()];
    batch.encode(&mut bytes);
    bytes.resize(bytes.len().max(len), 0);
    bytes
}

/// A frame, as format 3 had it.
fn old_frame(number: u64) -> Vec<u8> {
    let mut frame = vec![0; 24];
    frame[16..24].copy_from_slice(&number.to_le_bytes());
    frame.extend_from_slice(&forged_batch(0));
    let crc = crc32fast::hash(&frame[16..]);
    let len = u32::try_from(frame.len() - 24).unwrap();
    for (at, field) in [u32::from_le_bytes(*b"MTSJ"), len, crc].into_iter().enumerate() {
        frame[4 * at..4 * at + 4].copy_from_slice(&field.to_le_bytes());
    }
    frame
}

fn frame(number: u64, secret: [u8; 16]) -> Vec<u8> {
    let mut frame = vec![0; FRAME_HEADER];
    frame.extend_from_slice(&forged_batch(0));
    seal(&mut frame, number, &secret);
    frame
}

fn slot(number: u64) -> Vec<u8> {
    let mut room = vec![0; ALIGN];
    Slot { round: Round { number, secret: [0; 16] }, first: 1, journal_bytes: 48 << 10 }.encode(&mut room);
    room
}

/// Pages of which each begins with one of these structures.
fn pages(structures: &[Vec<u8>]) -> Vec<u8> {
    let page = |structure: &Vec<u8>| {
        let mut page = structure.clone();
        page.resize(ALIGN, 0);
        page
    };
    structures.iter().flat_map(page).collect()
}

/// Where in a page of the journal the data of a message begins.
fn begins_at(load: &Load, marker: &[u8]) -> usize {
    let journal = load.disk.content(&file(JOURNAL)).unwrap();
    let at = journal.windows(marker.len()).position(|bytes| bytes == marker);
    at.expect("the message is in the journal") % ALIGN
}

/// The last transaction.
fn last(load: &Load) -> u64 {
    let witness = load.disk.content(&file(LOCK)).unwrap();
    u64::from_le_bytes(witness[..8].try_into().unwrap())
}

#[tokio::test]
async fn p7_payload_that_looks_like_a_journal_is_only_payload() {
    let disk = FailingDisk::new(1, ROOMY);
    let mut load = Load::new(disk.clone(), 1);
    load.open().await.unwrap();
    let marker: Vec<u8> = (0..64).map(|byte| byte ^ 0xA5).collect();
    load.publish_data("a", [marker.as_slice(), &[0; 9000]].concat().into()).await;
    let shift = ALIGN - begins_at(&load, &marker);
    let redb_page = disk.content(&file("meta.redb")).unwrap()[..ALIGN].to_vec();
    let (mut forged, mut restarts) = (0, 0);
    for round in 0..60 {
        let next = last(&load) + 1;
        let structures: [Vec<Vec<u8>>; 5] = [
            (1..4).map(|number| old_frame(next + number)).collect(),
            (1..4).map(|number| frame(next + number, [0; 16])).collect(),
            vec![old_frame(u64::MAX), frame(u64::MAX, [0; 16]), frame(next + 2, *b"MTSroundMTSround")],
            vec![slot(2), slot(u64::MAX), slot(next)],
            vec![redb_page.clone(), forged_batch(3000), old_frame(next + 2)],
        ];
        for structures in &structures {
            let data = [vec![0; shift], pages(structures)].concat();
            load.publish_data("a", data.into()).await;
            let journal = disk.content(&file(JOURNAL)).unwrap();
            forged += journal.chunks(ALIGN).filter(|page| structures.iter().any(|it| page.starts_with(it))).count();
            // Short frames, so that the end of a round is among the rests of the one before.
            for _ in 0..round % 4 {
                load.publish_data("a", Bytes::from_static(b"short")).await;
            }
        }
        match round % 4 {
            0 => load.stop(),
            1 => load.kill(),
            2 => load.lose_power(),
            _ => continue,
        }
        restarts += 1;
        load.open().await.unwrap();
        assert_eq!(load.subjects().await, ["a"], "no other subject was published to");
        load.verify().await;
        load.purge_all("a").await;
    }
    eprintln!("{forged} pages of the journal began with a forged structure, {restarts} restarts");
    assert!(forged > 200 && restarts > 30, "{forged} {restarts}");
}

#[tokio::test]
async fn p7_subjects_headers_and_ids_that_look_like_structures_are_only_text() {
    let disk = FailingDisk::new(2, ROOMY);
    let mut load = Load::new(disk, 2);
    load.open().await.unwrap();
    for restart in 0..4 {
        for text in ["MTSJ", "MTSround", "redb", "\u{E000}", "\u{7FF}\u{800}"] {
            let text: String = text.repeat(200 / text.len());
            load.publish_named("a", &text).await;
        }
        match restart % 2 {
            0 => load.kill(),
            _ => load.lose_power(),
        }
        load.open().await.unwrap();
        assert_eq!(load.subjects().await, ["a"]);
        load.verify().await;
    }
}
