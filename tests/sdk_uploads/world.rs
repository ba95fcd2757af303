use std::{path::Path, time::Duration};

use minitoolstream_client::{Backoff, Client, Connect, Error, NewMessage, Reader, Uploaded};
use minitoolstream_testkit::{Process, Proxy, TestBroker};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub(crate) const MIB: usize = 1 << 20;

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes that look like no others of another place.
pub(crate) fn data(len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    fastrand::Rng::with_seed(len as u64).fill(&mut data);
    data
}

pub(crate) fn sha256(data: &[u8]) -> [u8; 32] {
    Sha256::digest(data).into()
}

/// A broker that does not wait long for clients that a test leaves behind.
pub(crate) async fn start() -> TestBroker {
    TestBroker::start(&[("SHUTDOWN_DEADLINE", "300ms")]).await
}

/// A client behind a network that breaks.
pub(crate) async fn client_of(proxy: &Proxy) -> Client {
    let backoff = Backoff { first: Duration::from_millis(20), max: Duration::from_millis(200) };
    Connect::to(proxy.address.to_string()).backoff(backoff).attempts(20).connect().await.unwrap()
}

pub(crate) fn message(subject: &str) -> NewMessage {
    NewMessage::new(subject, "").header("kind", "test")
}

pub(crate) async fn upload(client: &Client, subject: &str, data: &[u8]) -> Uploaded {
    client.upload(message(subject)).from_bytes(data.to_vec()).await.unwrap()
}

pub(crate) async fn read_all(mut reader: Reader) -> Result<Vec<u8>, Error> {
    let mut data = Vec::new();
    while let Some(piece) = reader.piece().await? {
        data.extend_from_slice(&piece);
    }
    assert_eq!(reader.remaining(), 0);
    Ok(data)
}

/// What a message holds.
pub(crate) async fn data_of(client: &Client, subject: &str, sequence: u64) -> Vec<u8> {
    read_all(client.open((subject, sequence)).await.unwrap()).await.unwrap()
}

/// A broker in a process of its own, which can be killed, with a file to upload.
pub(crate) struct Killable {
    pub(crate) broker: Process,
    pub(crate) dir: TempDir,
}

impl Killable {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let broker = Process::start(env!("CARGO_BIN_EXE_minitoolstream"), &dir.path().join("broker"), &[]);
        Self { broker, dir }
    }

    pub(crate) fn proxy(&self) -> Proxy {
        Proxy::start(self.broker.address("ingress"))
    }
}

/// Writes a file of these bytes.
pub(crate) fn file(dir: &Path, data: &[u8]) -> std::path::PathBuf {
    let path = dir.join("file");
    std::fs::write(&path, data).unwrap();
    path
}
