//! Short words for what tests commit.

use bytes::Bytes;
use minitoolstream::{
    store::Ack,
    types::{Draft, DurableName, MessageId, Subject, SubjectFilter, Timestamp},
};

/// Where a block's body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    Inline,
    Slice,
    Object,
}

/// Messages of one subject that become one block.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    pub(crate) home: Home,
    pub(crate) drafts: Vec<Draft>,
}

pub(crate) fn inline<const N: usize>(drafts: [Draft; N]) -> Parcel {
    Parcel { home: Home::Inline, drafts: drafts.into() }
}

pub(crate) fn slice<const N: usize>(drafts: [Draft; N]) -> Parcel {
    Parcel { home: Home::Slice, drafts: drafts.into() }
}

pub(crate) fn object(draft: Draft) -> Parcel {
    Parcel { home: Home::Object, drafts: vec![draft] }
}

/// `count` messages in one inline block.
pub(crate) fn many(name: &str, count: usize) -> Parcel {
    Parcel { home: Home::Inline, drafts: vec![draft(name, "x"); count] }
}

pub(crate) fn subject(name: &str) -> Subject {
    Subject::parse("subject", name).unwrap()
}

pub(crate) fn durable(name: &str) -> DurableName {
    DurableName::parse("durable_name", name).unwrap()
}

pub(crate) fn filter(pattern: &str) -> SubjectFilter {
    SubjectFilter::parse("filter", pattern).unwrap()
}

/// A message that lives for ever; the rig stamps it when it is committed.
pub(crate) fn draft(name: &str, data: &str) -> Draft {
    Draft {
        subject: subject(name),
        data: Bytes::copy_from_slice(data.as_bytes()),
        headers: vec![("kind".into(), data.into())],
        created: Timestamp::default(),
        expires: None,
        message_id: None,
        expected_last: None,
        deliver_at: None,
        upload: None,
        uploaded: None,
    }
}

/// Adds to a draft what it needs.
pub(crate) trait With {
    fn id(self, id: &str) -> Self;
    fn expected(self, last: u64) -> Self;
    fn expires(self, at: u64) -> Self;
    fn due(self, at: u64) -> Self;
}

impl With for Draft {
    fn id(self, id: &str) -> Self {
        Self { message_id: Some(MessageId::parse("message_id", id).unwrap()), ..self }
    }

    fn expected(self, last: u64) -> Self {
        Self { expected_last: Some(last), ..self }
    }

    fn expires(self, at: u64) -> Self {
        Self { expires: Some(Timestamp(at)), ..self }
    }

    fn due(self, at: u64) -> Self {
        Self { deliver_at: Some(Timestamp(at)), ..self }
    }
}

pub(crate) fn ack(of: &str, on: &str, sequence: u64) -> Ack {
    Ack { durable: durable(of), subject: subject(on), sequence }
}
