//! Commands, and with them the Rust client, of one version at brokers of the other.

use serde_json::json;

use crate::{version::Version, world::data};

fn works_at(of: &Version, at: &Version) {
    let dir = tempfile::tempdir().unwrap();
    let broker = at.serve(&dir.path().join("broker"));
    let address = [("MINITOOLSTREAM_ADDRESS", broker.address("ingress"))];
    let run = |words: &[&str]| of.run(&address, words);
    for (number, id) in [(1, "a"), (2, "b")] {
        let published = run(&["publish", "orders.new", "--data", id, "-m", id, "-H", "kind=test"]);
        assert_eq!(published, [json!({ "sequence": number, "duplicate": false })]);
    }
    assert_eq!(run(&["publish", "orders.new", "--data", "x", "-m", "a"])[0]["duplicate"], true);
    let read = run(&["fetch", "orders.new", "--durable", "d", "--all", "--ack"]);
    let read: Vec<_> = read.iter().map(|message| (&message["sequence"], &message["text"])).collect();
    assert_eq!(read, [(&json!(1), &json!("a")), (&json!(2), &json!("b"))]);
    assert_eq!(run(&["fetch", "orders.new", "--durable", "d", "--all"]).len(), 0);

    let taken = run(&["consume", "w", "--filter", "orders.>", "--limit", "2"]);
    let taken: Vec<_> = taken.iter().map(|message| (&message["text"], &message["attempt"])).collect();
    assert_eq!(taken, [(&json!("a"), &json!(1)), (&json!("b"), &json!(1))]);
    let books = run(&["consumer", "get", "w"]);
    assert_eq!((&books[0]["acked"], &books[0]["lag"]), (&json!(2), &json!(0)), "{books:?}");
    run(&["publish", "orders.new", "--data", "bad"]);
    run(&["consume", "w", "--limit", "1", "--exec", "exit 100"]);
    assert_eq!(run(&["dlq", "list", "w"]).len(), 1);
    run(&["publish", "later", "--data", "x", "--delay", "1h"]);

    let (film, read) = (dir.path().join("film"), dir.path().join("read"));
    std::fs::write(&film, data(1, 12 << 20)).unwrap();
    let published = run(&["publish", "films", "--file", film.to_str().unwrap()]);
    assert_eq!(published[0]["sequence"], 1);
    run(&["fetch", "films", "--to", read.to_str().unwrap()]);
    let files: Vec<_> = walk(&read);
    assert_eq!(files.len(), 1, "{files:?}");
    assert!(std::fs::read(&files[0]).unwrap() == data(1, 12 << 20));
    assert_eq!(run(&["subjects"]).len(), 4, "with the letters");
    assert_eq!(run(&["check"])[0]["findings"], 0);
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
#[ignore = "needs the version before this one: tests/run builds it"]
fn commands_of_the_version_before_work_at_this_one() {
    works_at(&Version::previous(), &Version::present());
}

#[test]
#[ignore = "needs the version before this one: tests/run builds it"]
fn commands_work_at_the_version_before() {
    works_at(&Version::present(), &Version::previous());
}
