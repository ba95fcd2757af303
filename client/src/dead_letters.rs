use minitoolstream_proto::RedriveRequest;

use crate::{Client, Consumer, Error, Result};

/// Most dead letters that one request names.
const REDRIVEN_MAX: usize = 10_000;

/// What a redrive did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redriven {
    /// How many letters were published again.
    pub count: u64,
    /// Sequences that were asked for and hold no dead letter.
    pub not_found: Vec<u64>,
}

impl Client {
    /// Publishes dead letters of a subject to where they came from, or to another subject, and removes them. Those of
    /// the given sequences, or all if there are none.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad subject. Repeating the call after another error is safe: each letter moves once.
    pub async fn redrive(&self, subject: &str, sequences: &[u64], to: Option<&str>) -> Result<Redriven> {
        let mut redriven = Redriven::default();
        let all: &[u64] = &[];
        let parts = sequences.chunks(REDRIVEN_MAX).chain(sequences.is_empty().then_some(all));
        for part in parts {
            let request = RedriveRequest {
                subject: subject.into(),
                sequences: part.into(),
                to_subject: to.unwrap_or_default().into(),
            };
            let response = self.repeat(|| {
                let (mut service, request) = (self.consumer_service(), request.clone());
                async move { service.redrive(request).await }
            });
            let response = response.await?;
            redriven.count += response.redriven;
            redriven.not_found.extend(response.not_found);
        }
        Ok(redriven)
    }
}

impl Consumer {
    /// The subject that its dead letters go to.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no consumer of this name.
    pub async fn dead_letter_subject(&self) -> Result<String> {
        let settings = self.info().await?.settings.unwrap_or_default();
        settings
            .dead_letter_subject
            .filter(|subject| !subject.is_empty())
            .ok_or_else(|| Error::NotFound(format!("consumer '{}' has no subject for dead letters", self.opening.name)))
    }

    /// Publishes its dead letters again: those of the given sequences of its dead-letter subject, or all if there are
    /// none, to where they came from or to another subject.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no consumer of this name; those of [`Client::redrive`].
    pub async fn redrive(&self, sequences: &[u64], to: Option<&str>) -> Result<Redriven> {
        let subject = self.dead_letter_subject().await?;
        self.client.redrive(&subject, sequences, to).await
    }
}
