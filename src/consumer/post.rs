//! Dead letters as they are stored.

use super::{Letter, Reason, Settings};
use crate::{
    block::letter::{
        self, ATTEMPTS, CONSUMER, DETAIL, ORIGINAL_SEQUENCE, ORIGINAL_SUBJECT, ORIGINAL_TIME, REASON, Reference,
    },
    types::{ConsumerName, Subject, Timestamp},
};

/// A block of one message, to be stored in the transaction that gives the message up.
#[derive(Debug)]
pub struct Posted {
    /// Where it goes.
    pub to: Subject,
    /// When it expires there.
    pub expires: Option<Timestamp>,
    /// The message by reference; `None` if it cannot be read.
    pub reference: Option<Reference>,
    /// What is stored if the message cannot be referred to: what cannot be read is reported, as the letter must be
    /// readable.
    pub report: Reference,
}

impl Letter {
    /// What is stored of it; `None` if the consumer keeps no dead letters.
    pub fn post(&self, consumer: &ConsumerName, settings: &Settings, now: Timestamp) -> Option<Posted> {
        let to = settings.dead_letters.clone()?;
        let block = &self.located.block;
        let mut headers = vec![
            (ORIGINAL_SUBJECT.into(), self.located.subject.to_string()),
            (ORIGINAL_SEQUENCE.into(), self.located.sequence_at(self.at).to_string()),
            (ORIGINAL_TIME.into(), block.created.to_rfc3339()),
            (REASON.into(), self.reason.as_str().into()),
            (ATTEMPTS.into(), self.attempts.to_string()),
            (CONSUMER.into(), consumer.to_string()),
        ];
        if !self.detail.is_empty() {
            headers.push((DETAIL.into(), self.detail.clone()));
        }
        let expires = Some(now.after(settings.dead_letter_ttl));
        let index = u32::try_from(self.at - block.stream_first).unwrap_or(u32::MAX);
        let reference = match self.reason {
            Reason::DataLoss => None,
            Reason::MaxDeliver | Reason::Terminated => letter::refer(block, index, headers.clone(), now, expires),
        };
        headers.retain(|(name, _)| name != REASON);
        headers.push((REASON.into(), Reason::DataLoss.as_str().into()));
        Some(Posted { to, expires, reference, report: letter::empty(headers, now, expires) })
    }
}
