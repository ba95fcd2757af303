use std::time::{Duration, Instant};

use minitoolstream::{
    actors::{
        handle::Handle,
        supervise::{Fault, Supervised},
    },
    error::Result,
};
use minitoolstream_testkit::{TestBroker, http};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long an actor may take to be up again: the deadline of its heartbeats, the longest pause, and some.
const RECOVERY_MAX: Duration = Duration::from_secs(8);

/// An actor that is made to fail.
pub(crate) struct Victim {
    pub(crate) name: &'static str,
    tell: Box<dyn Fn(Fault) -> Result<()>>,
    is_up: Box<dyn Fn() -> bool>,
}

impl Victim {
    pub(crate) fn new<A: Supervised>(handle: &Handle<A>) -> Self {
        let (tells, looks) = (handle.clone(), handle.clone());
        Self {
            name: handle.name(),
            tell: Box::new(move |fault| tells.tell(fault).map(drop)),
            is_up: Box::new(move || looks.is_up()),
        }
    }

    pub(crate) fn strike(&self, fault: Fault) {
        (self.tell)(fault).unwrap();
    }

    /// Makes it fail and waits until it is up again.
    pub(crate) async fn strike_and_recover(&self, fault: Fault, broker: &TestBroker) {
        let cause = cause_of(fault);
        let before = self.restarts(cause, broker).await;
        self.strike(fault);
        self.recovers_from(cause, broker, before).await;
    }

    /// Waits until it is up again after one more restart than `before`.
    pub(crate) async fn recovers_from(&self, cause: &str, broker: &TestBroker, before: u64) {
        let since = Instant::now();
        while self.restarts(cause, broker).await == before || !(self.is_up)() {
            assert!(since.elapsed() < RECOVERY_MAX, "the {} is not up again after a {cause}", self.name);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until its supervisor has noticed that it failed.
    pub(crate) async fn is_down(&self) {
        let since = Instant::now();
        while (self.is_up)() {
            assert!(since.elapsed() < RECOVERY_MAX, "nobody noticed that the {} failed", self.name);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// How often actors of its name were rebuilt.
    pub(crate) async fn restarts(&self, cause: &str, broker: &TestBroker) -> u64 {
        let series = format!("minitoolstream_actor_restarts_total{{actor=\"{}\",cause=\"{cause}\"}}", self.name);
        http::metric(broker.http, &series).await
    }
}

fn cause_of(fault: Fault) -> &'static str {
    match fault {
        Fault::Panic => "panic",
        Fault::Hang(_) => "hang",
    }
}

/// Asks for readiness again and again, and remembers why it was refused.
pub(crate) struct Watch {
    stop: CancellationToken,
    reasons: JoinHandle<Vec<String>>,
}

impl Watch {
    pub(crate) fn start(broker: &TestBroker) -> Self {
        let (stop, address) = (CancellationToken::new(), broker.http);
        let stopped = stop.clone();
        let reasons = tokio::spawn(async move {
            let mut reasons = Vec::new();
            while !stopped.is_cancelled() {
                let (status, body) = http::get(address, "/readyz").await;
                if status == 503 {
                    let body: Value = serde_json::from_str(&body).unwrap();
                    let given = body["reasons"].as_array().unwrap();
                    reasons.extend(given.iter().map(|reason| reason.as_str().unwrap().to_owned()));
                } else {
                    assert_eq!(status, 200, "{body}");
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            reasons
        });
        Self { stop, reasons }
    }

    /// Every reason why the broker was not ready at some time.
    pub(crate) async fn finish(self) -> Vec<String> {
        self.stop.cancel();
        self.reasons.await.unwrap()
    }
}
