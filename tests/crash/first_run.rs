//! A short life of a broker, cut at each of its writes and syncs in turn.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::Child,
    sync::Arc,
    time::Duration,
};

use minitoolstream_client::Client;
use tokio::time::{sleep, timeout};

use crate::{
    broker::{Home, client, client_of},
    ledger::Ledger,
    load::move_position,
    message::{SUBJECTS, Spec, now},
    powerloss::{Loss, PowerLoss, Shim},
    verify::{ALL, verify},
};

/// More than one such life has.
const STEPS_MAX: u64 = 1000;

/// Data from here on is not stored in the row.
const SLICE_MIN: usize = 9 << 10;

/// Data from here on is an object.
const OBJECT_MIN: usize = (1 << 20) + 1;

/// How long a broker has for its whole life.
const LIFE: Duration = Duration::from_secs(30);

/// What went wrong, by the step at which the power failed; and how many steps there are.
pub(crate) async fn cut_everywhere(seed: u64, loss: Loss, shim: Arc<Shim>) -> (Vec<String>, u64) {
    let mut failures = Vec::new();
    for step in 1..=STEPS_MAX {
        let (lived, outcome) = cut_at(step, seed, loss, &shim).await;
        if let Err(problem) = outcome {
            failures.push(format!("cut at step {step}, {loss:?} lost: {problem}"));
        }
        if lived {
            return (failures, step - 1);
        }
    }
    panic!("the life of the broker has no end");
}

/// Gives `true` if the broker lived to the end, and what is wrong afterwards.
async fn cut_at(step: u64, seed: u64, loss: Loss, shim: &Shim) -> (bool, Result<(), String>) {
    let mut rng = fastrand::Rng::with_seed(seed ^ step << 32);
    let ledger = Ledger::new(seed);
    let mut home = Home::new(&mut rng);
    let power = PowerLoss::below(home.root(), shim);
    home.set(power.settings());
    home.set([("REAPER_GRACE", "0s".into())]);
    power.stop_at(Some(step));
    let mut broker = home.serve().spawn().unwrap();
    let client_side = client(&home.address());
    let life = live(&client_side, &ledger);
    tokio::pin!(life);
    let lived = tokio::select! {
        biased;
        done = &mut life => done,
        () = died(&mut broker) => {
            // Answers that were under way still count.
            let _ = timeout(Duration::from_millis(20), &mut life).await;
            false
        }
    };
    let _ = broker.kill();
    broker.wait().unwrap();
    power.stop_at(None);
    power.cut(loss, &mut rng);
    (lived, examine(&home, &ledger, &mut rng).await)
}

async fn examine(home: &Home, ledger: &Ledger, rng: &mut fastrand::Rng) -> Result<(), String> {
    let Ok(mut process) = catch_unwind(AssertUnwindSafe(|| home.start())) else {
        return Err("the broker does not start any more".into());
    };
    verify(&client_of(&process), ledger, ALL, rng).await;
    process.kill();
    match ledger.faults() {
        faults if faults.is_empty() => home.check(),
        faults => Err(faults.join("; ")),
    }
}

async fn died(broker: &mut Child) {
    let polls = LIFE.as_millis();
    for _ in 0..polls {
        if broker.try_wait().unwrap().is_some() {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("the broker neither served nor died");
}

/// Messages of every placement, positions, expiry. Gives `false`, early, when the broker is gone.
async fn live(client: &Client, ledger: &Ledger) -> bool {
    // Waits until it serves.
    if client.last_sequence(SUBJECTS[0]).await.is_err() {
        return false;
    }
    let size = |spec: &Spec, min: usize, max: usize| (min..max).contains(&spec.size);
    let lasting = |spec: &Spec| spec.ttl.is_none();
    let fleeting = |spec: &Spec| spec.ttl.is_some_and(|ttl| ttl < Duration::from_millis(300));
    let inline = ledger.issue_where(0, |spec| lasting(spec) && size(spec, 0, 300));
    let slice = ledger.issue_where(0, |spec| lasting(spec) && size(spec, SLICE_MIN, OBJECT_MIN));
    let object = ledger.issue_where(0, |spec| lasting(spec) && size(spec, OBJECT_MIN, usize::MAX));
    let brief_slice = ledger.issue_where(0, |spec| fleeting(spec) && size(spec, SLICE_MIN, OBJECT_MIN));
    let brief_object = ledger.issue_where(0, |spec| fleeting(spec) && size(spec, OBJECT_MIN, usize::MAX));
    let subject = inline.subject;
    for spec in [inline, slice, object, brief_slice, brief_object] {
        if !publish(client, ledger, vec![spec]).await {
            return false;
        }
    }
    move_position(client, ledger, "billing", subject, ledger.floor(subject)).await;
    let batch = (0..30).map(|_| ledger.issue_where(0, |spec| spec.size < OBJECT_MIN)).collect();
    let all = publish(client, ledger, batch).await;
    if all {
        // The reaper removes what expired, rows first, then files.
        sleep(Duration::from_millis(600)).await;
    }
    all
}

async fn publish(client: &Client, ledger: &Ledger, specs: Vec<Spec>) -> bool {
    let publisher = client.publisher();
    let mut sent = Vec::new();
    for spec in specs {
        let (floor, sent_at) = (ledger.floor(spec.subject), now());
        let pending = publisher.send(spec.message()).await;
        sent.push((spec, sent_at, floor, pending));
    }
    let mut all = true;
    for (spec, sent_at, floor, pending) in sent {
        match pending.await {
            Ok(published) => ledger.acknowledged(&spec, published, sent_at, floor),
            Err(error) if error.is_transient() => all = false,
            Err(error) => ledger.fault(format!("a publish was refused: {error}")),
        }
    }
    all
}
