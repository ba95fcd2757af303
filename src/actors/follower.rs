//! Follows what other brokers commit, over one call that waits in the store, and tells those who wait here.

use std::{sync::Arc, time::Duration};

use super::{heads::Heads, rings::Rings};
use crate::{
    error::Result,
    store::{
        MetadataStore,
        tarantool::{News, TarantoolMetadata},
    },
    types::Clock,
};

/// How long one call waits when nothing happens.
const WAIT: Duration = Duration::from_secs(20);

/// Pause after a call that failed.
const PAUSE: Duration = Duration::from_millis(200);

/// Follows the news for as long as it is polled.
pub async fn follow(metadata: TarantoolMetadata, heads: Arc<Heads>, rings: Arc<Rings>, clock: Arc<dyn Clock>) {
    let mut news = News::default();
    loop {
        match metadata.news(&news, WAIT).await {
            Ok(next) => {
                if let Err(error) = tell(&next, &metadata, &heads, &rings, &*clock).await {
                    tracing::warn!(%error, "those who wait for other brokers' messages learn of them later");
                    // Asked again from the same place.
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                news = next;
            }
            Err(error) => {
                tracing::warn!(%error, "what other brokers commit is not heard of");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn tell(
    news: &News,
    metadata: &TarantoolMetadata,
    heads: &Heads,
    rings: &Rings,
    clock: &dyn Clock,
) -> Result<()> {
    if !news.is_complete {
        for subject in heads.watched() {
            if let Some(row) = metadata.subject(&subject).await? {
                heads.raise(&subject, row.last);
            }
        }
        heads.touch_patterns();
        rings.ring_all();
    }
    for (subject, last) in &news.raised {
        heads.raise(subject, *last);
    }
    for consumer in &news.rung {
        rings.ring(consumer, true, None, clock.now());
    }
    Ok(())
}
