use std::time::{Duration, Instant};

use futures_util::StreamExt;
use minitoolstream_client::{Connect, ConsumerSettings};

use super::{
    load::{Measured, histogram, micros},
    server::Target,
};

/// What a worker may hold: several round trips of messages.
const WINDOW: u32 = 20_000;

/// How long the last acks may take.
const CONFIRMING_MAX: Duration = Duration::from_secs(30);

/// Consumes everything of the load's subject as the one worker of a durable consumer, and acks each message by itself.
/// What is measured ends when the broker has confirmed every ack.
pub(super) async fn consume(target: &Target, bytes_each: usize) -> anyhow::Result<Measured> {
    let client = Connect::to(&target.address).connect().await?;
    let last = client.last_sequence(&target.subject).await?;
    let settings = ConsumerSettings::of(&target.subject).max_ack_pending(WINDOW * 2);
    let consumer = client.consumer(&target.durable).settings(settings).window(WINDOW, 64 << 20);
    let started = Instant::now();
    let mut deliveries = consumer.messages().await?;
    let (mut latency, mut before) = (histogram(), started);
    for sequence in 1..=last {
        let Some(delivery) = deliveries.next().await else {
            anyhow::bail!("the messages end before {sequence}");
        };
        let delivery = delivery?;
        anyhow::ensure!(delivery.message.sequence == sequence, "message {sequence} is missing");
        anyhow::ensure!(delivery.message.size() == bytes_each as u64, "message {sequence} has another size");
        delivery.ack_nowait();
        let now = Instant::now();
        latency.saturating_record(micros(now - before));
        before = now;
    }
    deliveries.drain(CONFIRMING_MAX).await?;
    let elapsed = started.elapsed();
    let books = client.consumer(&target.durable).info().await?;
    anyhow::ensure!(books.acked == last && books.redeliveries == 0, "acked {} of {last}", books.acked);
    Ok(Measured::new(latency, last * bytes_each as u64, elapsed))
}
