//! Uploads that are interrupted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use minitoolstream_client::Error;
use minitoolstream_testkit::{Proxy, Towards};
use tokio::io::AsyncWriteExt;

use crate::world::{Killable, MIB, PATIENCE, client_of, data, data_of, file, message, sha256, start};

#[tokio::test]
async fn an_upload_goes_on_when_the_connection_breaks_at_any_place() {
    let broker = start().await;
    let dir = tempfile::tempdir().unwrap();
    let data = data(24 * MIB);
    let path = file(dir.path(), &data);
    for (after, sequence) in [0, 100, 300_000, 9 * MIB as u64, 24 * MIB as u64 - 1000].into_iter().zip(1..) {
        let proxy = Proxy::start(broker.ingress);
        let client = client_of(&proxy).await;
        proxy.cut_after(Towards::Broker, after);
        let uploaded = client.upload(message("a")).from_file(&path).await.unwrap();
        assert_eq!((proxy.cuts(), uploaded.sequence), (1, sequence), "cut after {after}");
        assert_eq!(uploaded.sha256, Some(sha256(&data)), "cut after {after}");
    }
    assert_eq!(broker.client().await.last_sequence("a").await.unwrap(), 5, "each became one message");
    broker.stop().await;
}

#[tokio::test]
async fn attempts_are_counted_anew_when_an_upload_makes_progress() {
    let broker = start().await;
    let proxy = Proxy::start(broker.ingress);
    let client = client_of(&proxy).await;
    let (data, line) = (data(48 * MIB), Arc::new(proxy));
    let cutter = line.clone();
    let mut next_cut = 0;
    // A cut for each 12 MiB that are new, and attempts for less than that.
    let upload = client.upload(message("a")).attempts(3).on_progress(move |progress| {
        if progress.transferred > next_cut {
            next_cut = progress.transferred + 12 * MIB as u64;
            cutter.cut_after(Towards::Broker, 10 * MIB as u64);
        }
    });
    let uploaded = upload.from_bytes(data.clone()).await.unwrap();
    assert!(line.cuts() >= 3, "{} cuts", line.cuts());
    assert_eq!(uploaded.sha256, Some(sha256(&data)));
    broker.stop().await;
}

