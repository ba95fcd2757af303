//! Data directories of earlier formats: the blocks of version 0.1 have no place in the stream of all subjects, and until
//! format 3 the journal has no rounds.

use std::path::Path;

use minitoolstream::{
    block::{Block, Placement},
    consumer::Start,
    types::Timestamp,
};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::{
    backend::{Embedded, Ending},
    rig::Rig,
    words::{With, draft, filter, inline, many, object, slice},
    workers::{from, on},
};

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

const BLOCKS: Table = Table::new("blocks");
const FACTS: Table = Table::new("facts");
/// Tables that version 0.1 did not have.
const LATER: [&str; 5] = ["stream", "consumers", "cursors", "pending", "schedule"];

fn rows(path: &Path, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_read().unwrap();
    let table = transaction.open_table(table).unwrap();
    table
        .iter()
        .unwrap()
        .map(|row| row.unwrap())
        .map(|(key, value)| (key.value().into(), value.value().into()))
        .collect()
}

/// A block row as version 0.1 wrote it: without the eight bytes of the stream sequence.
fn without_order(mut row: Vec<u8>) -> Vec<u8> {
    assert_eq!(row[0], 2);
    row[0] = 1;
    row.drain(25..33);
    row
}

/// Turns a data directory into what version 0.1 would have left behind.
fn age(dir: &Path) {
    let path = dir.join("meta.redb");
    let blocks = rows(&path, BLOCKS);
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(BLOCKS).unwrap();
        for (key, row) in blocks {
            table.insert(key.as_slice(), without_order(row).as_slice()).unwrap();
        }
        let mut facts = transaction.open_table(FACTS).unwrap();
        facts.insert(b"format".as_slice(), 1_u64.to_le_bytes().as_slice()).unwrap();
        facts.remove(b"next_stream".as_slice()).unwrap();
        facts.remove(b"round".as_slice()).unwrap();
    }
    for name in LATER {
        transaction.delete_table(Table::new(name)).unwrap();
    }
    transaction.commit().unwrap();
    std::fs::write(dir.join("journal"), vec![0; 16 << 20]).unwrap();
    std::fs::write(dir.join("LOCK"), []).unwrap();
}

/// What the store has that was there in version 0.1.
async fn contents(rig: &Rig<Embedded>) -> Vec<(String, Block)> {
    let mut blocks = Vec::new();
    for row in rig.subjects().await {
        let scan = rig.scan(row.subject.as_str(), 1, usize::MAX, u64::MAX).await;
        blocks
            .extend(scan.blocks.into_iter().map(|block| (row.subject.to_string(), Block { stream_first: 0, ..block })));
    }
    blocks
}

#[tokio::test]
async fn p1_a_directory_of_version_1_gets_an_order() {
    let mut rig = Rig::new(Embedded::start().await, Ending::Closed);
    rig.store([many("b", 3), slice([draft("a", "1"), draft("a", "2")]), object(draft("a", "3"))]).await;
    rig.store([inline([draft("b", "4").expires(rig.now.0 + 10), draft("b", "5").expires(rig.now.0 + 20)])]).await;
    rig.store([many("c.x", 2), many("a", 1)]).await;
    rig.purge("b", 2, 10).await;
    rig.purge("c.x", 2, 10).await;
    rig.ack([("d", "a", 2)]).await;
    rig.seal().await;
    let (before, books) = (contents(&rig).await, rig.subjects().await);
    rig.backend.tamper(Ending::Closed, age).await.unwrap();
    assert_eq!(contents(&rig).await, before);
    assert_eq!(rig.subjects().await, books);
    rig.assert_sound().await;
    assert_eq!((rig.live("a").await, rig.live("b").await), (vec![1, 2, 3, 4], vec![3, 4, 5]));
    assert_eq!(rig.position("d", "a").await, 2);
    // Subject by subject, without gaps.
    let limits = minitoolstream::block::ScanLimits { blocks: 100, bytes: u64::MAX, rows: 100 };
    let scan = rig.metadata().stream(&filter(">"), 1, limits).await.unwrap();
    let places: Vec<_> =
        scan.blocks.iter().map(|of| (of.block.stream_first, of.subject.as_str(), of.block.first)).collect();
    assert_eq!(places, [(1, "a", 1), (3, "a", 3), (4, "a", 4), (5, "b", 1), (8, "b", 4)]);
    assert_eq!((scan.next, scan.is_end), (10, true));
    // And it is a directory as any other.
    rig.reopen(Ending::Killed).await;
    rig.store([many("c.x", 1)]).await;
    rig.create("c", on(">")).await;
    rig.create("one", from("b", Start::Sequence(4))).await;
    let given = rig.take("c", 1, 99).await.into_iter().map(|(at, _)| at).collect::<Vec<_>>();
    assert_eq!(given, [1, 2, 3, 4, 7, 8, 9, 10]);
    assert_eq!(rig.take("one", 1, 99).await, [(8, 1), (9, 1)]);
    rig.pass(20);
    assert_eq!(rig.expire(10).await, (1, 2));
    rig.purge("a", 4, 100).await;
    rig.assert_sound().await;
}

