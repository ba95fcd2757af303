//! A broker that is asked to stop.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Command, ExitStatus},
    sync::Arc,
    time::{Duration, Instant},
};

use minitoolstream_client::{Fetch, NewMessage};
use minitoolstream_testkit::Process;
use tokio::task::block_in_place;

use crate::{
    SLACK,
    broker::{Home, client_of},
    ledger::Ledger,
    load::Load,
    say, seed,
    verify::{ALL, verify},
    work,
};

/// Stops under load.
const ROUNDS: u32 = 5;

/// Longer than any test lasts: a broker that waits for it has hung.
const FOREVER: &str = "1h";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_graceful_stop_ends_with_0_and_loses_nothing() {
    let seed = seed();
    let (mut rng, ledger) = (fastrand::Rng::with_seed(seed), Arc::new(Ledger::new(seed)));
    let mut home = Home::new(&mut rng);
    home.set([("SHUTDOWN_DEADLINE", FOREVER.into())]);
    let mut process = home.start();
    let load = Load::start(&home.address(), &ledger);
    for round in 1..=ROUNDS {
        work(&load, &ledger, rng.u64(0..3000), &mut rng).await;
        load.allow(usize::try_from(SLACK).unwrap());
        let (status, took) = terminate(&mut process);
        assert_eq!(status.code(), Some(0), "round {round}: {status}");
        say(format_args!("round {round}: {ledger}, stopped in {took:?}"));
        process.restart();
        verify(&client_of(&process), &ledger, ALL, &mut rng).await;
        ledger.assert_kept(&format!("round {round}"));
    }
    load.stop().await;
    let (status, _) = terminate(&mut process);
    assert_eq!(status.code(), Some(0), "{status}");
    home.check().unwrap();
    process.restart();
    verify(&client_of(&process), &ledger, ALL, &mut rng).await;
    ledger.assert_kept("at the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_second_signal_ends_at_once() {
    let seed = seed();
    let (mut rng, ledger) = (fastrand::Rng::with_seed(seed), Arc::new(Ledger::new(seed)));
    let mut home = Home::new(&mut rng);
    home.set([("SHUTDOWN_DEADLINE", FOREVER.into()), ("LIMITS_STALL_TIMEOUT", FOREVER.into())]);
    let mut process = home.start();
    let load = Load::start(&home.address(), &ledger);
    work(&load, &ledger, 2000, &mut rng).await;
    // A reader that takes nothing: its stream has more to come than fits on the way, so it never ends by itself.
    let client = client_of(&process);
    for _ in 0..16 {
        client.publisher().publish(NewMessage::new("unread", vec![7; 1 << 20])).await.unwrap();
    }
    let unread = client.fetch(Fetch::from_sequence("unread", 1).limit(16)).await.unwrap();
    assert!(Command::new("kill").args(["-TERM", &process.pid().to_string()]).status().unwrap().success());
    wait_until_unready(&process.address("http"));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(is_alive(process.pid()), "the first signal waits for the reader");
    let (status, took) = terminate(&mut process);
    assert_eq!(status.code(), Some(1), "{status}");
    assert!(took < Duration::from_secs(5), "the second signal took {took:?}");
    drop(unread);
    process.restart();
    load.stop().await;
    verify(&client_of(&process), &ledger, ALL, &mut rng).await;
    ledger.assert_kept("after the second signal");
    process.kill();
    home.check().unwrap();
}

fn terminate(process: &mut Process) -> (ExitStatus, Duration) {
    let started = Instant::now();
    let status = block_in_place(|| process.terminate());
    (status, started.elapsed())
}

fn wait_until_unready(http: &str) {
    for _ in 0..1000 {
        let mut answer = String::new();
        let mut stream = TcpStream::connect(http).unwrap();
        stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").unwrap();
        stream.read_to_string(&mut answer).unwrap();
        if !answer.contains(" 200 ") {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the broker stays ready after a signal");
}

/// Whether a process runs: one that ended and was not waited for yet is listed as `Z`.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}
