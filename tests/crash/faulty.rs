//! The real binary on a disk that fails: `faulty.c` fails its calls, file by file. All calls, one at a time, fail in
//! `store/embedded/faults`, on a disk in memory; here is the operating system underneath.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use minitoolstream_client::{Client, ConsumerSettings, Error, Fetch, NewMessage};
use minitoolstream_testkit::{Process, http};
use tempfile::TempDir;

use crate::powerloss::compile;

const READ: u32 = 1;
const WRITE: u32 = 2;
const SYNC: u32 = 3;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// More than a row holds.
const SLICE: usize = 100 << 10;

/// A broker whose disk can be made to fail.
struct Sick {
    process: Process,
    control: File,
    home: TempDir,
}

impl Sick {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let shim = compile(home.path(), "faulty", include_str!("faulty.c"));
        let path = home.path().join("control");
        fs::write(&path, [0; 4096]).unwrap();
        let control = File::options().read(true).write(true).open(&path).unwrap();
        let [shim, path] = [shim, path].map(|path| path.display().to_string());
        let settings = [("LD_PRELOAD", shim.as_str()), ("MTS_FAULTS", path.as_str()), ("TTL_ENABLED", "false")];
        let data = home.path().join("broker");
        fs::create_dir(&data).unwrap();
        let process = Process::start(env!("CARGO_BIN_EXE_minitoolstream"), &data, &settings);
        Self { process, control, home }
    }

    /// Fails the next `count` calls of one kind on files whose path holds `path`.
    fn fail(&self, call: u32, error: i32, path: &str, count: u64) {
        self.control.write_all_at(&0_u64.to_le_bytes(), 0).unwrap();
        let mut rest = Vec::from(0_u64.to_le_bytes());
        rest.extend(call.to_le_bytes());
        rest.extend(error.to_le_bytes());
        rest.extend(path.as_bytes());
        rest.push(0);
        self.control.write_all_at(&rest, 8).unwrap();
        self.control.write_all_at(&count.to_le_bytes(), 0).unwrap();
    }

    /// Ends the failures; gives how many there were since they began.
    fn heal(&self) -> u64 {
        self.control.write_all_at(&0_u64.to_le_bytes(), 0).unwrap();
        let mut injected = [0; 8];
        self.control.read_exact_at(&mut injected, 8).unwrap();
        u64::from_le_bytes(injected)
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("broker/data")
    }

    /// The broker becomes ready again, and takes a message.
    async fn recovers(&self, client: &Client) {
        let since = Instant::now();
        loop {
            let published = client.publisher().publish(NewMessage::new("after", "x")).await;
            if published.is_ok() && http::get(self.process.address("http"), "/readyz").await.0 == 200 {
                return;
            }
            assert!(since.elapsed() < Duration::from_secs(10), "{published:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn check(&self) -> (bool, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_minitoolstream"));
        let output = command.args(["check", "--data-dir"]).arg(self.data()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Data of all messages of a subject that can be read, and how reading ended.
async fn read(client: &Client, subject: &str) -> (Vec<u8>, Option<Error>) {
    let mut found = Vec::new();
    let mut messages = client.fetch(Fetch::from_sequence(subject, 1).limit(10_000)).await.unwrap();
    while let Some(message) = messages.next().await {
        match message {
            Ok(message) => found.push(message.data.unwrap()[0]),
            Err(error) => return (found, Some(error)),
        }
    }
    (found, None)
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_a_failed_sync_or_write_of_metadata_loses_nothing_that_is_acknowledged() {
    let mut sick = Sick::start();
    let client = sick.process.client();
    let (mut acked, mut unknown, mut injected) = (Vec::new(), Vec::new(), 0);
    for (call, error, path) in [
        (SYNC, EIO, "/journal"),
        (WRITE, EIO, "/journal"),
        (WRITE, ENOSPC, "/journal"),
        (SYNC, EIO, "/meta.redb"),
        (WRITE, EIO, "/meta.redb"),
        (READ, EIO, "/meta.redb"),
    ] {
        for count in [1, 4] {
            sick.fail(call, error, path, count);
            // More than a journal: it meets a checkpoint.
            for number in 0..40_u8 {
                let mut data = vec![number; 60 << 10];
                data[1] = u8::try_from(acked.len() % 251).unwrap();
                match client.publisher().publish(NewMessage::new("a", data)).await {
                    Ok(published) => acked.push((published.sequence, number)),
                    Err(error) => unknown.push((number, error)),
                }
            }
            injected += sick.heal();
            sick.recovers(&client).await;
        }
    }
    eprintln!("{injected} calls failed, {} acknowledged, {} unknown", acked.len(), unknown.len());
    assert!(injected >= 8, "{injected}");
    assert!(unknown.iter().all(|(_, error)| error.is_transient()), "{unknown:?}");
    sick.process.crash_and_restart();
    let client = sick.process.client();
    let (found, end) = read(&client, "a").await;
    assert!(end.is_none(), "{end:?}");
    for (sequence, number) in &acked {
        assert_eq!(found.get(usize::try_from(*sequence - 1).unwrap()), Some(number), "sequence {sequence}");
    }
    assert!(found.len() <= acked.len() + unknown.len());
    assert!(sick.process.terminate().success());
    let (is_sound, findings) = sick.check();
    assert!(is_sound, "{findings}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_a_bad_sector_of_a_segment_is_dead_lettered_and_named() {
    let sick = Sick::start();
    let client = sick.process.client();
    for number in 1..=6 {
        client.publisher().publish(NewMessage::new("a", vec![number; SLICE])).await.unwrap();
    }
    let settings = ConsumerSettings::of("a").dead_letter_subject("dead");
    let mut worker = client.consumer("c").settings(settings).messages().await.unwrap();
    // Two messages cannot be read by any of three tries.
    sick.fail(READ, EIO, "/segments/", 6);
    let mut handled = Vec::new();
    let all = async {
        while handled.len() < 4 {
            let delivery = worker.next().await.unwrap().unwrap();
            handled.push(delivery.message.data.as_ref().unwrap()[0]);
            delivery.ack();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.expect("the others come");
    assert!(sick.heal() >= 3, "the sector was bad");
    let (dead, _) = read_headers(&client, "dead").await;
    assert!(!dead.is_empty() && dead.iter().all(|reason| reason == "data-loss"), "{dead:?}");
    // Readers are answered with the reason; what lies behind is served once the disk works.
    sick.fail(READ, EIO, "/segments/", 100);
    let (_, end) = read(&client, "a").await;
    assert!(matches!(&end, Some(Error::DataLoss(message)) if message.contains("cannot be read")), "{end:?}");
    sick.heal();
    assert_eq!(read(&client, "a").await.0, [1, 2, 3, 4, 5, 6]);
}

/// Reasons of the dead letters of a subject.
async fn read_headers(client: &Client, subject: &str) -> (Vec<String>, Option<Error>) {
    let mut found = Vec::new();
    let since = Instant::now();
    while found.is_empty() && since.elapsed() < Duration::from_secs(10) {
        let mut messages = client.fetch(Fetch::from_sequence(subject, 1).limit(100)).await.unwrap();
        while let Some(Ok(message)) = messages.next().await {
            found.extend(message.headers.get("Mts-Reason").cloned());
        }
    }
    (found, None)
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_check_names_what_cannot_be_read_and_goes_on() {
    let sick = Sick::start();
    let client = sick.process.client();
    for number in 1..=6 {
        client.publisher().publish(NewMessage::new("a", vec![number; SLICE])).await.unwrap();
    }
    sick.fail(READ, EIO, "/segments/", 3);
    let output = Command::new(env!("CARGO_BIN_EXE_minitoolstream"))
        .args(["check", "--address", &format!("http://{}", sick.process.address("ingress"))])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(sick.heal() >= 3);
    assert!(!output.status.success() && text.contains("damaged-block") && text.contains("cannot be read"), "{text}");
    assert!(text.contains('6'), "all blocks were looked at: {text}");
}
