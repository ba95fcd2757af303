//! Looks after the stores now and then, for metrics: whether they answer, and how full they are.

use std::time::Duration;

use crate::{
    error::Error,
    metrics::{Metrics, Part},
    store::Stores,
};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(5);

/// Looks for ever.
pub async fn watch(stores: Stores, metrics: Metrics) {
    loop {
        look(&stores, &metrics).await;
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn look(stores: &Stores, metrics: &Metrics) {
    metrics.unreadable_rows(stores.metadata.unreadable_rows());
    let (writable, usage) = tokio::join!(stores.writable(), stores.usage());
    for ((part, writable), usage) in Part::ALL.iter().zip(writable).zip(usage) {
        // One that is full answers.
        metrics.store_answers(*part, !matches!(writable, Err(Error::Unavailable { .. })));
        match usage {
            Ok(Some(usage)) => metrics.store_usage(*part, usage.used, usage.limit),
            Ok(None) => {}
            Err(error) => tracing::debug!(part = part.as_str(), %error, "a store does not tell how full it is"),
        }
    }
}
