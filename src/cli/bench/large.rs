use std::time::Instant;

use hdrhistogram::Histogram;
use minitoolstream_client::{Client, Connect, NewMessage};
use tokio::io::AsyncReadExt;

use super::{
    load::{Load, Measured, histogram, micros},
    server::Target,
    steady,
};

/// The subject of large messages that only make noise.
const NOISE: &str = "bench.noise";

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
    async fn publish(self, client: Client, subject: String, until: Instant) -> anyhow::Result<Histogram<u64>> {
        let mut latency = histogram();
        while latency.is_empty() || Instant::now() < until {
            let began = Instant::now();
            upload(&client, &subject, self.bytes).await?;
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
pub(super) async fn download(target: &Target, clients: u64) -> anyhow::Result<Measured> {
    let client = Connect::to(&target.address).connect().await?;
    let last = client.last_sequence(&target.subject).await?;
    let started = Instant::now();
    let mut tasks = Vec::new();
    for first in 1..=clients {
        let (client, subject) = (Connect::to(&target.address).connect().await?, target.subject.clone());
        tasks.push(tokio::spawn(async move {
            let (mut latency, mut bytes) = (histogram(), 0);
            for sequence in (first..=last).step_by(usize::try_from(clients)?) {
                let began = Instant::now();
                let mut reader = client.open((&*subject, sequence)).await?;
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
pub(super) async fn beside_uploads(target: &Target, uploads: Uploading) -> anyhow::Result<Measured> {
    let mut noise = Vec::new();
    for _ in 0..uploads.clients {
        let client = Connect::to(&target.address).connect().await?;
        noise.push(tokio::spawn(async move { upload(&client, NOISE, uploads.bytes).await }));
    }
    let measured = steady::publish(target, || noise.iter().any(tokio::task::JoinHandle::is_finished)).await?;
    for upload in noise {
        upload.await??;
    }
    Ok(measured)
}
