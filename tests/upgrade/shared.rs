//! P1, P2, P4, P8: brokers of two versions on the same Tarantool and S3, through an upgrade and back, under load.

use std::time::Duration;

use futures_util::StreamExt;
use minitoolstream_client::{Client, ConsumerSettings, Deliveries, Delivery, Fetch, NewMessage};
use minitoolstream_testkit::{Cluster, Process, Tarantool, http};

use crate::{load::Load, uploads, version::Version};

/// Who waits for a store says why.
const SETTINGS: [(&str, &str); 4] =
    [("TTL_DEFAULT", "1h"), ("DEDUP_WINDOW", "1h"), ("SHUTDOWN_DEADLINE", "2s"), ("LOG_LEVEL", "warn")];

/// After this long something is lost or wedged.
const PATIENCE: Duration = Duration::from_secs(20);

/// Brokers of the one version, then of the other: the first of each role, and the second.
const OLD: usize = 0;
const NEW: usize = 1;

async fn next(what: &str, deliveries: &mut Deliveries) -> Delivery {
    tokio::time::timeout(PATIENCE, deliveries.next()).await.expect(what).unwrap().unwrap()
}

/// A worker that has two of three messages.
async fn begin_work(ingress: &Client, egress: &Client) -> (Deliveries, [Delivery; 2]) {
    let publisher = ingress.publisher();
    for number in 1..=3 {
        publisher.publish(NewMessage::new("jobs", number.to_string())).await.unwrap();
    }
    let settings = ConsumerSettings::of("jobs").ack_wait(Duration::from_mins(1)).max_deliver(0);
    let mut deliveries = egress.consumer("jobs").settings(settings).window(2, 1 << 20).messages().await.unwrap();
    let taken = [next("the first", &mut deliveries).await, next("the second", &mut deliveries).await];
    (deliveries, taken)
}

/// What one version gave to a worker stays with it, whatever happens to Tarantool and whoever joins; what it gives back goes to
/// the other version.
async fn end_work((deliveries, taken): (Deliveries, [Delivery; 2]), other: &Client) {
    let [first, second] = taken;
    let mut others = other.consumer("jobs").window(10, 1 << 20).messages().await.unwrap();
    let third = next("the third goes to the other version", &mut others).await;
    assert_eq!((third.message.sequence, third.attempt), (3, 1));
    third.ack().await.unwrap();
    first.ack().await.unwrap();
    second.release().await.unwrap();
    drop(deliveries);
    let again = next("what was given back goes to the other version", &mut others).await;
    assert_eq!(again.message.sequence, 2);
    again.ack().await.unwrap();
    let info = other.consumer("jobs").info().await.unwrap();
    assert_eq!((info.acked, info.unacked, info.redeliverable, info.pending), (3, 0, 0, 0), "{info:?}");
}

/// Messages that each version publishes in turn are heard of at the other, in one order.
async fn hear_of_each_other(cluster: &Cluster) {
    let publishers = [OLD, NEW].map(|version| cluster.ingress[version].client().publisher());
    let clients = [OLD, NEW].map(|version| cluster.egress[version].client());
    let mut readers = Vec::new();
    for client in &clients {
        readers.push(client.fetch(Fetch::from_sequence("both", 1).follow()).await.unwrap());
    }
    for number in 1..=20_u64 {
        let version = usize::from(number % 2 == 0);
        let size = [10, 100_000, 2_000_000][usize::try_from(number % 3).unwrap()];
        let message = NewMessage::new("both", vec![u8::try_from(number).unwrap(); size]);
        assert_eq!(publishers[version].publish(message).await.unwrap().sequence, number);
        for reader in &mut readers {
            let message = tokio::time::timeout(PATIENCE, reader.next()).await;
            let message = message.expect("it comes").unwrap().unwrap();
            assert_eq!((message.sequence, message.size()), (number, size as u64));
        }
    }
    // A message id that one version stored is a duplicate at the other, and positions go forward only.
    for (version, other) in [(OLD, NEW), (NEW, OLD)] {
        let message = || NewMessage::new("ids", "x").message_id(version.to_string());
        let first = publishers[version].publish(message()).await.unwrap();
        let again = publishers[other].publish(message()).await.unwrap();
        assert_eq!((again.sequence, again.duplicate), (first.sequence, true));
        let durable = format!("reader-{version}");
        assert_eq!(clients[version].ack(&durable, "both", 7).await.unwrap(), 7);
        assert_eq!(clients[other].ack(&durable, "both", 3).await.unwrap(), 7);
        assert_eq!(clients[other].ack(&durable, "both", 9).await.unwrap(), 9);
        assert_eq!(clients[version].ack(&durable, "both", 8).await.unwrap(), 9);
    }
}

