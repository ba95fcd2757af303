//! The stores that many brokers share: metadata in Tarantool, payload in S3.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    Archive, PayloadStore, Stores,
    cache::CachedPayload,
    s3::{self, S3Payload},
    tarantool::{self, TarantoolMetadata},
};
use crate::{
    error::{Error, Result},
    metrics::Metrics,
};

/// Pauses between two attempts to reach a store at the start.
const PAUSE: Duration = Duration::from_secs(1);

/// Both stores, connected.
pub struct Shared {
    /// The stores, ready for use.
    pub stores: Stores,
    /// The metadata store itself, for the news of other brokers.
    pub metadata: TarantoolMetadata,
}

/// Where they are.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Tarantool.
    pub tarantool: tarantool::Config,
    /// S3.
    pub s3: s3::Settings,
    /// Bytes of recent blocks kept in memory; 0: none.
    pub cache_bytes: u64,
}

/// What is waited for at the start, and why.
#[derive(Clone, Default)]
pub struct Waits(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Waits {
    /// A line for each store that does not answer, as far as it was tried.
    pub fn reasons(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn set(&self, store: &'static str, why: Option<&Error>) {
        let mut waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => drop(waits.insert(store, why.to_string())),
            None => drop(waits.remove(store)),
        }
    }
}

impl Shared {
    /// Connects to both. Waits for them as long as they do not answer, and says so.
    ///
    /// # Errors
    /// If a setting breaks a rule, or a store refuses the broker: waiting would not help.
    pub async fn connect(settings: Settings, metrics: &Metrics, waits: &Waits) -> Result<Self> {
        let Settings { tarantool, s3, cache_bytes } = settings;
        s3.validate()?;
        let (metadata, payload) = tokio::join!(
            wait("Tarantool", waits, || TarantoolMetadata::connect(tarantool.clone())),
            wait("S3", waits, || S3Payload::connect(s3.clone(), metrics.clone())),
        );
        let (metadata, mut payload): (_, Arc<dyn PayloadStore>) = (metadata?, Arc::new(payload?));
        // Whoever wants the stores for itself learns that it is at work.
        wait("Tarantool", waits, || metadata.join()).await?;
        if cache_bytes > 0 {
            payload = Arc::new(CachedPayload::new(payload, cache_bytes));
        }
        Ok(Self { stores: Stores { metadata: Arc::new(metadata.clone()), payload }, metadata })
    }
}

/// The same stores in the hands of their keeper, who is no broker and does not wait for a store that is away.
///
/// # Errors
/// As for [`Shared::connect`], and if a store does not answer.
pub async fn archive(settings: Settings, metrics: &Metrics) -> Result<Archive> {
    settings.s3.validate()?;
    let (metadata, payload) =
        tokio::join!(TarantoolMetadata::connect(settings.tarantool), S3Payload::connect(settings.s3, metrics.clone()),);
    Ok(Archive { metadata: Arc::new(metadata?), payload: Arc::new(payload?) })
}

async fn wait<T, F: Future<Output = Result<T>>>(
    store: &'static str,
    waits: &Waits,
    connect: impl Fn() -> F,
) -> Result<T> {
    loop {
        match connect().await {
            Err(error @ (Error::Unavailable { .. } | Error::Exhausted { .. })) => {
                tracing::warn!(%error, "waiting for {store}");
                waits.set(store, Some(&error));
                tokio::time::sleep(PAUSE).await;
            }
            other => {
                waits.set(store, None);
                return other;
            }
        }
    }
}
