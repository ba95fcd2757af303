//! What the broker does for whoever asks, over gRPC or HTTP: the rules on input, limits, and calls to actors and stores.

pub(crate) mod publish;
pub mod read;
pub mod upload;
pub(crate) mod validate;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{
    actors::{
        handle::Handle, heads::Heads, publisher::Publishers, rings::Rings, storage::Storage, threads::ThreadPool,
    },
    admission::Admission,
    config::Config,
    metrics::Metrics,
    store::Stores,
    types::Clock,
};

/// What all services work with; cloning shares it.
#[derive(Clone)]
pub struct Broker {
    /// The configuration.
    pub config: Arc<Config>,
    /// Where messages are.
    pub stores: Stores,
    /// Who stores messages.
    pub publishers: Publishers,
    /// Who moves positions.
    pub storage: Handle<Storage>,
    /// Who knows what is new.
    pub heads: Arc<Heads>,
    /// Who gives leases.
    pub lessors: Arc<read::Lessors>,
    /// Who uploads what.
    pub uploads: Arc<upload::Uploaders>,
    /// Who works for which consumer.
    pub rings: Arc<Rings>,
    /// Where subscribers run.
    pub subscriber_threads: Arc<ThreadPool>,
    /// Cancelled when no new work is taken any more.
    pub draining: CancellationToken,
    /// The limits.
    pub admission: Admission,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The counters.
    pub metrics: Metrics,
}
