//! The main job on real input: a tree of files goes in on one side and comes out the same on the other, whatever is
//! killed meanwhile.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStdout, Command, Stdio},
};

use minitoolstream_testkit::{Cluster, Process};

use crate::{
    command::{BINARY, Ended, Session, command_at},
    tree,
};

const FETCH: &str = "fetch site --durable mirror --all --to out --ack";
const PUBLISH: &str = "publish site --recursive tree --message-id run";

/// A broker and a tree of files to publish.
struct Site {
    session: Session,
    files: usize,
}

impl Site {
    fn new() -> Self {
        // Publishing again must find its ids also on a slow machine.
        let session = Session::start_with(&[("DEDUP_WINDOW", "1h"), ("LOG_LEVEL", "warn")]);
        let files = tree::plant(&session.dir.path().join("tree"));
        Self { session, files }
    }

    /// What was fetched is what was published, and the broker's books agree.
    fn assert_mirrored(&self) {
        let diff =
            Command::new("diff").args(["-r", "tree", "out"]).current_dir(self.session.dir.path()).output().unwrap();
        assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
        let books = &self.session.json("subjects site")[0];
        assert_eq!((&books["live"], &books["last_sequence"]), (&self.files.into(), &self.files.into()));
        assert_eq!(self.session.json("check")[0]["findings"], 0);
        assert_eq!(self.session.run(FETCH).text(), "", "all of it is acknowledged");
    }
}

/// A command under way.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(session: &Session, line: &str) -> Self {
        Self::spawn(&mut session.command(line))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn read(&mut self, lines: usize) -> Vec<String> {
        self.lines.by_ref().take(lines).map(Result::unwrap).collect()
    }

    /// The rest of its lines, and whether it succeeded.
    fn end(mut self) -> (Vec<String>, bool) {
        let rest = self.lines.map(Result::unwrap).collect();
        (rest, self.child.wait().unwrap().success())
    }
}

/// Sequences by path, as `publish` prints them; the second number counts duplicates.
fn published(lines: &[String]) -> (BTreeMap<String, u64>, usize) {
    let mut sequences = BTreeMap::new();
    let mut duplicates = 0;
    for line in lines {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let path = line["path"].as_str().unwrap().to_owned();
        assert_eq!(sequences.insert(path, line["sequence"].as_u64().unwrap()), None, "each file is told of once");
        duplicates += usize::from(line["duplicate"] == true);
    }
    (sequences, duplicates)
}

#[test]
fn a_tree_of_files_arrives_unchanged() {
    let site = Site::new();
    let printed = site.session.run("publish site --recursive tree").text();
    assert_eq!(printed.lines().last().unwrap(), format!("{} messages are stored", site.files));
    site.session.run(FETCH).text();
    site.assert_mirrored();
}

#[test]
fn a_tree_arrives_whole_though_the_broker_is_killed_while_it_is_fetched() {
    let mut site = Site::new();
    site.session.run("publish site --recursive tree").text();
    // It acknowledges after each 500: every kill comes after some were written that are not acknowledged yet.
    for lines in [150, 700, 650] {
        let mut fetch = Running::start(&site.session, FETCH);
        assert_eq!(fetch.read(lines).len(), lines);
        site.session.broker.kill();
        let (rest, succeeded) = fetch.end();
        assert!(
            !succeeded && lines % 500 + rest.len() < 490,
            "{} more were on their way: no kill in the middle",
            rest.len()
        );
        site.session.broker.restart();
    }
    site.session.run(FETCH).text();
    site.assert_mirrored();
}

