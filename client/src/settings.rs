use std::time::{Duration, SystemTime};

use minitoolstream_proto as proto;

/// Where a consumer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With all messages there are.
    All,
    /// With what is published from now on.
    New,
    /// With this sequence of the subject; for filters without wildcards.
    Sequence(u64),
    /// With this place in the order of all messages of the broker: see
    /// [`Message::stream_sequence`](crate::Message::stream_sequence).
    StreamSequence(u64),
    /// With what was published at or after this time.
    Time(SystemTime),
}

impl From<Start> for proto::Start {
    fn from(start: Start) -> Self {
        use proto::start::From;
        let from = match start {
            Start::All => From::All(()),
            Start::New => From::New(()),
            Start::Sequence(sequence) => From::Sequence(sequence),
            Start::StreamSequence(sequence) => From::StreamSequence(sequence),
            Start::Time(time) => From::Time(time.into()),
        };
        Self { from: Some(from) }
    }
}

/// The settings of a durable consumer, which the broker keeps. What is not set is the broker's default or, in an
/// update, stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConsumerSettings {
    pub(crate) settings: proto::ConsumerSettings,
}

impl ConsumerSettings {
    /// Of a consumer of the subjects that match a filter: `*` stands for one token, `>` for the rest.
    pub fn of(filter: impl Into<String>) -> Self {
        Self { settings: proto::ConsumerSettings { filter: filter.into(), ..Default::default() } }
    }

    /// Nothing is set: to be filled with what an update changes.
    pub fn unchanged() -> Self {
        Self::default()
    }

    /// Where it begins; with all messages by default. Cannot be updated.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.settings.start = Some(start.into());
        self
    }

    /// How long a delivered message may stay without an answer before it is delivered again; 30 s by default. The client
    /// extends it by itself while a message is held.
    #[must_use]
    pub fn ack_wait(mut self, wait: Duration) -> Self {
        self.settings.ack_wait = wire(wait);
        self
    }

    /// After this many attempts a message is dead-lettered; 10 by default, 0: never.
    #[must_use]
    pub fn max_deliver(mut self, attempts: u32) -> Self {
        self.settings.max_deliver = Some(attempts);
        self
    }

    /// Most messages delivered and not settled, over all workers; 10,000 by default.
    #[must_use]
    pub fn max_ack_pending(mut self, messages: u32) -> Self {
        self.settings.max_ack_pending = Some(messages);
        self
    }

    /// Delays before the second, third, ... delivery of a message that was refused without a delay; the last one repeats.
    /// 1 s, 5 s, 30 s, 2 min by default. Each is shortened by up to half, at random.
    #[must_use]
    pub fn back_off(mut self, delays: impl IntoIterator<Item = Duration>) -> Self {
        let delays = delays.into_iter().filter_map(wire).collect();
        self.settings.back_off = Some(proto::BackOff { delays });
        self
    }

    /// Where dead letters go; `$dlq.<name>` by default.
    #[must_use]
    pub fn dead_letter_subject(mut self, subject: impl Into<String>) -> Self {
        self.settings.dead_letter_subject = Some(subject.into());
        self
    }

    /// How long dead letters live; the broker's `consumers.dead_letter_ttl` by default.
    #[must_use]
    pub fn dead_letter_ttl(mut self, ttl: Duration) -> Self {
        self.settings.dead_letter_ttl = wire(ttl);
        self
    }
}

/// The longest time that the wire has stands for those beyond.
pub(crate) fn wire(duration: Duration) -> Option<prost_types::Duration> {
    duration.min(Duration::from_secs(315_576_000_000)).try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_is_left_to_the_broker() {
        let settings = ConsumerSettings::of("a.>").ack_wait(Duration::MAX).back_off([Duration::from_millis(1500)]);
        let expected = proto::ConsumerSettings {
            filter: "a.>".into(),
            ack_wait: Some(prost_types::Duration { seconds: 315_576_000_000, nanos: 0 }),
            back_off: Some(proto::BackOff { delays: vec![prost_types::Duration { seconds: 1, nanos: 500_000_000 }] }),
            ..Default::default()
        };
        assert_eq!(settings.settings, expected);
        assert_eq!(ConsumerSettings::unchanged().settings, proto::ConsumerSettings::default());
    }
}
