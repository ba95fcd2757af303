use std::{fs, path::PathBuf};

use minitoolstream::block::INLINE_MAX;
use serde_json::{Value, json};

use crate::command::Session;

/// Too large for the metadata.
const MEDIUM: usize = 300_000;
const _: () = assert!(MEDIUM > INLINE_MAX);

/// Damages the one file below `kind` (`segments` or `objects`) where `data` stands in it.
fn damage(session: &Session, kind: &str, data: &[u8]) {
    let file = stored(session, kind).into_iter().find_map(|path| {
        let bytes = fs::read(&path).unwrap();
        let at = bytes.windows(data.len()).position(|window| window == data)?;
        Some((path, bytes, at))
    });
    let (path, mut bytes, at) = file.expect("the data is stored in a file");
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn stored(session: &Session, kind: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(session.broker.data_dir().join(kind)).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// A broker with a message in each kind of place: in the metadata, in a segment, and as an object of its own.
fn session() -> Session {
    let session = Session::start();
    session.run("publish small --data small").text();
    for byte in [b'1', b'2', b'3'] {
        session.run_with_input("publish medium", &[byte; MEDIUM]).text();
    }
    session.run_with_input("publish large", &[b'L'; 4 << 20]).text();
    session
}

#[test]
fn check_of_a_sound_broker_is_content() {
    let mut session = session();
    session.run("purge medium --up-to 1 --yes").text();
    insta::assert_snapshot!(session.transcript(&["check"]));
    let summary = session.json("check");
    assert_eq!(summary.len(), 1);
    let whole = json!({ "subjects": 3, "blocks": 4, "messages": 4, "consumers": 0, "findings": 0, "bytes": summary[0]["bytes"] });
    assert_eq!(summary[0], whole);

    session.broker.terminate();
    assert_eq!(session.json("check --data-dir broker/data"), [whole]);
}

#[test]
fn check_names_a_damaged_block() {
    let mut session = session();
    damage(&session, "segments", &[b'2'; 100]);
    damage(&session, "objects", &[b'L'; 100]);
    insta::assert_snapshot!(session.transcript(&["check", "fetch medium --to out", "fetch large --to out"]));
    assert_eq!(session.read("out/1"), [b'1'; MEDIUM], "what comes before the damage is delivered");
    assert!(!session.dir.path().join("out/2").exists(), "damaged bytes are never written");

    let ended = session.run("-o json check");
    assert_eq!(ended.code, 1);
    let lines: Vec<Value> =
        String::from_utf8(ended.output).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found = |index: usize| (&lines[index]["kind"], &lines[index]["subject"], &lines[index]["sequence"]);
    assert_eq!(found(0), (&json!("damaged-block"), &json!("large"), &json!(1)));
    assert_eq!(found(1), (&json!("damaged-block"), &json!("medium"), &json!(2)));
    assert_eq!(lines[2]["findings"], 2);

    session.broker.terminate();
    let offline = session.run("check --data-dir broker/data");
    assert_eq!(offline.code, 1);
    assert!(String::from_utf8(offline.output).unwrap().starts_with("damaged-block: large: "));
}

#[test]
fn damage_can_be_passed() {
    let session = session();
    damage(&session, "segments", &[b'2'; 100]);
    session.run("fetch medium --durable d --all --ack --to out").refusal();
    session.run("ack d medium 2").text();
    let rest = session.json("fetch medium --durable d --all --ack --to out");
    assert_eq!((rest.len(), &rest[0]["sequence"]), (1, &json!(3)));
    session.run("purge medium --up-to 2 --yes").text();
    assert_eq!(session.run("check").code, 0);
}

#[test]
fn a_repair_moves_aside_and_deletes_nothing() {
    let mut session = session();
    damage(&session, "segments", &[b'2'; 100]);
    session.broker.terminate();
    let data = session.broker.data_dir();
    fs::write(data.join("objects/0000000000004711"), "whose is this?").unwrap();
    fs::write(data.join("objects/0000000000004712.part"), "and this?").unwrap();
    fs::write(data.join("segments/notes.txt"), "no payload").unwrap();
    insta::assert_snapshot!(session.transcript(&[
        "check --data-dir broker/data --repair",
        "check --data-dir broker/data",
        "check --repair",
    ]));
    let kept = |name: &str| fs::read(data.join("lost+found").join(name)).unwrap();
    assert_eq!(kept("objects/0000000000004711"), b"whose is this?");
    assert_eq!(kept("objects/0000000000004712.part"), b"and this?");
    assert_eq!(kept("blocks/0000000000000003").iter().filter(|byte| **byte == b'2').count(), MEDIUM - 1);
    assert_eq!(stored(&session, "segments").len(), 2, "{:?}", stored(&session, "segments"));
}

#[test]
fn check_finds_files_that_are_missing_or_strange() {
    let mut session = session();
    for path in stored(&session, "segments") {
        fs::remove_file(path).unwrap();
    }
    let missing = session.run("check");
    assert_eq!(missing.code, 1);
    assert!(String::from_utf8(missing.output).unwrap().contains("is missing"));

    session.broker.terminate();
    let strange = session.broker.data_dir().join("objects/0000000000004711");
    fs::write(strange, "whose is this?").unwrap();
    let offline = session.run("check --data-dir broker/data");
    assert_eq!(offline.code, 1);
    let text = String::from_utf8(offline.output).unwrap();
    assert!(text.contains("unknown-file: no row tells of object-0000000000004711"), "{text}");
}
