//! Asks again and again which instance of Tarantool leads, so that no call waits long for one that hangs; for metrics, and for
//! how much data goes into its rows, too.

use std::time::Duration;

use super::storage::InlineMax;
use crate::{
    metrics::Metrics,
    store::tarantool::{Role, TarantoolMetadata},
};

/// The pause between two rounds.
const PAUSE: Duration = Duration::from_millis(500);

/// Watches for as long as it is polled.
pub async fn watch(metadata: TarantoolMetadata, metrics: Metrics, inline_max: InlineMax) {
    loop {
        let instances = metadata.instances().await;
        metrics.tarantool_instances(&instances);
        if let Some(leader) = instances.iter().find(|instance| instance.role == Role::Leader) {
            inline_max.follow(leader.is_scarce);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