#[tokio::test]
async fn a_lost_answer_is_asked_for() {
    let broker = start().await;
    let proxy = Proxy::start(broker.ingress);
    let client = client_of(&proxy).await;
    client.last_sequence("a").await.unwrap();
    // No more than what may be sent without hearing of the broker.
    let data = data(30_000);
    proxy.stall_after(Towards::Client, 0);
    let upload = client.upload(message("a"));
    let id = upload.upload_id().to_owned();
    let upload = tokio::spawn(upload.from_bytes(data.clone()));
    let direct = broker.client().await;
    let published = async {
        while direct.last_sequence("a").await.unwrap() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, published).await.expect("the broker has published it");
    proxy.cut_after(Towards::Client, 0);
    proxy.go_on();
    let uploaded = upload.await.unwrap().unwrap();
    assert_eq!((uploaded.sequence, uploaded.size), (1, 30_000));
    // Once more under the same name: it is the same message.
    let again = direct.upload(message("a")).id(id).from_bytes(data).await.unwrap();
    assert_eq!((again.sequence, again.sha256), (1, uploaded.sha256));
    assert_eq!(direct.last_sequence("a").await.unwrap(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn an_upload_goes_on_after_the_broker_was_killed() {
    let mut world = Killable::start();
    let data = data(64 * MIB);
    let path = file(world.dir.path(), &data);
    let proxy = world.proxy();
    let client = client_of(&proxy).await;
    proxy.stall_after(Towards::Broker, 40 * MIB as u64);
    let least = Arc::new(AtomicU64::new(0));
    let durable = least.clone();
    let upload = client
        .upload(message("a"))
        .attempts(100)
        .on_progress(move |progress| {
            durable.fetch_max(progress.durable.min(progress.total.unwrap_or_default() - 1), Relaxed);
        })
        .from_file(path);
    let upload = tokio::spawn(upload);
    let proxy = tokio::task::spawn_blocking(move || {
        proxy.wait_for_stall();
        world.broker.crash_and_restart();
        proxy.go_on();
        (proxy, world)
    });
    let (_proxy, world) = proxy.await.unwrap();
    let uploaded = upload.await.unwrap().unwrap();
    assert_eq!((uploaded.sequence, uploaded.sha256), (1, Some(sha256(&data))));
    assert!(least.load(Relaxed) > 0, "it did not begin anew");
    assert!(data_of(&world.broker.client(), "a", 1).await == data);
}

#[tokio::test]
async fn another_process_goes_on_with_an_upload_that_has_a_name() {
    let broker = start().await;
    let dir = tempfile::tempdir().unwrap();
    let data = data(32 * MIB);
    let path = file(dir.path(), &data);
    let proxy = Proxy::start(broker.ingress);
    let client = client_of(&proxy).await;
    proxy.stall_after(Towards::Broker, 20 * MIB as u64);
    let upload = tokio::spawn(client.upload(message("a")).id("film").from_file(path.clone()));
    let proxy = tokio::task::spawn_blocking(move || {
        proxy.wait_for_stall();
        proxy
    });
    let proxy = proxy.await.unwrap();
    upload.abort();
    assert!(upload.await.unwrap_err().is_cancelled());
    drop((client, proxy));

    let client = broker.client().await;
    let state = client.get_upload("film").await.unwrap();
    assert!(state.offset < 20 * MIB as u64 && state.published.is_none() && state.deadline.is_some(), "{state:?}");
    let first = Arc::new(AtomicU64::new(u64::MAX));
    let begins = first.clone();
    let upload = client.upload(message("a")).id("film").on_progress(move |progress| {
        begins.fetch_min(progress.transferred, Relaxed);
    });
    let uploaded = upload.from_file(&path).await.unwrap();
    assert_eq!((uploaded.sequence, uploaded.sha256), (1, Some(sha256(&data))));
    assert!(first.load(Relaxed) >= state.offset, "it goes on at {}", state.offset);
    let published = client.get_upload("film").await.unwrap().published.unwrap();
    assert_eq!((published.sequence, published.size), (1, data.len() as u64));
    broker.stop().await;
}

#[tokio::test]
async fn what_a_reader_gave_cannot_be_sent_again() {
    let broker = start().await;
    let proxy = Proxy::start(broker.ingress);
    let client = client_of(&proxy).await;
    proxy.cut_after(Towards::Broker, 3 * MIB as u64 + 5);
    let reader = std::io::Cursor::new(data(32 * MIB));
    let error = client.upload(message("a")).from_reader(reader).await.unwrap_err();
    assert!(matches!(&error, Error::Other(text) if text.contains("cannot be read again")), "{error:?}");
    assert_eq!(client.last_sequence("a").await.unwrap(), 0);
    broker.stop().await;
}

#[tokio::test]
async fn a_reader_goes_on_if_nothing_of_it_was_lost() {
    let broker = start().await;
    let proxy = Proxy::start(broker.ingress);
    let (client, direct) = (client_of(&proxy).await, broker.client().await);
    let (mut pipe, outlet) = tokio::io::duplex(1 << 16);
    let upload = client.upload(message("a"));
    let id = upload.upload_id().to_owned();
    let upload = tokio::spawn(upload.from_reader(outlet));
    let data = data(MIB + 5000);
    // Whole frames, and a part of one that waits for the rest.
    pipe.write_all(&data[..MIB + 1000]).await.unwrap();
    let arrived = async {
        while direct.get_upload(&id).await.is_err() || proxy.passed(Towards::Broker) < MIB as u64 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, arrived).await.expect("the upload begins");
    // What has passed is still to be taken in by the broker, of which nothing tells.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let passed = proxy.passed(Towards::Broker);
    proxy.cut_now();
    let back = async {
        while proxy.passed(Towards::Broker) == passed {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, back).await.expect("the client comes back");
    pipe.write_all(&data[MIB + 1000..]).await.unwrap();
    drop(pipe);
    let uploaded = upload.await.unwrap().unwrap();
    assert_eq!((uploaded.sequence, uploaded.sha256), (1, Some(sha256(&data))));
    assert!(data_of(&direct, "a", 1).await == data);
    broker.stop().await;
}
