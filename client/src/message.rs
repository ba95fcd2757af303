use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use minitoolstream_proto as proto;

/// A message to be published.
#[derive(Clone, Debug, Default)]
pub struct NewMessage {
    pub(crate) request: proto::PublishRequest,
}

impl NewMessage {
    /// A message of a subject; the data may be empty.
    pub fn new(subject: impl Into<String>, data: impl Into<Bytes>) -> Self {
        Self { request: proto::PublishRequest { subject: subject.into(), data: data.into(), ..Default::default() } }
    }

    /// Sets the data.
    #[must_use]
    pub fn data(mut self, data: impl Into<Bytes>) -> Self {
        self.request.data = data.into();
        self
    }

    /// Adds a header. Names that begin with `Mts-` belong to the broker.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.request.headers.insert(name.into(), value.into());
        self
    }

    /// Sets the id under which the broker recognises a repetition. With it, the publisher repeats the message by itself
    /// when a connection breaks.
    #[must_use]
    pub fn message_id(mut self, id: impl Into<String>) -> Self {
        self.request.message_id = id.into();
        self
    }

    /// Sets how long the message lives; without it the broker's rule for the subject counts.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.request.ttl = ttl.try_into().ok();
        self
    }

    /// Stores the message only if this is the subject's last sequence at that moment.
    #[must_use]
    pub fn expect_last_sequence(mut self, sequence: u64) -> Self {
        self.request.expected_last_sequence = Some(sequence);
        self
    }

    /// Delivers the message at this time, not before: until then it has no sequence and nobody sees it. A time that has
    /// passed is now. The time to live counts from then on. Not with [`expect_last_sequence`](Self::expect_last_sequence).
    #[must_use]
    pub fn deliver_at(mut self, at: SystemTime) -> Self {
        self.request.deliver_at = Some(at.into());
        self
    }

    pub(crate) fn is_repeatable(&self) -> bool {
        !self.request.message_id.is_empty()
    }

    /// About how many bytes it takes in a frame.
    pub(crate) fn size(&self) -> usize {
        let headers: usize = self.request.headers.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
        self.request.data.len() + self.request.subject.len() + self.request.message_id.len() + headers + 32
    }
}

/// A stored message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its sequence in the subject; 0 if it waits for its time.
    pub sequence: u64,
    /// True if the message id was known: this is the sequence of the first.
    pub duplicate: bool,
    /// True if it waits for the time it is to be delivered at.
    pub scheduled: bool,
}

/// A message as received.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Its subject.
    pub subject: String,
    /// Its sequence in the subject.
    pub sequence: u64,
    /// Its data; `None` if it is larger than the limit of the fetch: read it with
    /// [`Client::open`](crate::Client::open), or save it with [`Client::save`](crate::Client::save).
    pub data: Option<Bytes>,
    /// Its headers.
    pub headers: HashMap<String, String>,
    /// When the broker accepted it.
    pub timestamp: SystemTime,
    /// Its place in the order of all messages of the broker: grows with the sequence, with gaps.
    pub stream_sequence: u64,
    size: u64,
    sha256: Option<[u8; 32]>,
}

impl Message {
    /// SHA-256 of its data, if they did not come along; `None` also for messages small enough to be stored without it.
    pub fn sha256(&self) -> Option<[u8; 32]> {
        self.sha256
    }

    /// Bytes of its data, whether they are here or not.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl From<proto::Message> for Message {
    fn from(message: proto::Message) -> Self {
        let size = message.detached.as_ref().map_or(message.data.len() as u64, |detached| detached.size);
        let sha256 = message.detached.as_ref().and_then(|detached| detached.sha256.as_ref().try_into().ok());
        let timestamp = message.timestamp.and_then(|timestamp| timestamp.try_into().ok());
        Self {
            subject: message.subject,
            sequence: message.sequence,
            data: message.detached.is_none().then_some(message.data),
            headers: message.headers,
            timestamp: timestamp.unwrap_or(SystemTime::UNIX_EPOCH),
            stream_sequence: message.stream_sequence,
            size,
            sha256,
        }
    }
}

