//! P6: memory does not grow with the size of messages, nor with how many are uploaded at a time.
//!
//! `LARGE=1` makes the one message 10 GiB: see CONTRIBUTING.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use minitoolstream_client::NewMessage;
use minitoolstream_testkit::Process;
use tokio::io::AsyncReadExt;

const BINARY: &str = env!("CARGO_BIN_EXE_minitoolstream");

/// What broker and command line may take, in MiB.
const BROKER_MIB: u64 = 256;
const CLI_MIB: u64 = 128;

/// How long a command may take.
const COMMAND_MAX: Duration = Duration::from_secs(500);

#[tokio::test(flavor = "multi_thread")]
async fn load_p6_many_uploads_at_a_time_stay_within_the_bound() {
    const CLIENTS: u64 = 64;
    let size: u64 = 64 << 20;
    let dir = tempfile::tempdir().unwrap();
    let broker = Process::start(BINARY, dir.path(), &[]);
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (subject, client) = (format!("videos.{client}"), broker.client());
            tokio::spawn(async move {
                let source = tokio::io::repeat(7).take(size);
                let uploaded = client.upload(NewMessage::new(&subject, "")).from_reader(source).await.unwrap();
                assert_eq!((uploaded.sequence, uploaded.size), (1, size));
                let mut reader = client.open((subject.as_str(), 1)).await.unwrap();
                let mut read = 0;
                while let Some(piece) = reader.piece().await.unwrap() {
                    assert!(piece.iter().step_by(4096).all(|byte| *byte == 7));
                    read += piece.len() as u64;
                }
                assert_eq!(read, size);
                client.purge(&subject, None).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let peak = broker.peak_memory_mib();
    eprintln!("peak resident memory: {peak} MiB");
    assert!(peak < BROKER_MIB, "{peak} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn load_p6_one_large_message_up_and_down_by_the_command_line() {
    let size: u64 = if std::env::var_os("LARGE").is_some() { 10 << 30 } else { 512 << 20 };
    let dir = tempfile::tempdir().unwrap();
    let broker = Process::start(BINARY, dir.path(), &[]);
    let address = format!("http://{}", broker.address("ingress"));
    // Sparse: it takes no room, and is as large as any.
    std::fs::File::create(dir.path().join("film.bin")).unwrap().set_len(size).unwrap();
    let started = Instant::now();
    let published = run(dir.path(), &address, &["publish", "films", "--file", "film.bin"]);
    let up = started.elapsed();
    let fetched = run(dir.path(), &address, &["fetch", "films", "--all", "--to", "out"]);
    let down = started.elapsed() - up;
    let broker_peak = broker.peak_memory_mib();
    eprintln!("{} MiB: up {up:?}, {published} MiB; down {down:?}, {fetched} MiB; broker {broker_peak} MiB", size >> 20);
    assert_eq!(std::fs::metadata(dir.path().join("out/film.bin")).unwrap().len(), size);
    assert!(published < CLI_MIB && fetched < CLI_MIB, "{published} and {fetched} MiB");
    assert!(broker_peak < BROKER_MIB, "{broker_peak} MiB");
}

/// Runs the command line in a directory, to its end; gives its peak of resident memory, in MiB.
fn run(dir: &Path, address: &str, words: &[&str]) -> u64 {
    let mut command = Command::new(BINARY);
    command.args(["--address", address, "--output", "json"]).args(words).current_dir(dir);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let (deadline, mut peak) = (Instant::now() + COMMAND_MAX, 0);
    loop {
        // What a process had at most stays to be read until it ends.
        peak = peak_mib(&child).unwrap_or(peak);
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{words:?}: {status}");
            return peak;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("{words:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn peak_mib(child: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}
