use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use minitoolstream_client::{Connect, ConsumerSettings, Delivery, Fetch, NewMessage, Result};

use super::{
    load::{Measured, histogram, micros},
    server::Target,
};

/// Who waits for the messages.
#[derive(Clone, Copy)]
pub(super) enum Reader {
    /// A read that follows.
    Following,
    /// A worker of a durable consumer, which acks each message.
    Worker,
}

/// Publishes at a steady rate and measures the time until a reader on another connection has each message.
pub(super) async fn end_to_end(
    target: &Target,
    kind: Reader,
    bytes: usize,
    rate: u32,
    duration: Duration,
) -> anyhow::Result<Measured> {
    let reader = Connect::to(&target.address).connect().await?;
    let publisher = Connect::to(&target.address).connect().await?.publisher();
    let count = rate.saturating_mul(u32::try_from(duration.as_secs()).unwrap_or(u32::MAX).max(1));
    let mut datas: BoxStream<'_, Result<Option<Bytes>>> = match kind {
        Reader::Following => {
            let messages = reader.fetch(Fetch::from_sequence(&target.subject, 1).follow().limit(count)).await?;
            messages.map(|message| Ok(message?.data)).boxed()
        }
        Reader::Worker => {
            let consumer = reader.consumer(&target.durable).settings(ConsumerSettings::of(&target.subject));
            let acked = |delivery: Result<Delivery>| {
                let delivery = delivery?;
                let data = delivery.message.data.clone();
                delivery.ack_nowait();
                Ok(data)
            };
            consumer.messages().await?.map(acked).take(count as usize).boxed()
        }
    };
    let started = Instant::now();
    let reading = tokio::spawn(async move {
        let mut latency = histogram();
        while let Some(data) = datas.next().await {
            let sent = data?.and_then(|data| Some(u64::from_le_bytes(data.get(..8)?.try_into().ok()?)));
            let sent = Duration::from_nanos(sent.unwrap_or_default());
            latency.saturating_record(micros(started.elapsed().saturating_sub(sent)));
        }
        anyhow::Ok(latency)
    });
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    let per_tick = rate.div_ceil(1000);
    let mut pending = Vec::new();
    for index in 0..count {
        if index % per_tick == 0 {
            ticks.tick().await;
        }
        let mut data = vec![0; bytes.max(8)];
        let now = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        data[..8].copy_from_slice(&now.to_le_bytes());
        pending.push(publisher.send(NewMessage::new(&*target.subject, Bytes::from(data))).await);
    }
    for ack in pending {
        ack.await?;
    }
    let latency = reading.await??;
    let received = latency.len() * bytes as u64;
    Ok(Measured::new(latency, received, started.elapsed()))
}
