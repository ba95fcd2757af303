//! Uploads: rows before bytes, one message at the end, and nothing left behind.

use bytes::Bytes;
use minitoolstream::{
    Error,
    block::{PayloadKey, guard::Refusal, object::Tally},
    store::{Garbage, NewUpload, PayloadRow, Saved, Synced, Upload, UploadState, Writer},
    types::{Draft, Timestamp, UploadId, Uploaded},
};

use crate::{
    rig::{Rig, WINDOW},
    words::{With, draft, inline, object, subject},
};

fn id(name: &str) -> UploadId {
    UploadId::parse("upload_id", name).unwrap()
}

fn new(rig: &Rig, name: &str, header: &str) -> NewUpload {
    let deadline = Timestamp(rig.now.0 + 500);
    NewUpload { id: id(name), header: header.to_owned().into(), now: rig.now, deadline, uploads_max: 3 }
}

/// Begins an upload; gives object, epoch and what was saved.
async fn begin(rig: &Rig, name: &str) -> (u64, u64, Saved) {
    match rig.metadata().begin_upload(new(rig, name, "header")).await.unwrap().state {
        UploadState::Open { object, epoch, saved, .. } => (object, epoch, saved),
        done @ UploadState::Done { .. } => panic!("{done:?}"),
    }
}

async fn find(rig: &Rig, name: &str) -> Option<Upload> {
    rig.metadata().upload(&id(name)).await.unwrap()
}

/// The draft that makes an upload a message, in its first epoch.
fn uploaded(rig: &Rig, name: &str, number: u64, data: &[u8]) -> Draft {
    uploaded_in(1, rig, name, number, data)
}

fn uploaded_in(epoch: u64, rig: &Rig, name: &str, number: u64, data: &[u8]) -> Draft {
    let tally = Tally::of(data);
    let (size, sha256, part_crcs) = (tally.len(), tally.sha256(), tally.part_crcs());
    let whole = Uploaded { object: number, epoch, size, sha256, part_crcs };
    let empty = Draft { data: Bytes::new(), created: rig.now, ..draft("a", "") };
    Draft { upload: Some(id(name)), uploaded: Some(whole), ..empty }
}

async fn write(rig: &Rig, number: u64, data: &[u8]) {
    rig.payload().put_object(number, Bytes::copy_from_slice(data)).await.unwrap();
}

fn at(offset: u64) -> Saved {
    Saved { offset, tally: "tally".into(), receipt: "receipt".into() }
}

pub(crate) async fn an_upload_is_continued_by_the_last_who_asks(rig: &mut Rig) {
    let (object, first, saved) = begin(rig, "u").await;
    assert_eq!((first, saved), (1, Saved::default()));
    let deadline = Timestamp(rig.now.0 + 700);
    rig.metadata().save_upload(&id("u"), first, at(10), deadline).await.unwrap();
    rig.pause().await;
    assert_eq!(find(rig, "u").await.map(|upload| upload.deadline), Some(deadline));
    assert_eq!(begin(rig, "u").await, (object, 2, at(10)));
    let late = rig.metadata().save_upload(&id("u"), first, at(99), deadline).await;
    assert!(matches!(late, Err(Error::Precondition(_))), "{late:?}");
    assert!(!rig.metadata().abandon_upload(&id("u"), Some(first), rig.now).await.unwrap());
    rig.metadata().save_upload(&id("u"), 2, at(20), deadline).await.unwrap();
    let other = rig.metadata().begin_upload(new(rig, "u", "another")).await;
    assert!(matches!(other, Err(Error::Precondition(_))), "{other:?}");
    assert_eq!(begin(rig, "u").await, (object, 3, at(20)));
    let unknown = rig.metadata().save_upload(&id("v"), 1, at(1), deadline).await;
    assert!(matches!(unknown, Err(Error::Precondition(_))), "{unknown:?}");
    assert_eq!(find(rig, "v").await, None);
}

pub(crate) async fn p5_an_upload_under_way_is_no_garbage(rig: &mut Rig) {
    let (number, _, _) = begin(rig, "u").await;
    let key = PayloadKey::Object(number);
    let row = PayloadRow { key, alive: 0, len: 0, writer: Writer::Upload };
    assert_eq!(rig.payload_rows().await, [row]);
    rig.pause().await;
    assert_eq!(rig.payload_rows().await, [row], "another process may go on with it");
    assert!(rig.garbage().await.is_empty());
    assert_ne!(rig.open(PayloadKey::Object).await, key, "its number is taken");
}