#[tokio::test]
async fn many_blocks_are_put_in_order_in_steps() {
    let mut rig = Rig::new(Embedded::start().await, Ending::Closed);
    for _ in 0..5 {
        let blocks: Vec<_> = (0..500).map(|_| many("a", 2)).collect();
        rig.commit(&blocks, vec![]).await.unwrap();
    }
    rig.store([many("b", 1)]).await;
    rig.backend.tamper(Ending::Closed, age).await.unwrap();
    let mut blocks = rig.scan("a", 1, usize::MAX, u64::MAX).await.blocks;
    assert_eq!(blocks.len(), 2500);
    assert!(blocks.iter().all(|block| block.stream_first == block.first));
    blocks.extend(rig.scan("b", 1, 1, 0).await.blocks);
    assert_eq!(blocks.last().unwrap().stream_first, 5001);
    rig.assert_sound().await;
}

#[tokio::test]
async fn a_migration_that_was_cut_short_goes_on() {
    let mut rig = Rig::new(Embedded::start().await, Ending::Closed);
    rig.store([many("a", 2), many("b", 3), many("c", 1)]).await;
    // The first subject has its order already; the format is not written yet.
    let half = |dir: &Path| {
        let path = dir.join("meta.redb");
        let first = rows(&path, BLOCKS).remove(0);
        age(dir);
        let database = Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut blocks = transaction.open_table(BLOCKS).unwrap();
            blocks.insert(first.0.as_slice(), first.1.as_slice()).unwrap();
            let mut facts = transaction.open_table(FACTS).unwrap();
            facts.insert(b"next_stream".as_slice(), 3_u64.to_le_bytes().as_slice()).unwrap();
            let mut stream = transaction.open_table(Table::new("stream")).unwrap();
            let row = [2_u32.to_le_bytes().as_slice(), &1_u64.to_le_bytes(), b"a"].concat();
            stream.insert(1_u64.to_be_bytes().as_slice(), row.as_slice()).unwrap();
        }
        transaction.commit().unwrap();
    };
    rig.backend.tamper(Ending::Closed, half).await.unwrap();
    rig.create("c", on(">")).await;
    assert_eq!(rig.take("c", 1, 9).await.into_iter().map(|(at, _)| at).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    rig.assert_sound().await;
}

#[tokio::test]
async fn a_directory_of_a_later_version_is_refused_and_left_as_it_is() {
    let mut rig = Rig::new(Embedded::start().await, Ending::Closed);
    rig.store([many("a", 2), many("b", 3)]).await;
    let write = |format: u64| {
        move |dir: &Path| {
            let database = Database::open(dir.join("meta.redb")).unwrap();
            let transaction = database.begin_write().unwrap();
            let mut facts = transaction.open_table(FACTS).unwrap();
            facts.insert(b"format".as_slice(), format.to_le_bytes().as_slice()).unwrap();
            drop(facts);
            transaction.commit().unwrap();
        }
    };
    let refusal = rig.backend.tamper(Ending::Closed, write(5)).await.unwrap_err().to_string();
    let told =
        "has format 5, and this version reads formats up to 4: use the version that wrote it, or restore a backup";
    assert!(refusal.contains(told), "{refusal}");
    rig.backend.tamper(Ending::Closed, write(4)).await.unwrap();
    assert_eq!((rig.live("a").await, rig.live("b").await), (vec![1, 2], vec![1, 2, 3]));
    rig.assert_sound().await;
}

#[test]
fn yesterdays_block_row_is_read() {
    let mut row = vec![1, 2, 0, 0, 0];
    row.extend(77_u64.to_le_bytes());
    row.extend(99_u64.to_le_bytes());
    row.extend(5_u32.to_le_bytes());
    row.extend([0, b'x']);
    let block = Block::decode(7, row.into()).unwrap();
    assert_eq!((block.first, block.stream_first, block.count, block.crc), (7, 0, 2, 5));
    assert_eq!((block.created, block.expires), (Timestamp(77), Some(Timestamp(99))));
    assert_eq!(block.placement, Placement::Inline(bytes::Bytes::from_static(b"x")));
}
