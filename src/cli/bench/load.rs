use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::StreamExt;
use hdrhistogram::Histogram;
use minitoolstream_client::{Client, Connect, Fetch, NewMessage, Pending, PublisherOptions};
use tokio::sync::watch;

use super::server::Target;

/// Messages between two acks.
const ACK_EVERY: u64 = 1000;

/// What a load achieved.
pub(super) struct Measured {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) elapsed: Duration,
    /// Microseconds: of each message, or of each ack where messages are read.
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

/// A load of one kind of message, by several clients for some time.
pub(super) trait Load {
    fn clients(&self) -> usize;

    /// Bytes of each message.
    fn bytes(&self) -> u64;

    /// One client's part, until a moment; gives the latency of each message.
    fn publish(
        self,
        client: Client,
        subject: String,
        until: Instant,
    ) -> impl Future<Output = anyhow::Result<Histogram<u64>>> + Send + 'static;
}

/// Lets all clients of a load work, each over a connection of its own.
pub(super) async fn run(load: impl Load + Copy, target: &Target, duration: Duration) -> anyhow::Result<Measured> {
    let mut clients = Vec::new();
    for _ in 0..load.clients() {
        clients.push(Connect::to(&target.address).connect().await?);
    }
    let started = Instant::now();
    let publish = |client| tokio::spawn(load.publish(client, target.subject.clone(), started + duration));
    let tasks: Vec<_> = clients.into_iter().map(publish).collect();
    let mut latency = histogram();
    for task in tasks {
        latency.add(task.await??)?;
    }
    let bytes = latency.len() * load.bytes();
    Ok(Measured::new(latency, bytes, started.elapsed()))
}

impl Load for Publishing {
    fn clients(&self) -> usize {
        self.clients
    }

    fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    async fn publish(self, client: Client, subject: String, until: Instant) -> anyhow::Result<Histogram<u64>> {
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
                let message = NewMessage::new(&*subject, data.clone());
                pending.push_back((now, publisher.send(message).await));
                continue;
            }
            let Some((sent, ack)) = pending.pop_front() else { return Ok(latency) };
            ack.await?;
            latency.saturating_record(micros(sent.elapsed()));
        }
    }
}

/// Reads everything of the load's subject, with a durable consumer that acknowledges every [`ACK_EVERY`] messages while
/// it reads on.
pub(super) async fn read_back(target: &Target, bytes_each: usize) -> anyhow::Result<Measured> {
    let Target { address, subject, durable } = target.clone();
    let client = Connect::to(address).connect().await?;
    let last = client.last_sequence(&subject).await?;
    let everything = Fetch::durable(&subject, &durable).follow().limit(u32::try_from(last)?);
    let (done, mut to_ack) = watch::channel(0);
    let acking = tokio::spawn({
        let (client, subject, durable) = (client.clone(), subject.clone(), durable.clone());
        async move {
            let mut latency = histogram();
            while to_ack.changed().await.is_ok() {
                let (sequence, asked) = (*to_ack.borrow_and_update(), Instant::now());
                client.ack(&durable, &subject, sequence).await?;
                latency.saturating_record(micros(asked.elapsed()));
            }
            anyhow::Ok(latency)
        }
    });
    let started = Instant::now();
    let mut messages = client.fetch(everything).await?;
    let mut position = 0;
    while let Some(message) = messages.next().await {
        let message = message?;
        anyhow::ensure!(message.sequence == position + 1, "message {} is missing", position + 1);
        anyhow::ensure!(message.size() == bytes_each as u64, "message {} has another size", message.sequence);
        position = message.sequence;
        if position % ACK_EVERY == 0 || position == last {
            done.send_replace(position);
        }
    }
    drop(done);
    let latency = acking.await??;
    anyhow::ensure!(client.ack(&durable, &subject, 0).await? == last, "the last ack was not stored");
    Ok(Measured { messages: last, bytes: last * bytes_each as u64, elapsed: started.elapsed(), latency })
}