#[test]
fn a_tree_arrives_once_though_the_broker_is_killed_while_it_is_published() {
    let mut site = Site::new();
    let mut publish = Running::start(&site.session, &format!("-o json {PUBLISH}"));
    let mut lines = Vec::new();
    for _ in 1..=3 {
        lines.extend(publish.read(site.files / 8));
        site.session.broker.crash_and_restart();
    }
    let (rest, succeeded) = publish.end();
    assert!(rest.len() > site.files / 8, "each kill came in the middle");
    assert!(succeeded, "a message with an id is sent again by itself");
    lines.extend(rest);
    let (first, _) = published(&lines);
    assert_eq!(first.len(), site.files);

    let again = Running::start(&site.session, &format!("-o json {PUBLISH}")).end().0;
    assert_eq!(published(&again), (first, site.files), "each file keeps the sequence that was acknowledged");
    site.session.run(FETCH).text();
    site.assert_mirrored();
}

#[test]
fn a_tree_arrives_once_though_its_publisher_is_killed() {
    let site = Site::new();
    let line = format!("-o json {PUBLISH}");
    let mut publish = Running::start(&site.session, &line);
    let (acknowledged, _) = published(&publish.read(site.files / 4));
    publish.child.kill().unwrap();
    publish.end();
    let (lines, succeeded) = Running::start(&site.session, &line).end();
    let (sequences, duplicates) = published(&lines);
    assert!(succeeded && duplicates >= acknowledged.len() && duplicates < site.files, "{duplicates} were there");
    assert_eq!(sequences.len(), site.files);
    assert!(acknowledged.iter().all(|(path, sequence)| sequences[path] == *sequence), "acks hold");
    site.session.run(FETCH).text();
    site.assert_mirrored();
}

/// Through two brokers that publish and two that serve: one of each is killed in the middle, and the same command goes on
/// at the other.
#[test]
fn a_tree_arrives_once_through_replicas_of_which_one_is_killed() {
    let settings = [("DEDUP_WINDOW", "1h"), ("LOG_LEVEL", "warn")];
    let mut cluster = Cluster::start(BINARY, env!("CARGO_TARGET_TMPDIR"), 2, &settings);
    let dir = tempfile::tempdir().unwrap();
    let files = tree::plant(&dir.path().join("tree"));
    let addresses = |brokers: &[Process], key| brokers.iter().map(|broker| broker.address(key)).collect::<Vec<_>>();
    let (ingress, egress) = (addresses(&cluster.ingress, "ingress"), addresses(&cluster.egress, "egress"));
    let at = |address: &str, line: &str| command_at(dir.path(), address, line);

    let publish = format!("-o json {PUBLISH}");
    let mut first = Running::spawn(&mut at(&ingress[0], &publish));
    let mut lines = first.read(files / 3);
    cluster.ingress[0].kill();
    // It tries again for a while, and gives up.
    first.child.kill().unwrap();
    lines.extend(first.end().0);
    let (acknowledged, _) = published(&lines);
    let (lines, succeeded) = Running::spawn(&mut at(&ingress[1], &publish)).end();
    let (sequences, duplicates) = published(&lines);
    assert!(succeeded && duplicates >= acknowledged.len() && duplicates < files, "{duplicates} of {files} were there");
    assert_eq!(sequences.len(), files);
    assert!(acknowledged.iter().all(|(path, sequence)| sequences[path] == *sequence), "acks hold");

    let mut first = Running::spawn(&mut at(&egress[0], FETCH));
    // It acknowledges after each 500.
    assert_eq!(first.read(700).len(), 700);
    cluster.egress[0].kill();
    let (rest, succeeded) = first.end();
    assert!(!succeeded && 700 + rest.len() < files, "{} more came: no kill in the middle", rest.len());
    Ended::of(&mut at(&egress[1], FETCH)).text();

    let diff = Command::new("diff").args(["-r", "tree", "out"]).current_dir(dir.path()).output().unwrap();
    assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
    let books = &Ended::of(&mut at(&egress[1], "-o json subjects site")).documents()[0];
    assert_eq!((&books["live"], &books["last_sequence"]), (&files.into(), &files.into()));
    assert_eq!(Ended::of(&mut at(&egress[1], "-o json check")).documents()[0]["findings"], 0);
    assert_eq!(Ended::of(&mut at(&egress[1], FETCH)).text(), "", "all of it is acknowledged");
}
