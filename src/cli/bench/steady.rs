use std::time::{Duration, Instant};

use bytes::Bytes;
use minitoolstream_client::{Connect, NewMessage, Publisher};

use super::{
    load::{Measured, histogram, micros},
    server::Target,
};

/// Messages a second.
const RATE: u64 = 1000;

/// Publishes messages of 1 KiB at a steady rate until it is over, however long each takes.
pub(super) async fn publish(target: &Target, is_over: impl Fn() -> bool) -> anyhow::Result<Measured> {
    let publisher = Connect::to(&target.address).connect().await?.publisher();
    let (started, mut latency) = (Instant::now(), histogram());
    let mut ticks = tokio::time::interval(Duration::from_millis(1000 / RATE));
    let mut pending = Vec::new();
    while !is_over() {
        ticks.tick().await;
        pending.push(tokio::spawn(publish_one(publisher.clone(), target.subject.clone())));
    }
    for one in pending {
        latency.saturating_record(one.await??);
    }
    let bytes = latency.len() << 10;
    Ok(Measured::new(latency, bytes, started.elapsed()))
}

async fn publish_one(publisher: Publisher, subject: String) -> anyhow::Result<u64> {
    let began = Instant::now();
    publisher.publish(NewMessage::new(subject, Bytes::from_static(&[b'x'; 1 << 10]))).await?;
    Ok(micros(began.elapsed()))
}