/// What to fetch. A subject may hold wildcards (`*` one token, `>` the rest), except with
/// [`from_sequence`](Self::from_sequence): messages of all that match then come in the order of
/// [`Message::stream_sequence`].
#[derive(Clone, Debug, Default)]
pub struct Fetch {
    pub(crate) request: proto::FetchRequest,
}

impl Fetch {
    /// Messages after the acked position of a durable consumer.
    pub fn durable(subject: impl Into<String>, durable: impl Into<String>) -> Self {
        let (subject, durable_name) = (subject.into(), durable.into());
        Self { request: proto::FetchRequest { subject, durable_name, ..Default::default() } }
    }

    /// Messages from a sequence on (1 is the first).
    pub fn from_sequence(subject: impl Into<String>, sequence: u64) -> Self {
        let (subject, start_sequence) = (subject.into(), Some(sequence));
        Self { request: proto::FetchRequest { subject, start_sequence, ..Default::default() } }
    }

    /// Messages from a place in the order of all messages of the broker on; 1 is before all.
    pub fn from_stream_sequence(subject: impl Into<String>, sequence: u64) -> Self {
        let (subject, start_stream_sequence) = (subject.into(), Some(sequence));
        Self { request: proto::FetchRequest { subject, start_stream_sequence, ..Default::default() } }
    }

    /// Messages that were published at or after a time.
    pub fn from_time(subject: impl Into<String>, time: SystemTime) -> Self {
        let (subject, start_time) = (subject.into(), Some(time.into()));
        Self { request: proto::FetchRequest { subject, start_time, ..Default::default() } }
    }

    /// At most this many messages; without it 10, and any number when following.
    #[must_use]
    pub fn limit(mut self, messages: u32) -> Self {
        self.request.batch_size = i32::try_from(messages).unwrap_or(i32::MAX);
        self
    }

    /// Keeps the stream open and goes on with new messages as they are committed.
    #[must_use]
    pub fn follow(mut self) -> Self {
        self.request.follow = true;
        self
    }

    /// The largest data to receive in one message; larger ones arrive without.
    #[must_use]
    pub fn max_message_bytes(mut self, bytes: u32) -> Self {
        self.request.max_message_bytes = bytes;
        self
    }
}

/// Makes a request one that goes on after this message, which it gave. Of a limit, what is left may be 0, which asks for any
/// number: it is not to be sent then.
pub(crate) fn go_on_after(request: &mut proto::FetchRequest, last: &Message) {
    request.start_time = None;
    if has_wildcards(&request.subject) {
        request.start_stream_sequence = Some(last.stream_sequence + 1);
    } else {
        request.start_stream_sequence = None;
        request.start_sequence = Some(last.sequence + 1);
    }
    request.batch_size = request.batch_size.saturating_sub(1).max(0);
}

/// True if more than one subject may match.
pub(crate) fn has_wildcards(subject: &str) -> bool {
    subject.split('.').any(|token| matches!(token, "*" | ">"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_goes_on_after_the_last_message() {
        let last: Message = proto::Message { sequence: 3, stream_sequence: 40, ..Default::default() }.into();
        let after = |fetch: Fetch| {
            let mut request = fetch.request;
            go_on_after(&mut request, &last);
            request
        };
        let next = after(Fetch::from_time("a.b", SystemTime::now()));
        assert_eq!((next.start_sequence, next.start_stream_sequence, next.start_time), (Some(4), None, None));
        for pattern in ["a.*", ">"] {
            let next = after(Fetch::from_stream_sequence(pattern, 1));
            assert_eq!((next.start_sequence, next.start_stream_sequence), (None, Some(41)));
        }
        let next = after(Fetch::durable("a.*", "d").limit(10));
        assert_eq!((next.batch_size, next.durable_name.as_str()), (9, "d"));
        assert_eq!(after(Fetch::durable("a.*", "d")).batch_size, 0, "no limit stays none");
    }
}