pub(crate) async fn p3_an_upload_becomes_one_message(rig: &mut Rig) {
    let (number, _, _) = begin(rig, "u").await;
    write(rig, number, b"large").await;
    rig.pause().await;
    let message = uploaded(rig, "u", number, b"large");
    assert_eq!(rig.store([object(message.clone())]).await, [1]);
    assert_eq!(rig.payload_row(PayloadKey::Object(number)).await.map(|row| row.writer), Some(Writer::Nobody));
    let stored = rig.messages("a").await.remove(0);
    assert_eq!(rig.data(&stored).await, "large");
    rig.pause().await;
    assert_eq!(rig.refusals([object(message.clone())]).await, [(0, 0, Refusal::Duplicate(1))]);
    let sha256 = Tally::of(b"large").sha256();
    let done = UploadState::Done { subject: subject("a"), sequence: 1, size: 5, sha256 };
    assert_eq!(find(rig, "u").await.map(|upload| upload.state), Some(done.clone()));
    let again = rig.metadata().begin_upload(new(rig, "u", "header")).await.unwrap();
    assert_eq!(again.state, done, "it is not begun again");
    assert!(!rig.metadata().abandon_upload(&id("u"), None, rig.now).await.unwrap());
    assert!(matches!(rig.metadata().save_upload(&id("u"), 1, at(1), rig.now).await, Err(Error::Precondition(_))));
    rig.purge("a", 1, 10).await;
    assert_eq!(rig.garbage().await, [Garbage { key: PayloadKey::Object(number), since: rig.now }]);
}

pub(crate) async fn a_small_upload_is_known_once_it_is_a_message(rig: &mut Rig) {
    let small = Draft { upload: Some(id("u")), ..draft("a", "2") };
    assert_eq!(rig.store([inline([draft("a", "1"), small.clone(), draft("a", "3")])]).await, [1]);
    rig.pause().await;
    let Some(UploadState::Done { sequence, size, sha256, .. }) = find(rig, "u").await.map(|upload| upload.state) else {
        panic!("it is not known");
    };
    assert_eq!((sequence, size, sha256), (2, 1, Tally::of(b"2").sha256()));
    assert_eq!(rig.refusals([inline([small.clone()])]).await, [(0, 0, Refusal::Duplicate(2))]);
    rig.pass(WINDOW.as_millis().try_into().unwrap());
    assert_eq!(rig.store([inline([small])]).await, [4], "from its deadline on it is unknown, forgotten or not");
}

pub(crate) async fn p3_an_upload_that_is_no_more_becomes_no_message(rig: &mut Rig) {
    let (number, _, _) = begin(rig, "u").await;
    write(rig, number, b"large").await;
    assert!(rig.metadata().abandon_upload(&id("u"), Some(1), rig.now).await.unwrap());
    rig.pause().await;
    assert_eq!(rig.garbage().await, [Garbage { key: PayloadKey::Object(number), since: rig.now }]);
    let gone = [object(uploaded(rig, "u", number, b"large"))];
    assert_eq!(rig.refusals(gone.clone()).await, [(0, 0, Refusal::UploadGone)]);
    let (fresh, ..) = begin(rig, "u").await;
    assert_ne!(fresh, number);
    assert_eq!(rig.refusals(gone).await, [(0, 0, Refusal::UploadGone)], "it has another object now");
    assert!(rig.live("a").await.is_empty());
}

pub(crate) async fn p2_a_refused_upload_goes_on(rig: &mut Rig) {
    rig.store([inline([draft("a", "1").id("x")])]).await;
    let (number, _, _) = begin(rig, "u").await;
    write(rig, number, b"large").await;
    let refused = uploaded(rig, "u", number, b"large").expected(7);
    assert_eq!(rig.refusals([object(refused)]).await, [(0, 0, Refusal::Expected(1))]);
    let known = uploaded(rig, "u", number, b"large").id("x");
    assert_eq!(rig.refusals([object(known)]).await, [(0, 0, Refusal::Duplicate(1))]);
    rig.pause().await;
    assert_eq!(begin(rig, "u").await.0, number);
    assert_eq!(rig.store([object(uploaded_in(2, rig, "u", number, b"large").expected(1))]).await, [2]);
}

/// The one before may still have a commit on its way when another goes on, and writes to the object again.
pub(crate) async fn p3_only_the_last_uploader_makes_the_message(rig: &mut Rig) {
    let (number, first, _) = begin(rig, "u").await;
    write(rig, number, b"large").await;
    assert_eq!(begin(rig, "u").await, (number, first + 1, Saved::default()));
    let late = [object(uploaded_in(first, rig, "u", number, b"large"))];
    assert_eq!(rig.refusals(late).await, [(0, 0, Refusal::UploadGone)]);
    rig.pause().await;
    assert_eq!(rig.store([object(uploaded_in(first + 1, rig, "u", number, b"large"))]).await, [1]);
}

