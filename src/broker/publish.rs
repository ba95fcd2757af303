//! Publishing: from requests to drafts in the hands of the publishers, and back to results.

use minitoolstream_proto::PublishRequest;

use super::{Broker, validate};
use crate::{
    actors::publisher::{Results, Submitted},
    admission::{ConnectionAdmission, Permit},
    error::{Error, Result},
    metrics::Service,
    types::{Draft, Published, RequestId, Subject},
};

/// Messages that were validated and handed over, and whose results are to come.
pub(crate) struct InFlight {
    broker: Broker,
    bytes: u64,
    /// Subjects of consecutive drafts, each with how many follow it.
    runs: Vec<(Subject, usize)>,
    refused: Vec<(usize, Error)>,
    submitted: Result<Submitted>,
}

impl Broker {
    /// Validates messages, waits for permits (that for their bytes is there already), and hands the messages over. Calls awaited one after another store in
    /// their order.
    pub(crate) async fn submit(
        &self,
        request: RequestId,
        messages: Vec<PublishRequest>,
        limits: &ConnectionAdmission,
        bytes_permit: Permit,
    ) -> InFlight {
        let now = self.clock.now();
        let mut drafts: Vec<Draft> = Vec::with_capacity(messages.len());
        let mut refused: Vec<(usize, Error)> = Vec::new();
        for (index, message) in messages.into_iter().enumerate() {
            let known = drafts.last().map(|draft| &draft.subject);
            match validate::draft(message, known, &self.config, now) {
                Ok(draft) => drafts.push(draft),
                Err(error) => refused.push((index, error)),
            }
        }
        self.hand_over(request, drafts, refused, limits, bytes_permit).await
    }

    /// Waits for permits and hands drafts over.
    async fn hand_over(
        &self,
        request: RequestId,
        drafts: Vec<Draft>,
        refused: Vec<(usize, Error)>,
        limits: &ConnectionAdmission,
        bytes_permit: Permit,
    ) -> InFlight {
        let bytes = drafts.iter().map(Draft::size).sum();
        let runs = runs(&drafts);
        let permit = match self.draining.is_cancelled() {
            true => Err(Error::draining()),
            false => limits.requests(drafts.len()).await.map(|permit| permit.and(bytes_permit)),
        };
        let submitted = permit.map(|permit| self.publishers.submit(request, drafts, permit));
        InFlight { broker: self.clone(), bytes, runs, refused, submitted }
    }

    /// Stores one message that was validated; a permit for its bytes in memory comes along.
    pub(crate) async fn publish(
        &self,
        request: RequestId,
        draft: Draft,
        limits: &ConnectionAdmission,
        bytes_permit: Permit,
    ) -> Result<Published> {
        let in_flight = self.hand_over(request, vec![draft], Vec::new(), limits, bytes_permit).await;
        in_flight.results().await.pop().unwrap_or_else(|| Err(Error::outcome_unknown()))
    }
}

impl InFlight {
    /// Waits until all messages are durable or refused; one result for each, in order.
    pub(crate) async fn results(self) -> Results {
        let Self { broker, bytes, runs, refused, submitted } = self;
        let mut results = match submitted {
            Ok(submitted) => submitted.results().await,
            Err(error) => vec![Err(error); runs.iter().map(|(_, len)| len).sum()],
        };
        broker.metrics.bytes(Service::Ingress, bytes);
        let mut rest = results.as_slice();
        for (subject, len) in &runs {
            count(&broker, subject, &rest[..*len]);
            rest = &rest[*len..];
        }
        if !refused.is_empty() {
            broker.metrics.refused(Service::Ingress, "invalid", refused.len() as u64);
        }
        // The refused ones are few: each is put back where it stood.
        for (index, error) in refused {
            results.insert(index, Err(error));
        }
        results
    }
}

fn count(broker: &Broker, subject: &Subject, mut results: &[Result<Published>]) {
    while let Some(first) = results.first() {
        let word = outcome(first);
        let len = results.iter().take_while(|result| outcome(result) == word).count();
        broker.metrics.messages(Service::Ingress, subject, word, len as u64);
        results = &results[len..];
    }
}

fn outcome(result: &Result<Published>) -> &'static str {
    match result {
        Ok(Published { duplicate: false, .. }) => "ok",
        Ok(Published { duplicate: true, .. }) => "duplicate",
        Err(error) => error.label(),
    }
}

/// Subjects of consecutive drafts, each with how many follow it.
fn runs(drafts: &[Draft]) -> Vec<(Subject, usize)> {
    let mut runs: Vec<(Subject, usize)> = Vec::new();
    for draft in drafts {
        match runs.last_mut() {
            Some((subject, len)) if *subject == draft.subject => *len += 1,
            _ => runs.push((draft.subject.clone(), 1)),
        }
    }
    runs
}
