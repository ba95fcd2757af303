use std::path::Path;

use minitoolstream::types::Timestamp;
use minitoolstream_testkit::{Cluster, Process};

use crate::{
    keeper::{BINARY, Keeper},
    world::{assert_goes_on, contents, fill},
};

/// Nothing expires or is forgotten while a test runs.
const SETTINGS: [(&str, &str); 3] = [("TTL_DEFAULT", "1h"), ("DEDUP_WINDOW", "1h"), ("SHUTDOWN_DEADLINE", "300ms")];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn due(keeper: &Keeper) -> Option<Timestamp> {
    keeper.open().await.archive.metadata.next_due().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_a_backup_moves_between_kinds_of_stores_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (embedded, shared) = (dir.path().join("of embedded"), dir.path().join("of shared"));
    let mut broker = Process::start(BINARY, &dir.path().join("a"), &SETTINGS);
    let (keeper, client) = (Keeper::of_dir(&broker.data_dir()), broker.client());
    let worker = fill(&client, &client, &broker.client()).await;
    let refusal = keeper.run(&["backup", text(&embedded)]).refusal();
    assert!(refusal.contains("in use by another broker"), "{refusal}");
    let before = contents(&client).await;
    let due_before = {
        drop(worker);
        assert!(broker.terminate().success());
        due(&keeper).await
    };
    assert!(due_before.is_some());
    let taken = keeper.run(&["backup", text(&embedded)]).documents();
    assert_eq!((&taken[0]["missing"], &taken[0]["has_payload"]), (&0.into(), &true.into()));
    assert_eq!(keeper.run(&["restore", text(&embedded), "--verify"]).documents()[0]["rows"], taken[0]["rows"]);

    // From one machine to many brokers.
    let mut cluster = Cluster::start(BINARY, env!("CARGO_TARGET_TMPDIR"), 0, &[]);
    let keeper = Keeper::of(&cluster);
    let restored = keeper.run(&["restore", text(&embedded)]).documents();
    assert_eq!(restored, taken);
    assert_eq!(keeper.run(&["check", "--stores"]).findings(), []);
    assert_eq!(due(&keeper).await, due_before);
    cluster.add(1, &SETTINGS);
    let client = cluster.egress[0].client();
    assert_eq!(contents(&client).await, before);
    // While they work, and back: a worker has leases meanwhile.
    let worker = cluster.egress[0].client().consumer("w").window(3, 64 << 20).messages().await.unwrap();
    let taken = keeper.run(&["backup", text(&shared)]).documents();
    drop(worker);
    assert_goes_on(&cluster.ingress[0].client(), &client, &before).await;

    let home = dir.path().join("b");
    let keeper = Keeper::of_dir(&home.join("data"));
    assert_eq!(keeper.run(&["restore", text(&shared)]).documents(), taken);
    assert_eq!(keeper.run(&["check", "--stores"]).findings(), []);
    assert_eq!(due(&keeper).await, due_before);
    let broker = Process::start(BINARY, &home, &SETTINGS);
    let client = broker.client();
    assert_eq!(contents(&client).await, before);
    assert_goes_on(&client, &client, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn payload_that_is_only_listed_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let backup = dir.path().join("backup");
    let mut cluster = Cluster::start(BINARY, env!("CARGO_TARGET_TMPDIR"), 1, &SETTINGS);
    let keeper = Keeper::of(&cluster);
    let [ingress, egress, worker] = [&cluster.ingress[0], &cluster.egress[0], &cluster.egress[0]].map(Process::client);
    let worker = fill(&ingress, &egress, &worker).await;
    let before = contents(&cluster.egress[0].client()).await;
    let taken = keeper.run(&["backup", text(&backup), "--without-payload"]).documents();
    assert_eq!(taken[0]["has_payload"], false);
    let copied = std::fs::read_dir(backup.join("payload/objects")).unwrap().count();
    assert_eq!(copied, 0);
    drop(worker);
    // Beyond the backup: what is stored now stays in the bucket, and its number is not given again.
    let publisher = cluster.ingress[0].client().publisher();
    publisher.publish(minitoolstream_client::NewMessage::new("beyond", vec![9; 2 << 20])).await.unwrap();
    cluster.stop();
    let files = cluster.files();

    cluster.tarantool.reset().await;
    assert_eq!(keeper.run(&["restore", text(&backup)]).documents(), taken);
    assert_eq!(keeper.run(&["check", "--stores"]).findings(), [("unknown-file", None)]);
    cluster.add(1, &SETTINGS);
    let client = cluster.egress[0].client();
    assert_eq!(contents(&client).await, before);
    assert_goes_on(&cluster.ingress[0].client(), &client, &before).await;
    assert!(files.iter().all(|file| cluster.files().contains(file)), "nothing is written over");

    let refusal = Keeper::of_dir(&dir.path().join("data")).run(&["restore", text(&backup)]).refusal();
    assert!(refusal.contains("lacks") && refusal.contains("restore the bucket first"), "{refusal}");
}
