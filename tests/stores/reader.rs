//! Reading blocks whose bytes were damaged on disk (P7), and blocks that hold expired messages (P5).

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use minitoolstream::{
    Error,
    block::{Block, OBJECT_PART, PayloadKey, Placement},
    store::{
        check::{self, Kind, Mode, Report},
        reader::{self, Page},
    },
    types::Draft,
};

use crate::{
    backend::{Embedded, Ending},
    rig::Rig,
    words::{Home, Parcel, With, draft, inline, many, object, slice, subject},
};

/// Replaces a byte of a file by its complement.
fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

fn path(dir: &Path, key: PayloadKey) -> PathBuf {
    let home = if matches!(key, PayloadKey::Segment(_)) { "segments" } else { "objects" };
    dir.join(home).join(format!("{:016}", key.number()))
}

/// Flips every place of a file where `text` stands.
fn flip_text(path: &Path, text: &str) {
    let bytes = fs::read(path).unwrap();
    let places: Vec<_> = (0..bytes.len() - text.len()).filter(|&at| bytes[at..].starts_with(text.as_bytes())).collect();
    assert!(!places.is_empty(), "'{text}' is not in {}", path.display());
    for at in places {
        flip(path, at as u64);
    }
}

async fn embedded() -> Rig<Embedded> {
    Rig::new(Embedded::start().await, Ending::Closed)
}

async fn read(rig: &Rig, name: &str, from: u64, limit: usize) -> Page {
    reader::read(rig.stores(), &subject(name), from, limit, rig.now).await.unwrap()
}

fn sequences(page: &Page) -> Vec<u64> {
    page.messages.iter().map(|message| message.sequence).collect()
}

/// The blocks that a check finds damaged, by subject and first sequence.
async fn damaged(rig: &Rig) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let report = |report| {
        if let Report::Finding(finding) = report {
            assert_eq!(finding.kind, Kind::DamagedBlock);
            found.push((finding.subject.unwrap().to_string(), finding.sequence));
        }
    };
    check::check(rig.stores(), Mode::Exclusive, report).await.unwrap();
    found
}

fn assert_names(damage: Option<&Error>, block: &str) {
    let Some(Error::DataLoss(text)) = damage else { panic!("no damage was seen: {damage:?}") };
    assert!(text.contains(block), "{text}");
}

fn slice_of(block: &Block) -> (PayloadKey, u64, u64) {
    let Placement::Slice { segment, offset, len } = block.placement else { panic!("{block:?} is no slice") };
    (PayloadKey::Segment(segment), offset, len)
}

#[tokio::test]
async fn p7_a_damaged_slice_is_named_and_its_neighbours_are_served() {
    let mut rig = embedded().await;
    let dir = rig.backend.dir().to_path_buf();
    let texts = |a: &str, b: &str| slice([draft("a", a), draft("a", b)]);
    rig.store([texts("1", "2"), texts("3", "4"), texts("5", "6")]).await;
    let blocks = rig.scan("a", 1, 10, u64::MAX).await.blocks;
    let (key, offset, len) = slice_of(&blocks[1]);
    let good = fs::read(path(&dir, key)).unwrap();
    for at in offset..offset + len {
        flip(&path(&dir, key), at);
        let page = read(&rig, "a", 1, 10).await;
        assert_eq!((sequences(&page), page.next), (vec![1, 2], 3), "byte {at}");
        assert_names(page.damage.as_ref(), "block 3 to 4 of 'a'");
        let page = read(&rig, "a", 4, 10).await;
        assert_eq!((sequences(&page), page.next), (vec![], 4));
        assert_names(page.damage.as_ref(), "block 3 to 4 of 'a'");
        let page = read(&rig, "a", 5, 10).await;
        assert_eq!((sequences(&page), page.next, page.damage), (vec![5, 6], 7, None));
        flip(&path(&dir, key), at);
    }
    assert_eq!(fs::read(path(&dir, key)).unwrap(), good);
    flip(&path(&dir, key), offset);
    assert_eq!(damaged(&rig).await, [("a".into(), 3)]);
    rig.purge("a", 4, 10).await;
    assert_eq!(rig.live("a").await, [5, 6], "a purge passes the damage");
    assert_eq!(damaged(&rig).await, []);
}