/// The keepers' commands of both versions, while brokers of both are at work: the old one's nightly backup goes on, too.
fn keep(cluster: &Cluster, old: &Version, new: &Version) {
    let (stores, dir) = (cluster.settings(), tempfile::tempdir().unwrap());
    old.check(&stores);
    new.check(&stores);
    let backup = dir.path().join("backup").display().to_string();
    old.run(&stores, &["backup", &backup]);
    new.run(&stores, &["restore", &backup, "--verify"]);
}

/// All brokers take the functions that Tarantool has now: they ask every half second, and turn to nobody else meanwhile.
async fn assert_all_are_served(cluster: &mut Cluster) {
    tokio::time::sleep(Duration::from_secs(1)).await;
    for broker in cluster.brokers() {
        let series = r#"minitoolstream_tarantool_instances{state="leader"}"#;
        assert_eq!(http::metric(broker.address("http"), series).await, 1);
    }
}

fn stop(brokers: &mut [Process]) {
    for broker in brokers {
        assert!(broker.terminate().success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs the version before this one: tests/run builds it"]
async fn p1_p2_p4_an_installation_is_upgraded_and_set_back_under_load() {
    let (previous, present) = (Version::previous(), Version::present());
    let tarantool = Tarantool::start_on(&previous.modules, &[]);
    let config = tarantool.config();
    let home = env!("CARGO_TARGET_TMPDIR");
    let mut cluster = Cluster::over((tarantool, &config), &previous.binary, home, 1, &SETTINGS);
    let client = |brokers: &[Process], version: usize| brokers[version].client();
    let load = Load::start(&cluster.ingress, &cluster.egress);
    load.goes_on("the old version").await;
    let work = begin_work(&client(&cluster.ingress, OLD), &client(&cluster.egress, OLD)).await;
    uploads::begin(&client(&cluster.ingress, OLD), "from-old").await;

    // First Tarantool, then the brokers.
    cluster.tarantool.restart_on(&present.modules);
    load.goes_on("old brokers at new functions").await;
    assert_all_are_served(&mut cluster).await;
    cluster.binary.clone_from(&present.binary);
    cluster.add(1, &SETTINGS);
    load.turn_to(&cluster.ingress, &cluster.egress);
    load.goes_on("both versions").await;
    end_work(work, &client(&cluster.egress, NEW)).await;
    hear_of_each_other(&cluster).await;
    let [old, new] = [OLD, NEW].map(|version| (client(&cluster.ingress, version), client(&cluster.egress, version)));
    uploads::finish(&new.0, &old.1, "from-old").await;
    uploads::begin(&new.0, "from-newer").await;
    uploads::finish(&old.0, &new.1, "from-newer").await;
    tokio::task::block_in_place(|| keep(&cluster, &previous, &present));
    load.goes_on("both versions").await;

    load.turn_to(&cluster.ingress[NEW..], &cluster.egress[NEW..]);
    tokio::task::block_in_place(|| {
        stop(&mut cluster.ingress[..NEW]);
        stop(&mut cluster.egress[..NEW]);
    });
    load.goes_on("the new version").await;

    // And back: first the brokers, then Tarantool.
    cluster.binary.clone_from(&previous.binary);
    cluster.add(1, &SETTINGS);
    load.turn_to(&cluster.ingress[NEW + 1..], &cluster.egress[NEW + 1..]);
    tokio::task::block_in_place(|| {
        stop(&mut cluster.ingress[NEW..=NEW]);
        stop(&mut cluster.egress[NEW..=NEW]);
    });
    load.goes_on("old brokers at new functions").await;
    cluster.tarantool.restart_on(&previous.modules);
    load.goes_on("the old version").await;

    let reader = client(&cluster.egress, NEW + 1);
    let count = load.end(&reader).await;
    assert!(count > 300, "{count} messages");
    for (sequence, id) in [(1, "from-old"), (2, "from-newer")] {
        uploads::read(&reader, id, sequence).await;
    }
    tokio::task::block_in_place(|| {
        stop(&mut cluster.ingress[NEW + 1..]);
        stop(&mut cluster.egress[NEW + 1..]);
        previous.check(&cluster.settings());
        present.check(&cluster.settings());
    });
}
