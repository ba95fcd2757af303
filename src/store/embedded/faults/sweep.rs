//! Every call of the file system fails once, in every way; then many at random.

use std::{panic::AssertUnwindSafe, time::Instant};

use futures_util::FutureExt;
use tokio::runtime::Runtime;

use super::{
    disk::{Call, FailingDisk, Fault, Injected},
    load::{Load, ROOMY},
    run_inline,
};

/// Steps of a load: enough for several checkpoints, segments and a restart.
const STEPS: usize = 20;

/// Loads of which every call fails.
const LOADS: u64 = 3;

/// Loads of which calls fail at random.
const RANDOM: u64 = 3000;

/// What ends a process.
#[derive(Clone, Copy, Debug)]
enum End {
    Stop,
    Kill,
    PowerLoss,
}

const ENDS: [End; 3] = [End::Stop, End::Kill, End::PowerLoss];

impl End {
    fn of(self, load: &mut Load) {
        match self {
            Self::Stop => {
                load.stop();
                if load.disk.is_dead() {
                    load.kill();
                }
            }
            Self::Kill => load.kill(),
            Self::PowerLoss => load.lose_power(),
        }
    }
}

/// Runs a load with whatever fails, ends the process, and looks what is there. What it has seen, and so could have
/// served, must be there after a power loss, too.
async fn run(load: &mut Load, end: End) {
    for _ in 0..STEPS {
        if !load.is_open() && load.open().await.is_err() {
            continue;
        }
        load.step().await;
        if load.disk.is_dead() {
            break;
        }
    }
    end.of(load);
    load.disk.heal();
    load.open().await.unwrap_or_else(|error| panic!("a disk that works again is refused: {error}"));
    load.verify().await;
    for _ in 0..2 {
        load.step().await;
    }
    load.lose_power();
    load.open().await.unwrap_or_else(|error| panic!("a disk that works again is refused: {error}"));
    load.verify().await;
}

/// A case to run.
struct Case {
    what: String,
    seed: u64,
    fails: Fails,
    end: End,
}

enum Fails {
    At(u64, Fault),
    OneIn(u64),
}

impl Case {
    fn run(&self, runtime: &Runtime) -> Injected {
        let mut load = Load::new(FailingDisk::new(self.seed, ROOMY), self.seed);
        match self.fails {
            Fails::At(call, fault) => load.disk.fail_at(call, fault),
            Fails::OneIn(calls) => load.disk.fail_one_in(calls),
        }
        let ran = runtime.block_on(AssertUnwindSafe(run(&mut load, self.end)).catch_unwind());
        if let Err(panic) = ran {
            eprintln!("in the case {}, {:?}: failed calls {:?}", self.what, self.end, load.disk.log());
            std::panic::resume_unwind(panic);
        }
        load.disk.injected()
    }
}

/// Runs all cases, on two threads, and reports what they injected.
fn run_all(cases: &[Case]) -> Injected {
    let started = Instant::now();
    let mut injected = Injected::new();
    std::thread::scope(|scope| {
        let half = |first: usize| {
            move || {
                run_inline();
                let runtime = runtime();
                let mut injected = Injected::new();
                cases.iter().skip(first).step_by(2).for_each(|case| count(&mut injected, case.run(&runtime)));
                injected
            }
        };
        for running in [0, 1].map(|first| scope.spawn(half(first))) {
            match running.join() {
                Ok(more) => count(&mut injected, more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    for ((call, file, fault), times) in &injected {
        eprintln!("{call:?} of {file}, {fault:?}: {times}");
    }
    eprintln!("{} cases, {} faults, {:.1?}", cases.len(), injected.values().sum::<u64>(), started.elapsed());
    injected
}

fn count(all: &mut Injected, more: Injected) {
    for (what, times) in more {
        *all.entry(what).or_default() += times;
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// How much of all cases is run: `FAULTS=10` runs ten times as many.
fn factor() -> u64 {
    std::env::var("FAULTS").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

fn seed() -> u64 {
    let seed = std::env::var("MTS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("MTS_SEED={seed}");
    seed
}

#[test]
fn p1_every_call_of_the_disk_fails_once() {
    let first = seed();
    let mut cases = Vec::new();
    run_inline();
    for seed in (0..LOADS * factor()).map(|load| first.wrapping_add(load)) {
        let mut whole = Load::new(FailingDisk::new(seed, ROOMY), seed);
        runtime().block_on(run(&mut whole, End::Kill));
        for (number, (call, file)) in (0u64..).zip(whole.disk.calls()) {
            for (way, fault) in (0u64..).zip(Fault::of(call)) {
                let end = ENDS[usize::try_from((number + way + seed % 3) % 3).unwrap()];
                let what = format!("{seed}: call {number} ({call:?} of {file}) {fault:?}");
                cases.push(Case { what, seed, fails: Fails::At(number, *fault), end });
            }
        }
    }
    let injected = run_all(&cases);
    for file in ["journal", "meta.redb", "segments", "objects"] {
        for call in [Call::Write, Call::Sync] {
            for fault in Fault::of(call) {
                let times = injected.get(&(call, file.into(), *fault)).copied().unwrap_or(0);
                assert!(times > 0, "{call:?} of {file} never failed as {fault:?}");
            }
        }
    }
}

#[test]
fn p1_calls_of_the_disk_fail_at_random() {
    let first = seed();
    let cases: Vec<_> = (0..RANDOM * factor())
        .map(|number| {
            let seed = first.wrapping_add(number);
            let one_in = [10, 30, 100, 300][usize::try_from(number % 4).unwrap()];
            let what = format!("{seed}: one call in {one_in}");
            let end = ENDS[usize::try_from(number % 3).unwrap()];
            Case { what, seed, fails: Fails::OneIn(one_in), end }
        })
        .collect();
    let injected = run_all(&cases);
    assert!(injected.values().sum::<u64>() >= cases.len() as u64, "faults were injected");
}

/// How a full disk is met: other programs take it all, and later give it back.
#[test]
fn p1_a_disk_filled_by_others_stops_publishes_alone() {
    run_inline();
    let first = seed();
    for seed in (0..20).map(|load| first.wrapping_add(load)) {
        runtime().block_on(async {
            let disk = FailingDisk::new(seed, ROOMY);
            let mut load = Load::new(disk.clone(), seed);
            load.open().await.unwrap();
            for _ in 0..STEPS {
                load.step().await;
            }
            disk.fill_up();
            let (mut refused, mut acked) = (0, 0);
            for number in 0..200 {
                refused += u32::from(!load.try_publish("a").await);
                // Enough for many checkpoints, and restarts between.
                if load.try_ack("a", number).await {
                    acked += 1;
                }
                match number {
                    50 => load.stop(),
                    100 => load.kill(),
                    _ => continue,
                }
                load.open().await.unwrap_or_else(|error| panic!("a full disk keeps the stores closed: {error}"));
                // What a sealed segment has given back.
                disk.fill_up();
            }
            assert_eq!((refused, acked), (200, 200), "publishes are refused, acks are not");
            load.verify().await;
            load.purge_all("a").await;
            disk.clear();
            assert!(load.try_publish("a").await, "there is room again");
            load.verify().await;
        });
    }
}