#[tokio::test]
async fn p7_a_cut_segment_takes_only_what_lay_behind_the_cut() {
    let mut rig = embedded().await;
    let dir = rig.backend.dir().to_path_buf();
    for text in ["1", "2", "3"] {
        rig.store([slice([draft("a", text)])]).await;
    }
    let (key, offset, len) = slice_of(&rig.scan("a", 3, 1, 0).await.blocks[0]);
    OpenOptions::new().write(true).open(path(&dir, key)).unwrap().set_len(offset + len - 1).unwrap();
    let page = read(&rig, "a", 1, 10).await;
    assert_eq!((sequences(&page), page.next), (vec![1, 2], 3));
    assert_names(page.damage.as_ref(), "block 3 to 3 of 'a'");
    fs::remove_file(path(&dir, key)).unwrap();
    let page = read(&rig, "a", 1, 10).await;
    assert_eq!((sequences(&page), page.next), (vec![], 1));
    assert_names(page.damage.as_ref(), "block 1 to 1 of 'a'");
    assert_names(page.damage.as_ref(), "missing");
    assert_eq!(damaged(&rig).await.len(), 3);
}

#[tokio::test]
async fn p7_a_damaged_inline_body_is_named() {
    let mut rig = embedded().await;
    // Without headers: those are text, and would give the damage away.
    let flipped = Draft { headers: vec![], ..draft("a", "flip me, I am data") };
    rig.store([many("a", 2), inline([flipped, draft("a", "4")]), many("a", 1)]).await;
    let flip = |dir: &Path| flip_text(&dir.join("meta.redb"), "flip me, I am data");
    rig.backend.tamper(Ending::Closed, flip).await.unwrap();
    let page = read(&rig, "a", 1, 10).await;
    assert_eq!((sequences(&page), page.next), (vec![1, 2], 3));
    assert_names(page.damage.as_ref(), "block 3 to 4 of 'a'");
    assert_eq!(sequences(&read(&rig, "a", 5, 10).await), [5]);
    assert_eq!(damaged(&rig).await, [("a".into(), 3)]);
}

#[tokio::test]
async fn p7_a_damaged_part_of_an_object_is_refused_by_itself() {
    let mut rig = embedded().await;
    let dir = rig.backend.dir().to_path_buf();
    let data = "0123456789".repeat(OBJECT_PART / 10 * 2 + 1);
    let large = Draft { headers: vec![], ..draft("a", &data) };
    rig.store([many("a", 1), Parcel { home: Home::Object, drafts: vec![large] }, object(draft("a", "small"))]).await;
    let key = rig.scan("a", 2, 1, 0).await.blocks[0].payload().unwrap();
    flip(&path(&dir, key), OBJECT_PART as u64 + 17);
    let messages = rig.messages("a").await;
    assert_eq!(messages.len(), 3, "its record is whole: what it is can still be told");
    let damaged_object = messages[1].object.as_ref().unwrap();
    assert_eq!(damaged_object.read_part(rig.stores(), 0).await.unwrap(), data.as_bytes()[..OBJECT_PART]);
    for refused in [damaged_object.read_part(rig.stores(), 1).await, damaged_object.read_all(rig.stores()).await] {
        assert_names(refused.as_ref().err(), &key.to_string());
    }
    assert_eq!(rig.data(&messages[2]).await, "small");
    assert_eq!(damaged(&rig).await, [("a".into(), 2)]);
    fs::remove_file(path(&dir, key)).unwrap();
    assert_names(damaged_object.read_part(rig.stores(), 0).await.as_ref().err(), &key.to_string());
    assert_eq!(damaged(&rig).await, [("a".into(), 2)]);
}

