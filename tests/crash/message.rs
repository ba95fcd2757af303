//! What a test publishes: every message follows from the seed and its id, so that a reader can tell what it must be.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use minitoolstream_client::{Message, NewMessage};

/// Subjects; those of one publisher's batch end up in both shards.
pub(crate) const SUBJECTS: [&str; 5] = ["orders.eu", "orders.us", "sensors.kitchen.temperature", "images", "sessions"];

/// The subject whose messages all expire soon.
const SHORT_LIVED: &str = "sessions";

/// Data shorter than this has no room for its id, which is a header then.
const ID_BYTES: usize = 8;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) id: u64,
    /// Index in [`SUBJECTS`].
    pub(crate) subject: usize,
    pub(crate) size: usize,
    pub(crate) ttl: Option<Duration>,
    /// Whether it carries a message id.
    pub(crate) repeatable: bool,
    seed: u64,
}

impl Spec {
    /// The message that an id stands for.
    pub(crate) fn of(seed: u64, id: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ id.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let subject = rng.usize(0..SUBJECTS.len());
        // Few large ones: they are kinds of placement, not load.
        let size = match rng.u32(0..10_000) {
            0..8500 => rng.usize(0..300),
            8500..9700 => rng.usize(300..8 << 10),
            9700..9994 => rng.usize(8 << 10..=40 << 10),
            _ => rng.usize((1 << 20) + 1..3 << 19),
        };
        let short = rng.u8(0..20) == 0 || SUBJECTS[subject] == SHORT_LIVED || (size > 1 << 20 && rng.u8(0..3) == 0);
        let ttl = match rng.u8(0..20) {
            _ if short => Some(Duration::from_millis(rng.u64(100..3000))),
            0 => Some(Duration::from_secs(3600)),
            _ => None,
        };
        Self { id, subject, size, ttl, repeatable: rng.bool(), seed }
    }

    pub(crate) fn subject(&self) -> &'static str {
        SUBJECTS[self.subject]
    }

    pub(crate) fn data(&self) -> Vec<u8> {
        let mut data = vec![0; self.size];
        fastrand::Rng::with_seed(self.seed.wrapping_add(self.id)).fill(&mut data);
        if let Some(start) = data.first_chunk_mut() {
            *start = self.id.to_le_bytes();
        }
        data
    }

    fn headers(&self) -> HashMap<String, String> {
        let mut headers = HashMap::new();
        if self.size < ID_BYTES {
            headers.insert("id".into(), self.id.to_string());
        }
        if self.id.is_multiple_of(7) {
            headers.insert("unit".into(), "Grüße".into());
        }
        headers
    }

    pub(crate) fn message(&self) -> NewMessage {
        let mut message = NewMessage::new(self.subject(), self.data());
        for (name, value) in self.headers() {
            message = message.header(name, value);
        }
        if self.repeatable {
            message = message.message_id(format!("id-{}", self.id));
        }
        match self.ttl {
            Some(ttl) => message.ttl(ttl),
            None => message,
        }
    }

    /// The message that was received, if it is one of ours, whole and unchanged.
    pub(crate) fn read(seed: u64, message: &Message) -> Result<Self, String> {
        let data = message.data.as_ref().ok_or("it came without data")?;
        let id = match data.first_chunk() {
            Some(start) => u64::from_le_bytes(*start),
            None => message.headers.get("id").and_then(|id| id.parse().ok()).ok_or("it has no id")?,
        };
        let spec = Self::of(seed, id);
        let is_same = message.subject == spec.subject()
            && message.size() == spec.size as u64
            && message.headers == spec.headers()
            && *data == spec.data();
        is_same.then_some(spec).ok_or_else(|| format!("its bytes, headers or subject are not those of id {id:#x}"))
    }
}

/// Milliseconds since the Unix epoch, as the broker counts them.
pub(crate) fn millis(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// The present in milliseconds.
pub(crate) fn now() -> u64 {
    millis(SystemTime::now())
}
