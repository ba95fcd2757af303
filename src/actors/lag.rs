//! Measures how far behind consumers are, now and then, for metrics.

use std::time::Duration;

use crate::{consumer::Lag, error::Result, metrics::Metrics, store::Stores, types::ConsumerName};

/// Consumers looked at together.
const PAGE: usize = 100;

/// Measures for ever, with a pause between rounds.
pub async fn measure(stores: Stores, metrics: Metrics, interval: Duration, consumers_max: usize) {
    loop {
        match lags(&stores).await {
            Ok(lags) => metrics.lags(&lags, consumers_max),
            Err(error) => tracing::warn!(%error, "the lag of consumers was not measured"),
        }
        tokio::time::sleep(interval).await;
    }
}

async fn lags(stores: &Stores) -> Result<Vec<(ConsumerName, Lag)>> {
    let mut lags: Vec<(ConsumerName, Lag)> = Vec::new();
    loop {
        let after = lags.last().map_or("", |(name, _)| name.as_str());
        let views = stores.metadata.consumers(after, PAGE).await?;
        let is_last = views.len() < PAGE;
        lags.extend(views.into_iter().map(|view| (view.name, view.lag)));
        if is_last {
            return Ok(lags);
        }
    }
}
