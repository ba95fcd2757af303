//! Asks again and again which instance of Tarantool leads, so that no call waits long for one that hangs; for metrics too.

use std::time::Duration;

use crate::{metrics::Metrics, store::tarantool::TarantoolMetadata};

/// The pause between two rounds.
const PAUSE: Duration = Duration::from_millis(500);

/// Watches for as long as it is polled.
pub async fn watch(metadata: TarantoolMetadata, metrics: Metrics) {
    loop {
        metrics.tarantool_instances(&metadata.instances().await);
        tokio::time::sleep(PAUSE).await;
    }
}
