use std::{fs, path::Path};

use minitoolstream::{
    Error,
    store::{
        backup::{self, Head},
        embedded::{Embedded, Limits},
    },
};
use minitoolstream_client::NewMessage;
use minitoolstream_testkit::{Cluster, Process};

use crate::keeper::{BINARY, Keeper};

/// A backup of a few messages in each kind of place.
async fn backup_of_some(dir: &Path) -> std::path::PathBuf {
    let mut broker = Process::start(BINARY, &dir.join("broker"), &[]);
    let publisher = broker.client().publisher();
    for len in [10, 100_000, 2 << 20] {
        publisher.publish(NewMessage::new("a", vec![7; len]).message_id(len.to_string())).await.unwrap();
    }
    assert!(broker.terminate().success());
    let backup = dir.join("backup");
    Keeper::of_dir(&broker.data_dir()).run(&["backup", backup.to_str().unwrap()]).documents();
    backup
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_a_backup_that_is_not_as_it_was_written_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let backup = backup_of_some(dir.path()).await;
    let changed = dir.path().join("changed");
    let data = dir.path().join("data");
    let flip = |name: &str, at: usize| {
        let path = changed.join(name);
        let mut bytes = fs::read(&path).unwrap();
        let at = at.min(bytes.len() - 1);
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let cut = |name: &str| {
        let bytes = fs::read(changed.join(name)).unwrap();
        fs::write(changed.join(name), &bytes[..bytes.len() - 1]).unwrap();
    };
    let (segment, object) = ("payload/segments/0000000000000001", "payload/objects/0000000000000002");
    let changes: [(&str, &dyn Fn()); 14] = [
        ("metadata' is damaged: the checksum of row", &|| flip("metadata", 100)),
        ("metadata' is damaged: it does not begin", &|| flip("metadata", 0)),
        ("metadata' has format 0, and this version reads format 1", &|| flip("metadata", 6)),
        ("metadata' is damaged: it ends early", &|| cut("metadata")),
        ("metadata' cannot be opened", &|| fs::remove_file(changed.join("metadata")).unwrap()),
        ("0001' is damaged: its checksum does not match", &|| flip(segment, 5000)),
        ("0002' is damaged: 1 of its 2097152 bytes are missing", &|| cut(object)),
        ("0002' is damaged: No such file", &|| fs::remove_file(changed.join(object)).unwrap()),
        ("0002' is damaged: it has more than", &|| {
            fs::write(changed.join(object), vec![7; (2 << 20) + 1]).unwrap();
        }),
        ("objects.jsonl' is damaged", &|| flip("objects.jsonl", 10)),
        ("objects.jsonl' is damaged: it is not what backup.json tells of", &|| {
            fs::write(changed.join("objects.jsonl"), "").unwrap();
        }),
        ("backup.json' is damaged", &|| cut("backup.json")),
        ("backup.json' has format 2, and this version reads format 1: use the version that wrote it", &|| {
            let path = changed.join("backup.json");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(path, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
        }),
        ("this is no backup, or one that was never finished", &|| {
            fs::remove_file(changed.join("backup.json")).unwrap();
        }),
    ];
    let keeper = Keeper::of_dir(&data);
    for (told, change) in changes {
        copy(&backup, &changed);
        change();
        for words in [&["restore", changed.to_str().unwrap()][..], &["restore", changed.to_str().unwrap(), "--verify"]]
        {
            let refusal = keeper.run(words).refusal();
            assert!(refusal.contains(told), "'{told}' is not in: {refusal}");
        }
        assert!(!data.exists(), "nothing was made for it: {told}");
        fs::remove_dir_all(&changed).unwrap();
    }
    keeper.run(&["restore", backup.to_str().unwrap()]).documents();
    assert_eq!(keeper.run(&["check", "--stores"]).findings(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_and_directories_that_are_not_empty_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let backup = backup_of_some(dir.path()).await;
    let words = ["restore", backup.to_str().unwrap()];
    let embedded = Keeper::of_dir(&dir.path().join("broker/data"));
    let refusal = embedded.run(&words).refusal();
    assert!(refusal.contains("the payload store is not empty, it has segment-0000000000000001"), "{refusal}");
    let refusal = embedded.run(&["backup", backup.to_str().unwrap()]).refusal();
    assert!(refusal.contains("is not empty: a backup goes to a directory of its own"), "{refusal}");
    let refusal = Keeper::of_dir(&dir.path().join("none")).run(&["backup", "elsewhere"]).refusal();
    assert!(refusal.contains("is no data directory of a broker"), "{refusal}");
    assert_eq!(embedded.run(&["check", "--stores"]).findings(), [], "nothing was written");

    // One small message, so that the bucket stays empty.
    let mut cluster = Cluster::start(BINARY, env!("CARGO_TARGET_TMPDIR"), 1, &[]);
    let keeper = Keeper::of(&cluster);
    let refusal = keeper.run(&words).refusal();
    assert!(refusal.contains("2 brokers work on them"), "{refusal}");
    cluster.ingress[0].client().publisher().publish(NewMessage::new("a", "small")).await.unwrap();
    cluster.stop();
    let refusal = keeper.run(&words).refusal();
    assert!(refusal.contains("Tarantool is not empty"), "{refusal}");
    assert_eq!(keeper.run(&["check", "--stores"]).findings(), [], "nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_restore_is_repeated_and_nobody_works_on_half_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let backup = backup_of_some(dir.path()).await;
    let words = ["restore", backup.to_str().unwrap()];
    let number = backup::verify(&backup, |_| ()).await.unwrap().manifest.backup;
    let data = dir.path().join("data");
    let cluster = Cluster::start(BINARY, env!("CARGO_TARGET_TMPDIR"), 0, &[]);
    let (embedded, shared) = (Keeper::of_dir(&data), Keeper::of(&cluster));
    {
        let embedded = Embedded::open_to_restore(&data, Limits::default()).await.unwrap().archive;
        let shared = shared.open().await.archive;
        for archive in [&embedded, &shared] {
            archive.metadata.begin_restore(number).await.unwrap();
            let mut writer = archive.payload.restore(minitoolstream::block::PayloadKey::Segment(1)).await.unwrap();
            writer.write(vec!["half".into()]).await.unwrap();
            writer.finish().await.unwrap();
            for other in [archive.metadata.begin_restore(5).await, archive.metadata.restore(5, vec![]).await] {
                assert!(matches!(other, Err(Error::Precondition(_)) | Ok(())), "{other:?}");
            }
            let end = archive.metadata.end_restore(5, Head { next_stream: 1, next_payload: 1 }).await;
            assert!(matches!(end, Err(Error::Precondition(_))), "{end:?}");
        }
        let refused = shared.metadata.subjects(&minitoolstream::types::SubjectFilter::all(), "", 1).await;
        assert!(refused.unwrap_err().to_string().contains("a restore is under way, or was interrupted"));
    }
    for keeper in [embedded, shared] {
        let refusal = keeper.run(&["check", "--stores"]).refusal();
        assert!(refusal.contains("interrupted"), "{refusal}");
        keeper.run(&words).documents();
        assert_eq!(keeper.run(&["check", "--stores"]).findings(), []);
        let refusal = keeper.run(&words).refusal();
        assert!(refusal.contains("not empty"), "{refusal}");
    }
}
