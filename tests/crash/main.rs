//! P1, P2, P4, P5 and P8 while the real binary is killed, loses power, or is stopped.
//!
//! ```text
//! load.rs ──publish, ack──▶ broker.rs (the binary) ◀──read── verify.rs
//!    └── what was sent and answered ──▶ ledger.rs ◀── what is there ─┘
//!                                          ▲
//! message.rs: id ─▶ subject, bytes, ttl ───┘
//!
//! powerloss.c, in the broker: what it changes and syncs ─▶ undo_log.rs ─▶ powerloss.rs: what a disk may lose
//! first_run.rs: a short life, cut at every step          stop.rs: signals
//! faulty.c, in the broker: calls that fail ◀── faulty.rs: a disk that is sick
//! ```
//! All choices follow from a seed, which each test prints: `MTS_SEED=… cargo nextest run --test crash` makes the same
//! ones again. The moment of a crash depends on the machine as well.
#![allow(clippy::unwrap_used)]

mod broker;
mod faulty;
mod first_run;
mod ledger;
mod load;
mod message;
mod powerloss;
mod stop;
mod undo_log;
mod verify;

use std::{
    fmt::Display,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    broker::{Home, client_of},
    ledger::Ledger,
    load::Load,
    powerloss::{Loss, PowerLoss, Shim},
    verify::{ALL, verify},
};

/// Failures of one sweep that are told in full: the others are most often the same.
const REPORTED: usize = 10;

/// Messages that publishers may send beyond what a round waits for: the broker dies at work.
const SLACK: u64 = 2000;

fn seed() -> u64 {
    let given = std::env::var("MTS_SEED").ok().map(|seed| seed.parse().expect("MTS_SEED is a number"));
    let seed = given.unwrap_or_else(|| fastrand::u64(0..1 << 32));
    say(format_args!("MTS_SEED={seed}"));
    seed
}

fn say(what: impl Display) {
    eprintln!("{what}");
}

