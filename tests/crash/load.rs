//! Publishers and consumers that go on while the broker dies and comes back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use minitoolstream_client::{Client, Pending, PublisherOptions};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::sleep,
};

use crate::{
    broker::client,
    ledger::Ledger,
    message::{SUBJECTS, Spec, now},
};

/// Publishers, each with a stream of its own.
const PUBLISHERS: usize = 4;

/// Messages that one publisher has on the way: what a crash can make uncertain.
const IN_FLIGHT: usize = 512;

/// Durable consumers, each on all subjects.
const DURABLES: [&str; 2] = ["billing", "archive"];

/// Tasks that acknowledge, for any of the consumers.
const ACKERS: usize = 3;

/// How long a load may take to get on.
const PATIENCE: Duration = Duration::from_secs(60);

/// A load in progress.
pub(crate) struct Load {
    ledger: Arc<Ledger>,
    /// What publishers may still send: a test decides how much a round holds.
    budget: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Starts against a broker at `address`, which stays the same for good.
    pub(crate) fn start(address: &str, ledger: &Arc<Ledger>) -> Self {
        let (budget, mut tasks) = (Arc::new(Semaphore::new(0)), JoinSet::new());
        // Two connections, so that both limits of one and of the broker are in play.
        let clients = [client(address), client(address)];
        for publisher in 0..PUBLISHERS {
            let (sent, acks) = mpsc::channel(2 * IN_FLIGHT);
            let client = clients[publisher % clients.len()].clone();
            tasks.spawn(publish(client, publisher, ledger.clone(), budget.clone(), sent));
            tasks.spawn(collect(acks, ledger.clone(), budget.clone()));
        }
        for acker in 0..ACKERS {
            let rng = fastrand::Rng::with_seed(ledger.seed.wrapping_add(acker as u64));
            tasks.spawn(acknowledge(clients[0].clone(), ledger.clone(), budget.clone(), rng));
        }
        Self { ledger: ledger.clone(), budget, tasks }
    }

    /// Lets publishers send `more` messages on top of what they have left.
    pub(crate) fn allow(&self, more: usize) {
        self.budget.add_permits(more);
    }

    /// Waits until `total` messages are acknowledged.
    pub(crate) async fn acknowledged(&self, total: u64) {
        let started = Instant::now();
        while self.ledger.acknowledged_total() < total {
            assert!(started.elapsed() < PATIENCE, "seed {}: publishing does not get on", self.ledger.seed);
            self.ledger.assert_kept("under load");
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends the load, with every answer in.
    pub(crate) async fn stop(mut self) {
        self.budget.close();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

/// A message on the way, and what was known when it was sent.
struct Sent {
    spec: Spec,
    sent_at: u64,
    floor: u64,
    pending: Pending,
}

async fn publish(client: Client, number: usize, ledger: Arc<Ledger>, budget: Arc<Semaphore>, sent: mpsc::Sender<Sent>) {
    let options = PublisherOptions { in_flight_max: IN_FLIGHT, in_flight_bytes: 4 << 20, timeout: PATIENCE };
    let publisher = client.publisher_with(options);
    for _ in 0..u32::MAX {
        let Ok(permit) = budget.acquire().await else {
            return;
        };
        permit.forget();
        let spec = ledger.issue(number);
        let (floor, sent_at) = (ledger.floor(spec.subject), now());
        let pending = publisher.send(spec.message()).await;
        if sent.send(Sent { spec, sent_at, floor, pending }).await.is_err() {
            return;
        }
    }
}

/// Takes the acks of one publisher in the order in which it sent.
async fn collect(mut sent: mpsc::Receiver<Sent>, ledger: Arc<Ledger>, budget: Arc<Semaphore>) {
    let mut last = [0; SUBJECTS.len()];
    while let Some(Sent { spec, sent_at, floor, pending }) = sent.recv().await {
        match pending.await {
            Ok(published) => {
                let last = &mut last[spec.subject];
                if published.sequence <= *last {
                    let (name, sequence) = (spec.subject(), published.sequence);
                    ledger.fault(format!("'{name}': {sequence} came after {last} on one stream, and was sent later"));
                }
                *last = published.sequence;
                ledger.acknowledged(&spec, published, sent_at, floor);
            }
            // The outcome is unknown: another message takes its place.
            Err(error) if error.is_transient() => {
                ledger.uncertain();
                budget.add_permits(1);
            }
            Err(error) => ledger.fault(format!("a publish to '{}' was refused: {error}", spec.subject())),
        }
    }
}

/// Moves positions, mostly forwards.
async fn acknowledge(client: Client, ledger: Arc<Ledger>, budget: Arc<Semaphore>, mut rng: fastrand::Rng) {
    for _ in 0..u32::MAX {
        if budget.is_closed() {
            return;
        }
        let (durable, subject) = (DURABLES[rng.usize(0..DURABLES.len())], rng.usize(0..SUBJECTS.len()));
        let last = ledger.floor(subject);
        let from = if rng.u8(0..4) == 0 { 0 } else { last.saturating_sub(100) };
        move_position(&client, &ledger, durable, subject, rng.u64(from..=last)).await;
        sleep(Duration::from_millis(rng.u64(0..5))).await;
    }
}

/// Acknowledges up to `sequence` and compares the answer with earlier ones (P4).
pub(crate) async fn move_position(client: &Client, ledger: &Ledger, durable: &str, subject: usize, sequence: u64) {
    let before = ledger.will_move(durable, subject, sequence);
    match client.ack(durable, SUBJECTS[subject], sequence).await {
        Ok(position) => ledger.moved(durable, subject, sequence, before, position),
        Err(error) => {
            ledger.fault(format!("an ack of '{durable}' up to {sequence} of '{}' failed: {error}", SUBJECTS[subject]));
        }
    }
}
