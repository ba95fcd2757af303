use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// Tells the streams of one connection to end: because of its age, or with all others, because the broker stops.
#[derive(Clone, Debug)]
pub(super) struct Draining {
    connection: CancellationToken,
    broker: CancellationToken,
}

impl Draining {
    /// Of a new connection, which drains with its broker.
    pub(super) fn with(broker: &CancellationToken) -> Self {
        Self { connection: broker.child_token(), broker: broker.clone() }
    }

    /// The connection drains, alone.
    pub(super) fn begin(&self) {
        self.connection.cancel();
    }

    /// True if no new streams are to begin.
    pub(super) fn has_begun(&self) -> bool {
        self.connection.is_cancelled()
    }

    /// Completes when streams are to end.
    pub(super) async fn begun(&self) {
        self.connection.cancelled().await;
    }

    /// Completes when the broker stops.
    pub(super) async fn broker_stops(&self) {
        self.broker.cancelled().await;
    }

    /// What a stream is told that ends.
    pub(super) fn reason(&self) -> Error {
        if self.broker.is_cancelled() { Error::draining() } else { Error::aged() }
    }
}