pub(crate) async fn uploads_end_at_their_deadlines(rig: &mut Rig) {
    let (first, ..) = begin(rig, "1").await;
    rig.pass(1);
    let (second, ..) = begin(rig, "2").await;
    rig.store([inline([Draft { upload: Some(id("done")), ..draft("a", "1") }])]).await;
    rig.pass(499);
    assert_eq!(rig.metadata().expire_uploads(Timestamp(rig.now.0 - 1), 10).await.unwrap(), 0, "none is due");
    rig.metadata().save_upload(&id("2"), 1, at(1), Timestamp(rig.now.0 + 900)).await.unwrap();
    assert_eq!(rig.metadata().expire_uploads(rig.now, 10).await.unwrap(), 1);
    rig.pause().await;
    assert_eq!(find(rig, "1").await, None);
    assert_eq!(rig.garbage().await, [Garbage { key: PayloadKey::Object(first), since: rig.now }]);
    rig.pass(900);
    assert_eq!(rig.metadata().expire_uploads(rig.now, 1).await.unwrap(), 1, "steps are bounded");
    assert_eq!(rig.metadata().expire_uploads(rig.now, 10).await.unwrap(), 1);
    assert_eq!(rig.metadata().expire_uploads(rig.now, 10).await.unwrap(), 0);
    assert!(rig.metadata().uploads("", 10).await.unwrap().is_empty());
    assert_eq!(rig.garbage().await.len(), 2, "{second} went, too");
    assert!(rig.payload_rows().await.is_empty());
}

pub(crate) async fn p6_open_uploads_are_limited_and_listed(rig: &mut Rig) {
    for name in ["b", "a", "c"] {
        begin(rig, name).await;
    }
    rig.pause().await;
    let refused = rig.metadata().begin_upload(new(rig, "d", "header")).await;
    assert!(matches!(&refused, Err(Error::Exhausted { what, .. }) if what.contains("limits.uploads")), "{refused:?}");
    begin(rig, "b").await;
    let names = async |after: &str, limit| {
        let uploads = rig.metadata().uploads(after, limit).await.unwrap();
        uploads.into_iter().map(|upload| upload.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names("", 2).await, ["a", "b"]);
    assert_eq!(names("b", 2).await, ["c"]);
    assert!(rig.metadata().abandon_upload(&id("a"), None, rig.now).await.unwrap());
    assert!(!rig.metadata().abandon_upload(&id("a"), None, rig.now).await.unwrap());
    begin(rig, "d").await;
    // One that becomes a message makes room as well.
    let (number, ..) = begin(rig, "d").await;
    write(rig, number, b"x").await;
    rig.store([object(uploaded_in(2, rig, "d", number, b"x"))]).await;
    begin(rig, "e").await;
    assert!(rig.metadata().begin_upload(new(rig, "f", "header")).await.is_err());
}

pub(crate) async fn an_object_is_gone_on_with_from_what_was_synced(rig: &mut Rig) {
    let (number, ..) = begin(rig, "u").await;
    let step = {
        let writer = rig.payload().write_object(number, &Synced::default()).await.unwrap();
        usize::try_from(writer.sync_step()).unwrap()
    };
    let data: Bytes = (0..step * 2 + 30_000).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let mut writer = rig.payload().write_object(number, &Synced::default()).await.unwrap();
    let first = step.max(10_000);
    writer.write(vec![data.slice(..77), data.slice(77..first)]).await.unwrap();
    let synced = writer.sync().await.unwrap();
    assert_eq!(synced.offset, first as u64);
    writer.write(vec![Bytes::from_static(b"never synced")]).await.unwrap();
    drop(writer);
    rig.pause().await;
    let mut writer = rig.payload().write_object(number, &synced).await.unwrap();
    writer.write(vec![data.slice(first..)]).await.unwrap();
    writer.finish().await.unwrap();
    let key = PayloadKey::Object(number);
    assert_eq!(rig.payload().read(key, 0, data.len() as u64).await.unwrap(), data);
    assert!(rig.payload().read(key, 0, data.len() as u64 + 1).await.is_err(), "nothing lies beyond");
    assert_eq!(rig.payload().keys().await.unwrap(), [key]);
    rig.store([object(uploaded(rig, "u", number, &data))]).await;
    assert_eq!(rig.live("a").await, [1]);
}

pub(crate) async fn an_object_that_was_begun_is_found_and_removed(rig: &mut Rig) {
    let (number, ..) = begin(rig, "u").await;
    let key = PayloadKey::Object(number);
    let mut writer = rig.payload().write_object(number, &Synced::default()).await.unwrap();
    writer.write(vec![Bytes::from(vec![7; 100_000])]).await.unwrap();
    drop(writer.sync());
    drop(writer);
    rig.pause().await;
    assert!(rig.payload().read(key, 0, 1).await.is_err(), "it is not whole");
    let missing = Synced { offset: 1 << 40, receipt: Bytes::new() };
    assert!(matches!(rig.payload().write_object(number, &missing).await, Err(Error::DataLoss(_))));
    assert!(rig.metadata().abandon_upload(&id("u"), None, rig.now).await.unwrap());
    for garbage in rig.garbage().await {
        rig.payload().delete(garbage.key).await.unwrap();
    }
    assert!(rig.payload().keys().await.unwrap().is_empty());
    rig.payload().room(1).await.unwrap();
}
