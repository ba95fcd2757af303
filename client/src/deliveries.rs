use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::Stream;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_stream::wrappers::WatchStream;

use crate::{
    Client, Delivery, Error, Result,
    link::{Driver, Link},
    worker::{Opening, Worker},
};

/// The messages of a consumer as they are delivered to this worker.
///
/// Goes on after a broken connection, and moves on from a broker that is about to stop: what was delivered before and
/// not answered is then lost to this worker, and delivered again. It ends with an error that trying again does not
/// mend, as when the consumer is deleted.
///
/// Dropping it gives back what it holds and was not handed out; messages that are out may still be answered, as long
/// as the runtime lives. [`drain`](Self::drain) waits for that.
#[derive(Debug)]
pub struct Deliveries {
    stages: WatchStream<Stage>,
    link: Option<Arc<Link>>,
    leave: watch::Sender<bool>,
    worker: JoinHandle<Result<()>>,
}

/// Which stream is read.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    Open(Arc<Link>),
    Failed(Error),
}

impl Deliveries {
    pub(crate) async fn open(client: Client, opening: Opening) -> Result<Self> {
        let (leave, left) = watch::channel(false);
        let mut failures = 0;
        let driver = loop {
            let error = match Driver::open(&client, &opening, left.clone()).await {
                Ok(driver) => break driver,
                Err(error) => error,
            };
            failures += 1;
            if !error.is_transient() || failures >= client.connect.attempts {
                return Err(error);
            }
            client.connect.backoff.sleep(failures, error.retry_after()).await;
        };
        let (stage, stages) = watch::channel(Stage::Open(driver.link.clone()));
        let worker = Worker { client, opening, stage, leave: left, draining: JoinSet::new() };
        let worker = tokio::spawn(worker.run(driver));
        Ok(Self { stages: WatchStream::new(stages), link: None, leave, worker })
    }

    /// Takes nothing more, and gives back what was not handed out.
    pub(crate) fn leave(&self) {
        self.leave.send_replace(true);
    }

    /// Takes nothing more, gives back what was not handed out, and waits until the messages that are out are answered
    /// and the answers are on the broker's stable storage.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if that took longer than the timeout, or the connection broke meanwhile: what is not settled is
    /// delivered again.
    pub async fn drain(mut self, within: Duration) -> Result<()> {
        self.leave();
        if let Ok(ended) = timeout(within, &mut self.worker).await {
            return ended.unwrap_or_else(|failure| Err(Error::Other(format!("the worker's task failed: {failure}"))));
        }
        self.worker.abort();
        Err(Error::LeaseLost(format!(
            "not all messages were answered within {within:?}: the others will be delivered again"
        )))
    }
}

impl Stream for Deliveries {
    type Item = Result<Delivery>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(link) = &self.link {
                match ready!(link.poll_take(cx)) {
                    Some(delivery) => return Poll::Ready(Some(Ok(Delivery::new(link.clone(), delivery)))),
                    None => self.link = None,
                }
            }
            match ready!(Pin::new(&mut self.stages).poll_next(cx)) {
                Some(Stage::Open(link)) => self.link = Some(link),
                Some(Stage::Failed(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}
