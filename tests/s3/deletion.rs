//! Nothing stays of what is deleted.

use minitoolstream::{
    Error,
    block::PayloadKey,
    store::{PayloadStore, Synced},
};
use minitoolstream_testkit::Fault;

use crate::rig::{PART, Rig, pattern, write};

#[tokio::test]
async fn an_unfinished_upload_goes_with_its_object() {
    let rig = Rig::start();
    let payload = rig.connect().await;
    for many in [false, true] {
        let mut writers = Vec::new();
        for object in 1..=3 {
            let mut writer = payload.write_object(object, &Synced::default()).await.unwrap();
            write(&mut *writer, &pattern(PART + 1)).await.unwrap();
            writer.sync().await.unwrap();
            writers.push(writer);
        }
        assert!(!rig.files().is_empty(), "parts are there");
        assert_eq!(payload.keys().await.unwrap(), [1, 2, 3].map(PayloadKey::Object), "what is under way is found");
        drop(writers);
        let keys = [1, 2, 3].map(PayloadKey::Object);
        if many {
            payload.delete_many(&keys).await.unwrap();
        } else {
            for key in keys {
                payload.delete(key).await.unwrap();
            }
        }
        assert_eq!(rig.files(), [""; 0]);
    }
}

#[tokio::test]
async fn many_are_deleted_by_few_requests_and_listed_by_pages() {
    let rig = Rig::start();
    let payload = rig.connect_directly().await;
    let mut keys: Vec<_> = (1..=1200).map(PayloadKey::Segment).collect();
    for key in &keys {
        payload.append(key.number(), vec!["x".into()]).await.unwrap();
    }
    payload.put_object(5000, "y".into()).await.unwrap();
    keys.push(PayloadKey::Object(5000));
    let mut found = payload.keys().await.unwrap();
    found.sort_unstable();
    assert_eq!(found, keys);
    keys.push(PayloadKey::Object(6000));
    for _ in 0..2 {
        // What is gone already counts as deleted.
        payload.delete_many(&keys).await.unwrap();
        assert_eq!(payload.keys().await.unwrap(), []);
    }
    assert_eq!((rig.count("delete_many", "200"), rig.count("delete", "204")), (4, 0));
    payload.delete_many(&[]).await.unwrap();
    // A server that cannot.
    let payload = rig.connect().await;
    payload.append(7000, vec!["x".into()]).await.unwrap();
    rig.proxy.spoil("POST /letters/?delete", 1, Fault::Refuse(501, "NotImplemented"));
    payload.delete_many(&[PayloadKey::Segment(7000), PayloadKey::Segment(7001)]).await.unwrap();
    assert_eq!(rig.count("delete", "204"), 2);
    assert_eq!(rig.files(), [""; 0]);
}

#[tokio::test]
async fn deletions_get_over_what_passes() {
    let rig = Rig::start();
    let payload = rig.connect().await;
    let faults = [Fault::Refuse(503, "SlowDown"), Fault::LoseReply, Fault::Drop];
    for (number, fault) in (1..).zip(faults) {
        let keys = [PayloadKey::Object(number), PayloadKey::Segment(number + 10)];
        let mut writer = payload.write_object(number, &Synced::default()).await.unwrap();
        write(&mut *writer, &pattern(PART + 1)).await.unwrap();
        writer.sync().await.unwrap();
        payload.append(number + 10, vec!["x".into()]).await.unwrap();
        for line in ["DELETE /letters/", "GET /letters/?uploads", "POST /letters/?delete"] {
            rig.proxy.spoil(line, 1, fault.clone());
        }
        payload.delete_many(&keys).await.unwrap();
        payload.put_object(number, "y".into()).await.unwrap();
        rig.proxy.spoil("DELETE /letters/", 1, fault);
        payload.delete(keys[0]).await.unwrap();
        assert_eq!(rig.files(), [""; 0]);
    }
    rig.proxy.spoil("/letters", usize::MAX, Fault::Refuse(500, "InternalError"));
    let key = PayloadKey::Object(1);
    assert!(matches!(payload.delete(key).await, Err(Error::Unavailable { .. })));
    assert!(matches!(payload.delete_many(&[key]).await, Err(Error::Unavailable { .. })));
    assert!(payload.keys().await.is_err());
}
