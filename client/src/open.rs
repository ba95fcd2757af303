use std::{path::PathBuf, pin::Pin, sync::Arc};

use minitoolstream_proto::{ReadMessageRequest, ReadMessageResponse};
use tonic::{Code, Status, Streaming};

use crate::{Client, Error, Message, Reader, Result, Save, attempts::Attempts, link::Link, upload::ATTEMPTS};

/// Which message to read: one that was received, or a subject and a sequence.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub(crate) subject: String,
    pub(crate) sequence: u64,
    /// What is known of it, and its data if they came along.
    pub(crate) message: Option<Message>,
}

impl From<&Message> for Wanted {
    fn from(message: &Message) -> Self {
        Self { subject: message.subject.clone(), sequence: message.sequence, message: Some(message.clone()) }
    }
}

impl<S: Into<String>> From<(S, u64)> for Wanted {
    fn from((subject, sequence): (S, u64)) -> Self {
        Self { subject: subject.into(), sequence, message: None }
    }
}

/// A message to be read: await it for a [`Reader`]. Made by [`Client::open`] and
/// [`Delivery::reader`](crate::Delivery::reader).
#[derive(Clone, Debug)]
#[must_use = "nothing is read before it is awaited"]
pub struct Open {
    pub(crate) client: Client,
    pub(crate) wanted: Wanted,
    /// It is read as long as this lease is held.
    pub(crate) lease: Option<(Arc<Link>, u64)>,
    pub(crate) offset: u64,
    pub(crate) length: Option<u64>,
    pub(crate) attempts: Attempts,
}

/// A stream of the data, and the response that came first.
pub(crate) type Opened = (Streaming<ReadMessageResponse>, ReadMessageResponse);

impl Client {
    /// A message to be read, of any size: `client.open(&message)` or `client.open(("photos", 7))`. Data that came with
    /// the message is read from memory.
    pub fn open(&self, wanted: impl Into<Wanted>) -> Open {
        Open::new(self.clone(), wanted.into(), None)
    }

    /// Saves the data of a message as a file, which is whole or not there: see [`Save`].
    pub fn save(&self, wanted: impl Into<Wanted>, path: impl Into<PathBuf>) -> Save {
        self.open(wanted).save(path)
    }
}

impl Open {
    pub(crate) fn new(client: Client, wanted: Wanted, lease: Option<(Arc<Link>, u64)>) -> Self {
        let attempts = Attempts::new(client.connect.backoff, ATTEMPTS);
        Self { client, wanted, lease, offset: 0, length: None, attempts }
    }

    /// Reads a range only: `length` bytes from `offset` on, or all to the end. A range that reaches beyond the end stops
    /// there; an offset beyond the end is [`Error::Invalid`].
    pub fn range(mut self, offset: u64, length: impl Into<Option<u64>>) -> Self {
        (self.offset, self.length) = (offset, length.into());
        self
    }

    /// Attempts in a row that bring nothing new before a read gives up, with the client's back-off between them; 20 by
    /// default. Each byte that comes begins the count anew.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = Attempts::new(self.client.connect.backoff, attempts.max(1));
        self
    }

    /// Saves the data as a file, which is whole or not there: see [`Save`].
    pub fn save(self, path: impl Into<PathBuf>) -> Save {
        Save::new(self, path.into())
    }

    /// Opens the data from `offset` on, trying again while the broker cannot be reached.
    pub(crate) async fn stream(&self, offset: u64, attempts: &mut Attempts) -> Result<Opened> {
        loop {
            let error = match self.try_stream(offset).await {
                Ok(opened) => return Ok(opened),
                Err(error) => attempts.failed(error)?,
            };
            attempts.wait(&error).await;
        }
    }

    pub(crate) async fn try_stream(&self, offset: u64) -> Result<Opened> {
        if let Some(lost) = self.lost() {
            return Err(lost);
        }
        let length = self.length.map(|length| (self.offset.saturating_add(length)).saturating_sub(offset));
        let request = match &self.lease {
            Some((link, lease_id)) if !link.is_draining() => {
                ReadMessageRequest { lease_id: *lease_id, offset, length, ..Default::default() }
            }
            _ => {
                let (subject, sequence) = (self.wanted.subject.clone(), self.wanted.sequence);
                ReadMessageRequest { subject, sequence, offset, length, lease_id: 0 }
            }
        };
        let opened = async {
            let mut stream = self.client.egress().read_message(request).await?.into_inner();
            let first = stream.message().await?;
            Ok((stream, first))
        };
        let (stream, first) = opened.await.map_err(|status| self.error(&status))?;
        first.map(|first| (stream, first)).ok_or_else(|| Error::unavailable("the broker ended a read before it began"))
    }

    /// Why the lease that it is read by is over, if that is known.
    pub(crate) fn lost(&self) -> Option<Error> {
        let (link, id) = self.lease.as_ref()?;
        link.with(|leases| leases.refusal(*id))
    }

    pub(crate) fn error(&self, status: &Status) -> Error {
        match self.lease {
            Some(_) if status.code() == Code::FailedPrecondition => {
                Error::of_lease(status.code().into(), status.message().into())
            }
            _ => status.clone().into(),
        }
    }
}

impl IntoFuture for Open {
    type Output = Result<Reader>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Reader>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(Reader::open(self))
    }
}
