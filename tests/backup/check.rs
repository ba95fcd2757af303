use std::time::{Duration, Instant};

use bytes::Bytes;
use minitoolstream::{
    Error,
    block::PayloadKey,
    metrics::Metrics,
    store::{
        Archive, PayloadRow, PayloadStore, Writer,
        check::{self, Kind, Mode, Report},
        embedded::{Embedded, Limits},
        s3::S3Payload,
    },
    types::Timestamp,
};
use minitoolstream_client::NewMessage;
use minitoolstream_testkit::{Cluster, Process};

use crate::keeper::Keeper;

/// Too large for the metadata, and large enough to be an object.
const MEDIUM: usize = 300_000;
const LARGE: usize = 4 << 20;

fn start(settings: &[(&str, &str)]) -> Cluster {
    Cluster::start(env!("CARGO_BIN_EXE_minitoolstream"), env!("CARGO_TARGET_TMPDIR"), 1, settings)
}

/// A message in each kind of place.
async fn publish(cluster: &Cluster) {
    let publisher = cluster.ingress[0].client().publisher();
    for (subject, size) in [("small", 10), ("medium", MEDIUM), ("medium", MEDIUM), ("large", LARGE), ("large", LARGE)] {
        publisher.publish(NewMessage::new(subject, vec![b'x'; size])).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_row_tells_of_is_moved_aside_and_nothing_else_is_touched() {
    let mut cluster = start(&[]);
    publish(&cluster).await;
    let keeper = Keeper::of(&cluster);
    assert_eq!(keeper.run(&["check", "--stores"]).findings(), [], "brokers are at work");
    let refusal = keeper.run(&["check", "--stores", "--repair"]).refusal();
    assert!(refusal.contains("2 brokers work on them"), "{refusal}");
    let refusal = keeper.run(&["check", "--repair"]).refusal();
    assert!(refusal.contains("--stores"), "{refusal}");

    cluster.stop();
    assert_eq!(keeper.run(&["check", "--stores"]).findings(), []);
    let before = cluster.files();
    let bucket = S3Payload::connect(cluster.bucket(), Metrics::new(0).unwrap()).await.unwrap();
    // One is larger than a part of an upload.
    let (small, large) = (Bytes::from_static(b"whose is this?"), Bytes::from(vec![b'?'; 20 << 20]));
    bucket.append(4711, vec![small.clone()]).await.unwrap();
    bucket.put_object(4712, large.clone()).await.unwrap();
    let unknown = ("unknown-file", None);
    assert_eq!(keeper.run(&["check", "--stores"]).findings(), [unknown, unknown]);
    assert_eq!(cluster.files().len(), before.len() + 2, "a check changes nothing");

    let places = ["lost+found/segments/0000000000004711", "lost+found/objects/0000000000004712"];
    let moved = places.map(|place| format!("moved to '{place}'"));
    let repair = keeper.run(&["check", "--stores", "--repair"]);
    assert_eq!(repair.findings(), [("unknown-file", Some(&*moved[0])), ("unknown-file", Some(&*moved[1]))]);
    assert!(cluster.read(places[0]) == small && cluster.read(places[1]) == large, "the bytes are still there");
    let mut expected = [&before[..], &places.map(String::from)].concat();
    expected.sort();
    assert_eq!(cluster.files(), expected);
    assert_eq!(keeper.run(&["check", "--stores"]).findings(), []);

    // Another of the same name does not take its place.
    bucket.append(4713, vec![]).await.unwrap();
    let again = S3Payload::connect(cluster.bucket(), Metrics::new(0).unwrap()).await.unwrap();
    again.append(4711, vec![large.slice(..100)]).await.unwrap();
    keeper.run(&["check", "--stores", "--repair"]);
    assert_eq!(cluster.read(places[0]), small);
    assert_eq!(cluster.read(&format!("{}.1", places[0])), large.slice(..100));
    assert_eq!(keeper.run(&["check", "--stores"]).findings(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_damage_in_a_bucket_is_found_and_its_bytes_are_kept() {
    let mut cluster = start(&[]);
    publish(&cluster).await;
    cluster.stop();
    let keeper = Keeper::of(&cluster);
    let bucket = S3Payload::connect(cluster.bucket(), Metrics::new(0).unwrap()).await.unwrap();
    let mut keys = bucket.keys().await.unwrap();
    keys.sort_unstable();
    let [PayloadKey::Segment(gone), PayloadKey::Segment(_), PayloadKey::Object(altered), PayloadKey::Object(longer)] =
        keys[..]
    else {
        panic!("{keys:?}")
    };
    let mut bytes = vec![b'x'; LARGE];
    bytes[LARGE / 2] = b'y';
    bucket.delete(PayloadKey::Segment(gone)).await.unwrap();
    bucket.put_object(altered, bytes.clone().into()).await.unwrap();
    bucket.put_object(longer, vec![b'x'; LARGE + 1].into()).await.unwrap();

    let found = keeper.run(&["check", "--stores"]);
    let kinds = ["damaged-block", "damaged-block", "damaged-payload"];
    assert_eq!(found.findings(), kinds.map(|kind| (kind, None)));
    let detail = |index: usize| found.documents[index]["detail"].as_str().unwrap();
    assert_eq!(found.documents[0]["subject"], "large");
    assert!(detail(0).contains("the checksum of part 2"), "{found:?}");
    assert_eq!(found.documents[1]["subject"], "medium");
    assert!(detail(1).contains("is missing"), "{found:?}");
    assert!(detail(2).contains("has 4194305 bytes, and its row tells of 4194304"), "{found:?}");

    let before = cluster.files();
    let repaired = keeper.run(&["check", "--stores", "--repair"]);
    let place = "lost+found/blocks/0000000000000004";
    let kept = format!("4194304 bytes of it are copied to '{place}'; the block stays");
    let none = Some("none of its bytes are left to be kept");
    assert_eq!(repaired.findings(), [(kinds[0], Some(&*kept)), (kinds[1], none), (kinds[2], None)]);
    assert!(cluster.read(place) == bytes);
    assert!(before.iter().all(|name| cluster.files().contains(name)), "nothing is deleted");
    let again = keeper.run(&["check", "--stores", "--repair"]);
    assert!(again.findings()[0].1.unwrap().contains("before"), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_during_a_check_is_not_reported() {
    let settings = [("TTL_DEFAULT", "1s"), ("REAPER_INTERVAL", "20ms"), ("REAPER_GRACE", "0s")];
    let cluster = start(&settings);
    let publisher = cluster.ingress[0].client().publisher();
    let load = tokio::spawn(async move {
        for number in 0_usize.. {
            let size = [10, 100_000, 1_200_000][number % 3];
            publisher.publish(NewMessage::new(format!("s.{}", number % 5), vec![7; size])).await.unwrap();
        }
    });
    let keeper = Keeper::of(&cluster);
    let (started, mut blocks) = (Instant::now(), 0);
    while started.elapsed() < Duration::from_secs(4) {
        let ended = keeper.run(&["check", "--stores"]);
        assert_eq!(ended.findings(), [], "{ended:?}");
        blocks = blocks.max(ended.documents.last().unwrap()["blocks"].as_u64().unwrap());
    }
    assert!(blocks > 10, "there was something to check: {blocks} blocks");
    load.abort();
}

/// Counts that are wrong, and a row that is gone though blocks refer to it: as no fault that is known makes them.
async fn plant_and_repair(archive: &Archive) {
    let before = archive.metadata.payloads(0, 10).await.unwrap();
    let [high, low, gone] = before[..] else { panic!("{before:?}") };
    archive.metadata.recount(PayloadRow { alive: high.alive + 1, ..high }, Some(high.alive)).await.unwrap();
    archive.metadata.recount(PayloadRow { alive: 0, ..low }, Some(low.alive)).await.unwrap();
    // Garbage, so that its bytes would be removed soon.
    archive.metadata.recount(PayloadRow { alive: 0, ..gone }, Some(gone.alive)).await.unwrap();
    archive.metadata.seal_payload(gone.key, Timestamp(1)).await.unwrap();

    let mut findings = Vec::new();
    let report = |report| {
        if let Report::Finding(finding) = report {
            findings.push((finding.kind, finding.repair.unwrap()));
        }
    };
    check::repair(archive, report).await.unwrap();
    let told = (Kind::UnbalancedPayload, "the count is 1 now".to_owned());
    assert_eq!(findings, [told.clone(), told.clone(), told]);
    let mut after = archive.metadata.payloads(0, 10).await.unwrap();
    after.sort_unstable_by_key(|row| row.key.number());
    assert_eq!(after, before);
    assert_eq!(archive.metadata.garbage(Timestamp(u64::MAX), 10).await.unwrap(), []);
    assert_eq!(check::check(&archive.stores(), Mode::Exclusive, |_| ()).await.unwrap().findings, 0);

    // With no block left, the count stays: the bytes would go.
    let key = archive.metadata.open_payload(PayloadKey::Object).await.unwrap();
    let unused = PayloadRow { key, alive: 7, len: 1, writer: Writer::Nobody };
    archive.metadata.recount(unused, Some(0)).await.unwrap();
    check::repair(archive, |_| ()).await.unwrap();
    assert!(archive.metadata.payloads(0, 10).await.unwrap().contains(&unused));
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_counts_are_made_right_where_that_is_safe() {
    let mut cluster = start(&[]);
    let publisher = cluster.ingress[0].client().publisher();
    for number in 0..3 {
        publisher.publish(NewMessage::new(format!("s.{number}"), vec![b'x'; LARGE])).await.unwrap();
    }
    let shared = Keeper::of(&cluster).open().await;
    let refused = shared.archive.metadata.payloads(0, 1).await.unwrap()[0];
    let refused = shared.archive.metadata.recount(refused, Some(refused.alive)).await;
    assert!(matches!(refused, Err(Error::Precondition(_))), "a broker is at work: {refused:?}");
    cluster.stop();
    plant_and_repair(&shared.archive).await;

    let dir = tempfile::tempdir().unwrap();
    let mut broker = Process::start(env!("CARGO_BIN_EXE_minitoolstream"), dir.path(), &[]);
    let publisher = broker.client().publisher();
    for number in 0..3 {
        publisher.publish(NewMessage::new(format!("s.{number}"), vec![b'x'; LARGE])).await.unwrap();
    }
    broker.terminate();
    let embedded = Embedded::open(&broker.data_dir(), Limits::default()).await.unwrap();
    plant_and_repair(&embedded.archive).await;
}
