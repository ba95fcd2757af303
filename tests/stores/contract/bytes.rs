//! The payload store: bytes by key and range.

use bytes::Bytes;
use minitoolstream::{Error, Result, block::PayloadKey};

use crate::{
    rig::Rig,
    words::{draft, object, slice},
};

/// Bytes that differ from one another.
fn pattern(seed: u8, len: usize) -> Bytes {
    (0..len).map(|at| seed.wrapping_add(u8::try_from(at % 251).unwrap())).collect()
}

/// Appends, to a new segment if the present one is full.
async fn append(rig: &mut Rig, key: &mut PayloadKey, bodies: &[Bytes]) -> u64 {
    if let Some(offset) = rig.payload().append(key.number(), bodies.to_vec()).await.unwrap() {
        return offset;
    }
    rig.metadata().seal_payload(*key, rig.now).await.unwrap();
    *key = rig.open(PayloadKey::Segment).await;
    rig.payload().append(key.number(), bodies.to_vec()).await.unwrap().unwrap()
}

fn assert_lost(read: &Result<Bytes>) {
    assert!(matches!(read, Err(Error::DataLoss(_))), "{read:?}");
}

pub(crate) async fn what_is_appended_is_read(rig: &mut Rig) {
    let mut key = rig.open(PayloadKey::Segment).await;
    let mut written = Vec::new();
    for (seed, lens) in [&[10][..], &[4096, 1], &[5000, 0, 3], &[1], &[100_000]].into_iter().enumerate() {
        let bodies: Vec<_> = lens.iter().map(|len| pattern(u8::try_from(seed).unwrap(), *len)).collect();
        let offset = append(rig, &mut key, &bodies).await;
        written.push((key, offset, Bytes::from(bodies.concat())));
    }
    for (key, offset, bytes) in written {
        let len = bytes.len() as u64;
        assert_eq!(rig.payload().read(key, offset, len).await.unwrap(), bytes, "bodies lie back to back");
        assert_eq!(rig.payload().read(key, offset + len / 2, 1).await.unwrap()[0], bytes[bytes.len() / 2]);
        assert_eq!(rig.payload().read(key, offset, 0).await.unwrap().len(), 0);
    }
}

pub(crate) async fn a_full_segment_takes_no_more(rig: &mut Rig) {
    let key = rig.open(PayloadKey::Segment).await;
    let body = pattern(1, 8 << 20);
    let mut offsets = Vec::new();
    for _ in 0..100 {
        let Some(offset) = rig.payload().append(key.number(), vec![body.clone()]).await.unwrap() else { break };
        offsets.push(offset);
    }
    assert!((1..100).contains(&offsets.len()), "{} appends", offsets.len());
    for offset in offsets {
        let len = body.len() as u64;
        assert_eq!(rig.payload().read(key, offset, len).await.unwrap(), body);
    }
    let next = rig.open(PayloadKey::Segment).await;
    assert!(rig.payload().append(next.number(), vec![body]).await.unwrap().is_some());
}

pub(crate) async fn p7_nothing_is_read_beyond_a_seal(rig: &mut Rig) {
    rig.store([slice([draft("a", "sealed")])]).await;
    let key = rig.seal().await.unwrap();
    let len = rig.payload_row(key).await.unwrap().len;
    assert_eq!(rig.payload().read(key, 0, len).await.unwrap().len() as u64, len);
    assert_lost(&rig.payload().read(key, 0, len + 1).await);
    assert_lost(&rig.payload().read(key, len + 10_000, 1).await);
    rig.pause().await;
    assert_eq!(rig.live("a").await, [1]);
}

pub(crate) async fn objects_are_read_in_ranges(rig: &mut Rig) {
    let data = pattern(7, (2 << 20) + 5);
    let key = rig.open(PayloadKey::Object).await;
    rig.payload().put_object(key.number(), data.clone()).await.unwrap();
    let len = data.len();
    for (from, to) in [(0, len), (0, 1), (len - 1, len), (1 << 20, 2 << 20), (77, 4242)] {
        let read = rig.payload().read(key, from as u64, (to - from) as u64).await.unwrap();
        assert_eq!(read, data.slice(from..to));
    }
    assert_lost(&rig.payload().read(key, 1, len as u64).await);
    let empty = rig.open(PayloadKey::Object).await;
    rig.payload().put_object(empty.number(), Bytes::new()).await.unwrap();
    assert!(rig.payload().read(empty, 0, 0).await.unwrap().is_empty());
}

pub(crate) async fn p7_what_is_missing_is_data_loss(rig: &mut Rig) {
    for key in [PayloadKey::Segment(99), PayloadKey::Object(99)] {
        let Err(Error::DataLoss(text)) = rig.payload().read(key, 0, 1).await else { panic!("{key} was read") };
        assert!(text.contains(&key.to_string()), "{text}");
    }
}

pub(crate) async fn deleting_twice_is_fine(rig: &mut Rig) {
    rig.store([object(draft("a", "object")), slice([draft("b", "slice")])]).await;
    rig.seal().await.unwrap();
    rig.purge("a", 1, 10).await;
    rig.purge("b", 1, 10).await;
    let garbage = rig.garbage().await;
    assert_eq!(garbage.len(), 2);
    for _ in 0..2 {
        for removed in &garbage {
            rig.payload().delete(removed.key).await.unwrap();
            assert_lost(&rig.payload().read(removed.key, 0, 1).await);
        }
        rig.pause().await;
    }
    assert!(rig.payload().keys().await.unwrap().is_empty());
}

pub(crate) async fn keys_are_listed(rig: &mut Rig) {
    assert!(rig.payload().keys().await.unwrap().is_empty());
    rig.store([object(draft("a", "1")), slice([draft("a", "2")]), object(draft("a", "3"))]).await;
    let mut expected: Vec<_> = rig.payload_rows().await.iter().map(|row| row.key).collect();
    expected.sort_unstable();
    for _ in 0..2 {
        let mut keys = rig.payload().keys().await.unwrap();
        keys.sort_unstable();
        assert_eq!(keys, expected);
        rig.pause().await;
    }
    rig.payload().writable().await.unwrap();
    rig.metadata().writable().await.unwrap();
}
