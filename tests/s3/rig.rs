use std::time::Duration;

use bytes::Bytes;
use minitoolstream::{
    Result,
    block::PayloadKey,
    metrics::Metrics,
    store::{
        ObjectWriter, PayloadStore, Synced,
        s3::{S3Payload, Settings},
    },
};
use minitoolstream_testkit::{FaultProxy, SeaweedFs};

/// Bytes of a part in these tests: as few as S3 takes.
pub(crate) const PART: usize = 5 << 20;

/// A real server, a proxy in front of it, and settings that lead through the proxy.
pub(crate) struct Rig {
    pub(crate) server: SeaweedFs,
    pub(crate) proxy: FaultProxy,
    pub(crate) settings: Settings,
    pub(crate) metrics: Metrics,
}

impl Rig {
    pub(crate) fn start() -> Self {
        let server = SeaweedFs::start(env!("CARGO_TARGET_TMPDIR"));
        let proxy = FaultProxy::start(server.address());
        let settings = Settings {
            endpoint: proxy.address().to_string(),
            prefix: "some/where/".into(),
            part_size: PART as u64,
            timeout: Duration::from_secs(2),
            ..server.settings("letters")
        };
        Self { server, proxy, settings, metrics: Metrics::new(1).unwrap() }
    }

    /// A store as a process of its own would have it.
    pub(crate) async fn connect(&self) -> S3Payload {
        S3Payload::connect(self.settings.clone(), self.metrics.clone()).await.unwrap()
    }

    /// The same without the proxy between.
    pub(crate) async fn connect_directly(&self) -> S3Payload {
        let settings = Settings { endpoint: self.server.address().to_string(), ..self.settings.clone() };
        S3Payload::connect(settings, self.metrics.clone()).await.unwrap()
    }

    /// What the server has below the bucket, unfinished uploads included: as it sees it itself.
    pub(crate) fn files(&self) -> Vec<String> {
        self.server.files("letters")
    }

    /// How many requests of a kind ended with a code.
    pub(crate) fn count(&self, operation: &str, code: &str) -> u64 {
        let series = format!("minitoolstream_s3_requests_total{{code=\"{code}\",operation=\"{operation}\"}} ");
        let text = self.metrics.render();
        text.lines().find_map(|line| line.strip_prefix(&series)).map_or(0, |count| count.parse().unwrap())
    }
}

/// Bytes in which every place is told from its neighbours and from the same place of other parts.
pub(crate) fn pattern(len: usize) -> Bytes {
    (0..len as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

/// Writes in pieces that fit no part.
pub(crate) async fn write(writer: &mut dyn ObjectWriter, data: &Bytes) -> Result<()> {
    for at in (0..data.len()).step_by(1_000_003) {
        writer.write(vec![data.slice(at..data.len().min(at + 1_000_003))]).await?;
    }
    Ok(())
}

pub(crate) async fn store(payload: &S3Payload, object: u64, data: &Bytes) -> Result<()> {
    let mut writer = payload.write_object(object, &Synced::default()).await?;
    write(&mut *writer, data).await?;
    writer.finish().await
}

/// Fails unless an object has these bytes and no more.
pub(crate) async fn assert_is(payload: &S3Payload, object: u64, data: &Bytes) {
    let (key, len) = (PayloadKey::Object(object), data.len() as u64);
    // No printing of megabytes.
    assert!(payload.read(key, 0, len).await.unwrap() == *data, "{key} has other bytes");
    assert!(payload.read(key, 0, len + 1).await.is_err(), "{key} has more bytes");
}
