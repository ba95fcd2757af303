use std::time::Duration;

use minitoolstream_proto::{ConsumeRequest, Credit, OpenConsumer};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    Client, ConsumerSettings, Error, Result,
    deliveries::Stage,
    link::{Driver, Ended},
    settings::wire,
};

/// How streams of a consumer are opened, again and again.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub(crate) name: String,
    pub(crate) settings: Option<ConsumerSettings>,
    pub(crate) window_messages: u32,
    pub(crate) window_bytes: u64,
    pub(crate) max_message_bytes: u32,
    pub(crate) heartbeat: Duration,
    pub(crate) auto_extend: bool,
    pub(crate) max_hold: Duration,
    pub(crate) patience: Duration,
}

impl Opening {
    pub(crate) fn request(&self) -> ConsumeRequest {
        let open = OpenConsumer {
            durable_name: self.name.clone(),
            settings: self.settings.clone().map(|settings| settings.settings),
            max_message_bytes: self.max_message_bytes,
            heartbeat: wire(self.heartbeat),
        };
        let credit = Credit { messages: self.window_messages, bytes: self.window_bytes };
        ConsumeRequest { open: Some(open), credit: Some(credit), ..Default::default() }
    }

    /// How long leases are extended, if they are.
    pub(crate) fn hold(&self) -> Option<Duration> {
        self.auto_extend.then_some(self.max_hold)
    }
}

/// Keeps a consumer's stream open: one after the other, and beside it those that a broker drains.
pub(crate) struct Worker {
    pub(crate) client: Client,
    pub(crate) opening: Opening,
    pub(crate) stage: watch::Sender<Stage>,
    pub(crate) leave: watch::Receiver<bool>,
    /// Streams of connections about to end, on which what is out is settled.
    pub(crate) draining: JoinSet<()>,
}

impl Worker {
    /// Fails if it was left while the connection was broken, and not all that was said had been confirmed.
    pub(crate) async fn run(mut self, mut driver: Driver) -> Result<()> {
        let mut failures = 0;
        let mut outcome = Ok(());
        loop {
            let ended = driver.run().await;
            failures = if driver.is_proven { 1 } else { failures + 1 };
            let mut unsettled = None;
            let error = match ended {
                Ended::Left => {
                    driver.finish().await;
                    break;
                }
                Ended::Draining => {
                    self.client.channels.leave(driver.via.as_ref());
                    self.draining.spawn(driver.run_out());
                    Error::unavailable("the broker is about to end the connection")
                }
                Ended::Broken(error) => {
                    if !driver.link.with(|leases| leases.is_settled()) {
                        unsettled = Some(error.to_string());
                    }
                    drop(driver);
                    error
                }
            };
            match self.reopen(error, &mut failures).await {
                Ok(Some(next)) => driver = next,
                Ok(None) => {
                    outcome = unsettled.map_or(Ok(()), |error| {
                        Err(Error::LeaseLost(format!(
                            "not all answers were confirmed: what is not settled will be delivered again ({error})"
                        )))
                    });
                    break;
                }
                Err(error) => {
                    self.stage.send_replace(Stage::Failed(error));
                    break;
                }
            }
            self.stage.send_replace(Stage::Open(driver.link.clone()));
        }
        // The reader has nothing to wait for any more.
        drop(self.stage);
        while self.draining.join_next().await.is_some() {}
        outcome
    }

    /// Opens the next stream; `None` if nobody wants it any more.
    async fn reopen(&mut self, mut error: Error, failures: &mut u32) -> Result<Option<Driver>> {
        let deadline = Instant::now() + self.opening.patience;
        loop {
            if !error.is_transient() {
                return Err(error);
            }
            if self.opening.name.is_empty() {
                return Err(Error::unavailable(format!(
                    "a consumer without a name ends with its stream: begin anew ({error})"
                )));
            }
            let waits = self.client.connect.backoff.wait(*failures, fastrand::f64());
            let waits = waits.max(error.retry_after().unwrap_or_default());
            if Instant::now() + waits > deadline {
                return Err(error);
            }
            let leave = self.leave.clone();
            let opened = async {
                sleep(waits).await;
                Driver::open(&self.client, &self.opening, leave).await
            };
            // The streams that drain are reaped meanwhile, so that they do not gather.
            let reaped = async {
                while self.draining.join_next().await.is_some() {}
                std::future::pending::<()>().await;
            };
            tokio::select! {
                opened = opened => match opened {
                    Ok(driver) => return Ok(Some(driver)),
                    Err(failure) => error = failure,
                },
                () = reaped => {}
                _ = self.leave.changed() => return Ok(None),
            }
            *failures += 1;
        }
    }
}