#[tokio::test]
async fn p7_damage_inside_the_journal_is_refused_at_the_start() {
    let mut rig = embedded().await;
    for text in ["first of all", "in the middle", "last of all"] {
        rig.store([inline([draft("a", text)])]).await;
    }
    let journal = |dir: &Path| dir.join("journal");
    let refused = rig.backend.tamper(Ending::Killed, |dir| flip_text(&journal(dir), "in the middle")).await;
    assert_names(refused.as_ref().err(), "journal");
    let mended = rig.backend.tamper(Ending::Closed, |dir| mend_text(&journal(dir), "in the middle")).await;
    assert_eq!(mended, Ok(()));
    assert_eq!(rig.live("a").await, [1, 2, 3], "refusing to start changed nothing");
}

/// Undoes [`flip_text`].
fn mend_text(path: &Path, text: &str) {
    let mut flipped = text.as_bytes().to_vec();
    flipped[0] = !flipped[0];
    let bytes = fs::read(path).unwrap();
    for at in (0..bytes.len() - text.len()).filter(|&at| bytes[at..].starts_with(&flipped)) {
        flip(path, at as u64);
    }
}

#[tokio::test]
async fn p5_expired_messages_of_a_live_block_are_passed_over() {
    for make in [|drafts: [_; 4]| inline(drafts), |drafts| slice(drafts)] {
        let mut rig = embedded().await;
        let at = |millis| draft("a", "x").expires(rig.now.0 + millis);
        let block = make([at(10), draft("a", "for ever"), at(20), at(10)]);
        rig.store([block, many("a", 1)]).await;
        assert_eq!(rig.live("a").await, [1, 2, 3, 4, 5]);
        rig.pass(10);
        assert_eq!(rig.live("a").await, [2, 3, 5], "from the deadline on, not after it");
        let page = read(&rig, "a", 1, 1).await;
        assert_eq!((sequences(&page), page.next), (vec![2], 3));
        let page = read(&rig, "a", 4, 1).await;
        assert_eq!((sequences(&page), page.next), (vec![5], 6));
        rig.pass(10);
        assert_eq!(rig.live("a").await, [2, 5]);
    }
}

#[tokio::test]
async fn p5_a_damaged_block_is_passed_once_all_of_it_expired() {
    let mut rig = embedded().await;
    let dir = rig.backend.dir().to_path_buf();
    let short = draft("a", "short").expires(rig.now.0 + 10);
    rig.store([slice([short]), slice([draft("a", "2")])]).await;
    let (key, offset, _) = slice_of(&rig.scan("a", 1, 1, 0).await.blocks[0]);
    flip(&path(&dir, key), offset);
    assert_names(read(&rig, "a", 1, 10).await.damage.as_ref(), "block 1 to 1");
    rig.pass(10);
    assert_eq!(rig.live("a").await, [2]);
}

#[tokio::test]
async fn pages_go_on_where_the_last_one_ended() {
    let mut rig = embedded().await;
    rig.store([many("a", 3), slice([draft("a", "4")]), many("a", 2)]).await;
    for limit in 1..=7 {
        let (mut seen, mut from) = (Vec::new(), 0);
        for _ in 0..7 {
            let page = read(&rig, "a", from, limit).await;
            assert!(page.messages.len() <= limit);
            seen.extend(sequences(&page));
            from = page.next;
            if page.is_end {
                break;
            }
        }
        assert_eq!((seen, from), ((1..=6).collect(), 7), "{limit} at a time");
    }
}

#[tokio::test]
async fn p2_a_read_beyond_the_end_does_not_come_back() {
    let mut rig = embedded().await;
    assert_eq!(read(&rig, "a", 10, 1).await.next, 10, "nor in a subject that has no message yet");
    rig.store([many("a", 5)]).await;
    for (from, next) in [(6, 6), (7, 7), (10, 10), (u64::MAX, u64::MAX)] {
        let page = read(&rig, "a", from, 10).await;
        assert_eq!((sequences(&page), page.next, page.is_end), (vec![], next, true));
    }
    rig.purge("a", 5, 10).await;
    assert_eq!(read(&rig, "a", 1, 10).await.next, 6);
}
