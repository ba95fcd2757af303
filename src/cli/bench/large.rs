use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use minitoolstream_client::{Client, Connect, NewMessage, Publisher};
use tokio::io::AsyncReadExt;

use super::load::{Load, Measured, SUBJECT, histogram, micros};

/// The subject of large messages that only make noise.
const NOISE: &str = "bench.noise";

/// Messages a second of the small ones that are published beside large ones.
const SMALL_PER_SECOND: u64 = 1000;

/// Clients that upload one message after another.
#[derive(Clone, Copy)]
pub(super) struct Uploading {
    /// Bytes of each message.
    pub(super) bytes: u64,
    /// Connections.
    pub(super) clients: usize,
}

impl Load for Uploading {
    fn clients(&self) -> usize {
        self.clients
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    /// At least one message, however long it takes.
    async fn publish(self, client: Client, until: Instant) -> anyhow::Result<Histogram<u64>> {
        let mut latency = histogram();
        while latency.is_empty() || Instant::now() < until {
            let began = Instant::now();
            upload(&client, SUBJECT, self.bytes).await?;
            latency.saturating_record(micros(began.elapsed()));
        }
        Ok(latency)
    }
}

async fn upload(client: &Client, subject: &str, bytes: u64) -> anyhow::Result<()> {
    let source = tokio::io::repeat(b'x').take(bytes);
    let uploaded = client.upload(NewMessage::new(subject, "")).size(bytes).from_reader(source).await?;
    anyhow::ensure!(uploaded.size == bytes, "{} of {bytes} bytes were stored", uploaded.size);
    Ok(())
}

/// Reads everything of the load's subject over some connections. The latency is the time to the first byte.
pub(super) async fn download(address: &str, clients: u64) -> anyhow::Result<Measured> {
    let client = Connect::to(address).connect().await?;
    let last = client.last_sequence(SUBJECT).await?;
    let started = Instant::now();
    let mut tasks = Vec::new();
    for first in 1..=clients {
        let client = Connect::to(address).connect().await?;
        tasks.push(tokio::spawn(async move {
            let (mut latency, mut bytes) = (histogram(), 0);
            for sequence in (first..=last).step_by(usize::try_from(clients)?) {
                let began = Instant::now();
                let mut reader = client.open((SUBJECT, sequence)).await?;
                let mut is_first = true;
                while let Some(piece) = reader.piece().await? {
                    if std::mem::take(&mut is_first) {
                        latency.saturating_record(micros(began.elapsed()));
                    }
                    bytes += piece.len() as u64;
                }
            }
            anyhow::Ok((latency, bytes))
        }));
    }
    let (mut latency, mut bytes) = (histogram(), 0);
    for task in tasks {
        let (of_task, read) = task.await??;
        latency.add(of_task)?;
        bytes += read;
    }
    Ok(Measured::new(latency, bytes, started.elapsed()))
}

/// Publishes 1 KiB messages at a steady rate while others upload.
pub(super) async fn beside_uploads(address: &str, uploads: Uploading) -> anyhow::Result<Measured> {
    let publisher = Connect::to(address).connect().await?.publisher();
    let mut noise = Vec::new();
    for _ in 0..uploads.clients {
        let client = Connect::to(address).connect().await?;
        noise.push(tokio::spawn(async move { upload(&client, NOISE, uploads.bytes).await }));
    }
    let (started, mut latency) = (Instant::now(), histogram());
    let mut ticks = tokio::time::interval(Duration::from_millis(1000 / SMALL_PER_SECOND));
    let mut pending = Vec::new();
    while !noise.iter().any(tokio::task::JoinHandle::is_finished) {
        ticks.tick().await;
        pending.push(tokio::spawn(publish(publisher.clone())));
    }
    for small in pending {
        latency.saturating_record(small.await??);
    }
    let elapsed = started.elapsed();
    for upload in noise {
        upload.await??;
    }
    let bytes = latency.len() << 10;
    Ok(Measured::new(latency, bytes, elapsed))
}

async fn publish(publisher: Publisher) -> anyhow::Result<u64> {
    let began = Instant::now();
    publisher.publish(NewMessage::new(SUBJECT, Bytes::from_static(&[b'x'; 1 << 10]))).await?;
    Ok(micros(began.elapsed()))
}
