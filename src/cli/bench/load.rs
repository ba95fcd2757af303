use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::StreamExt;
use hdrhistogram::Histogram;
use minitoolstream_client::{Client, Connect, Fetch, NewMessage, Pending, PublisherOptions};

/// The subject that loads go to.
pub(super) const SUBJECT: &str = "bench.load";

/// Messages of one fetch, and between two acks.
const READ_STEP: u32 = 1000;

/// What a load achieved.
pub(super) struct Measured {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) elapsed: Duration,
    /// Microseconds.
    latency: Histogram<u64>,
}

impl Measured {
    pub(super) fn new(latency: Histogram<u64>, bytes: u64, elapsed: Duration) -> Self {
        Self { messages: latency.len(), bytes, elapsed, latency }
    }

    /// Messages a second.
    pub(super) fn rate(&self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64()
    }

    /// A quantile of the latency in milliseconds.
    pub(super) fn millis(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// Latencies from a microsecond to a minute, to three digits.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are valid")
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1)
}

/// Clients that publish as fast as acks come back.
#[derive(Clone, Copy)]
pub(super) struct Publishing {
    /// Bytes of each message.
    pub(super) bytes: usize,
    /// Connections.
    pub(super) clients: usize,
    /// Messages in flight of each.
    pub(super) in_flight: usize,
}

impl Publishing {
    pub(super) async fn run(self, address: &str, duration: Duration) -> anyhow::Result<Measured> {
        let mut clients = Vec::new();
        for _ in 0..self.clients {
            clients.push(Connect::to(address).connect().await?);
        }
        let started = Instant::now();
        let tasks: Vec<_> =
            clients.into_iter().map(|client| tokio::spawn(self.publish(client, started + duration))).collect();
        let mut latency = histogram();
        for task in tasks {
            latency.add(task.await??)?;
        }
        let bytes = latency.len() * self.bytes as u64;
        Ok(Measured::new(latency, bytes, started.elapsed()))
    }

    async fn publish(self, client: Client, until: Instant) -> anyhow::Result<Histogram<u64>> {
        let options = PublisherOptions {
            in_flight_max: self.in_flight,
            in_flight_bytes: 64 << 20,
            ..PublisherOptions::default()
        };
        let publisher = client.publisher_with(options);
        let data = Bytes::from(vec![b'x'; self.bytes]);
        let mut latency = histogram();
        let mut pending: VecDeque<(Instant, Pending)> = VecDeque::with_capacity(self.in_flight);
        loop {
            let now = Instant::now();
            if now < until && pending.len() < self.in_flight {
                let message = NewMessage::new(SUBJECT, data.clone());
                pending.push_back((now, publisher.send(message).await));
                continue;
            }
            let Some((sent, ack)) = pending.pop_front() else { return Ok(latency) };
            ack.await?;
            latency.saturating_record(micros(sent.elapsed()));
        }
    }
}

/// Reads everything of the load's subject with a durable consumer that acknowledges each step.
pub(super) async fn read_back(address: &str, bytes_each: usize) -> anyhow::Result<Measured> {
    let client = Connect::to(address).connect().await?;
    let last = client.last_sequence(SUBJECT).await?;
    let started = Instant::now();
    let mut latency = histogram();
    let mut position = 0;
    while position < last {
        let asked = Instant::now();
        let mut messages = client.fetch(Fetch::durable(SUBJECT, "bench").limit(READ_STEP)).await?;
        while let Some(message) = messages.next().await {
            let message = message?;
            anyhow::ensure!(message.sequence == position + 1, "message {} is missing", position + 1);
            anyhow::ensure!(message.size() == bytes_each as u64, "message {} has another size", message.sequence);
            position = message.sequence;
            latency.saturating_record(micros(asked.elapsed()));
        }
        client.ack("bench", SUBJECT, position).await?;
    }
    let bytes = latency.len() * bytes_each as u64;
    Ok(Measured::new(latency, bytes, started.elapsed()))
}