/// Publishes until about `more` messages were acknowledged, and a moment longer.
async fn work(load: &Load, ledger: &Ledger, more: u64, rng: &mut fastrand::Rng) {
    let before = ledger.acknowledged_total();
    load.allow(usize::try_from(more + SLACK).unwrap());
    load.acknowledged(before + more).await;
    tokio::time::sleep(Duration::from_micros(rng.u64(0..30_000))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_p1_nothing_acknowledged_is_lost_over_30_kills() {
    const ROUNDS: u32 = 60;
    const ACKNOWLEDGED: u64 = 300_000;
    let (seed, started) = (seed(), Instant::now());
    let (mut rng, ledger) = (fastrand::Rng::with_seed(seed), Arc::new(Ledger::new(seed)));
    let home = Home::new(&mut rng);
    let mut process = home.start();
    let load = Load::start(&home.address(), &ledger);
    let (mut marks, mut slowest) = (ALL, Duration::ZERO);
    for round in 1..=ROUNDS {
        // Some rounds crash soon after the start, the others make up for it.
        let left = ACKNOWLEDGED.saturating_sub(ledger.acknowledged_total()) / u64::from(ROUNDS - round + 1);
        let more = if rng.u8(0..4) == 0 { rng.u64(0..500) } else { rng.u64(left..=left * 2) };
        work(&load, &ledger, more, &mut rng).await;
        process.kill();
        if rng.u8(0..3) == 0 {
            home.start_and_kill(Duration::from_millis(rng.u64(0..100)));
        }
        slowest = slowest.max(process.restart());
        let from = if round % 10 == 0 { ALL } else { marks };
        marks = verify(&client_of(&process), &ledger, from, &mut rng).await;
        ledger.assert_kept(&format!("round {round}"));
        say(format_args!("round {round}: {} acknowledged, {:?}", ledger.acknowledged_total(), started.elapsed()));
    }
    load.stop().await;
    process.kill();
    home.check().unwrap();
    process.restart();
    verify(&client_of(&process), &ledger, ALL, &mut rng).await;
    ledger.assert_kept("at the end");
    let total = ledger.acknowledged_total();
    say(format_args!("{ROUNDS} kills, {ledger}, slowest start {slowest:?}, {:?} in all", started.elapsed()));
    assert!(total >= ACKNOWLEDGED, "{total} acknowledged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_p1_power_loss_drops_only_what_was_not_acknowledged() {
    const ROUNDS: u32 = 24;
    let (seed, started) = (seed(), Instant::now());
    let (mut rng, ledger) = (fastrand::Rng::with_seed(seed), Arc::new(Ledger::new(seed)));
    let (mut home, shim) = (Home::new(&mut rng), Shim::compile());
    // That a first start survives is another test's.
    std::fs::create_dir(home.data_dir()).unwrap();
    let power = PowerLoss::below(&home.data_dir(), &shim);
    home.set(power.settings());
    let mut process = home.start();
    let load = Load::start(&home.address(), &ledger);
    let (mut cuts_at_work, mut undone) = (0, 0);
    for round in 1..=ROUNDS {
        work(&load, &ledger, rng.u64(0..2000), &mut rng).await;
        if rng.u8(0..4) > 0 {
            // At some write or sync, which is most often in the middle of a commit.
            load.allow(usize::try_from(SLACK).unwrap());
            power.stop_at(Some(rng.u64(1..50)));
            power.stopped().await;
        }
        process.kill();
        power.stop_at(None);
        if rng.u8(0..4) == 0 {
            // A mere crash in between: what readers meet in the page cache must not be lost with the power either.
            power.keep();
            process.restart();
            verify(&client_of(&process), &ledger, ALL, &mut rng).await;
            process.kill();
        }
        let loss = if round % 3 == 0 { Loss::Everything } else { Loss::SomePages };
        let cut = power.cut(loss, &mut rng);
        say(format_args!("round {round}: {loss:?}, {cut:?}, {ledger}, {:?}", started.elapsed()));
        assert!(cut.durable > 0, "the shim sees what the broker writes and syncs");
        cuts_at_work += u32::from(cut.volatile > 0);
        undone += cut.undone;
        for _ in 0..rng.u8(0..3) {
            power.stop_at(Some(rng.u64(1..20)));
            home.start_and_kill(Duration::from_millis(rng.u64(50..300)));
            power.stop_at(None);
            power.cut(loss, &mut rng);
        }
        process.restart();
        verify(&client_of(&process), &ledger, ALL, &mut rng).await;
        ledger.assert_kept(&format!("round {round}, {loss:?}"));
    }
    load.stop().await;
    process.kill();
    power.cut(Loss::Everything, &mut rng);
    home.check().unwrap();
    process.restart();
    verify(&client_of(&process), &ledger, ALL, &mut rng).await;
    ledger.assert_kept("at the end");
    say(format_args!(
        "{ROUNDS} power losses, {cuts_at_work} of them in the middle of a change, {undone} pages and names lost, {ledger}, \
         {:?} in all",
        started.elapsed()
    ));
    assert!(cuts_at_work >= ROUNDS / 2, "power was lost in the middle of {cuts_at_work} changes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn crash_p1_power_may_fail_at_every_write_of_a_first_run() {
    let (seed, started, shim) = (seed(), Instant::now(), Arc::new(Shim::compile()));
    let sweeps = [Loss::Nothing, Loss::Everything, Loss::SomePages]
        .map(|loss| (loss, tokio::spawn(first_run::cut_everywhere(seed, loss, shim.clone()))));
    let mut failures = Vec::new();
    for (loss, sweep) in sweeps {
        let (found, steps) = sweep.await.unwrap();
        say(format_args!("{loss:?} lost: {steps} steps, {} failures, {:?}", found.len(), started.elapsed()));
        failures.extend(found.into_iter().take(REPORTED));
    }
    assert!(failures.is_empty(), "seed {seed}:\n{}", failures.join("\n"));
}
