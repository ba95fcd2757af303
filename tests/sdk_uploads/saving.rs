//! Messages that become files.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use futures_util::StreamExt;
use minitoolstream_client::{Error, Fetch};
use minitoolstream_testkit::{Proxy, Towards};

use crate::world::{MIB, client_of, data, sha256, start, upload};

#[tokio::test]
async fn a_file_is_whole_or_not_there_and_saving_goes_on() {
    let broker = start().await;
    let data = data(24 * MIB);
    upload(&broker.client().await, "a", &data).await;
    let dir = tempfile::tempdir().unwrap();
    let (path, part) = (dir.path().join("copy"), dir.path().join("copy.part"));
    let proxy = Proxy::start(broker.ingress);
    let client = client_of(&proxy).await;
    proxy.stall_after(Towards::Client, 12 * MIB as u64);
    let saving = tokio::spawn(client.save(("a", 1), &path).into_future());
    let proxy = tokio::task::spawn_blocking(move || {
        proxy.wait_for_stall();
        proxy
    });
    let proxy = proxy.await.unwrap();
    let there = async {
        while part.metadata().map_or(0, |part| part.len()) < 8 * MIB as u64 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::world::PATIENCE, there).await.unwrap();
    saving.abort();
    let _ = saving.await;
    assert!(!path.exists());
    drop((client, proxy));

    let client = broker.client().await;
    let first = Arc::new(AtomicU64::new(u64::MAX));
    let begins = first.clone();
    let save = client.save(("a", 1), &path).on_progress(move |progress| {
        begins.fetch_min(progress.durable, Relaxed);
        assert_eq!(progress.total, Some(24 * MIB as u64));
    });
    let saved = save.await.unwrap();
    assert!(saved.continued_at >= 8 * MIB as u64 && saved.continued_at == first.load(Relaxed), "{saved:?}");
    assert_eq!((saved.size, saved.sha256), (data.len() as u64, Some(sha256(&data))));
    assert!(std::fs::read(&path).unwrap() == data);
    assert!(!part.exists());
    broker.stop().await;
}

#[tokio::test]
async fn a_part_file_of_other_bytes_is_removed() {
    let broker = start().await;
    let client = broker.client().await;
    let data = data(3 * MIB);
    upload(&client, "a", &data).await;
    let dir = tempfile::tempdir().unwrap();
    let (path, part) = (dir.path().join("copy"), dir.path().join("mine"));
    std::fs::write(&part, "not the beginning").unwrap();
    let error = client.save(("a", 1), &path).part_file(&part).await.unwrap_err();
    assert!(matches!(&error, Error::DataLoss(text) if text.contains("was removed, save it again")), "{error:?}");
    assert!(!path.exists() && !part.exists());
    assert_eq!(client.save(("a", 1), &path).part_file(&part).await.unwrap().continued_at, 0);
    // One that is longer is not of this message, and one that is whole needs only its name.
    std::fs::write(&part, [data.as_slice(), b"!"].concat()).unwrap();
    assert_eq!(client.save(("a", 1), &path).part_file(&part).await.unwrap().continued_at, 0);
    std::fs::rename(&path, &part).unwrap();
    assert_eq!(client.save(("a", 1), &path).part_file(&part).await.unwrap().continued_at, data.len() as u64);
    assert!(std::fs::read(&path).unwrap() == data);
    broker.stop().await;
}

#[tokio::test]
async fn every_message_can_be_saved() {
    let broker = start().await;
    let client = broker.client().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("copy");
    for size in [0, 1, 100_000, 2 * MIB] {
        upload(&client, "a", &data(size)).await;
    }
    for limit in [1, 10_000_000] {
        let mut messages = client.fetch(Fetch::from_sequence("a", 1).max_message_bytes(limit)).await.unwrap();
        for size in [0, 1, 100_000, 2 * MIB] {
            let message = messages.next().await.unwrap().unwrap();
            assert_eq!(client.save(&message, &path).await.unwrap().size, size as u64);
            assert!(std::fs::read(&path).unwrap() == data(size));
        }
    }
    client.open(("a", 3)).range(10, 20).save(&path).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), data(100_000)[10..30]);
    let missing = client.save(("a", 9), &path).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound(_)), "{missing:?}");
    let no_dir = client.save(("a", 1), dir.path().join("no/dir")).await.unwrap_err();
    assert!(matches!(&no_dir, Error::Other(text) if text.contains("cannot be written")), "{no_dir:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside");

    let other = std::fs::File::create(dir.path().join("copy.part")).unwrap();
    other.try_lock().unwrap();
    let busy = client.save(("a", 1), &path).await.unwrap_err();
    assert!(matches!(&busy, Error::Other(text) if text.contains("written by another process")), "{busy:?}");
    broker.stop().await;
}
