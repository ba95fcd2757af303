use std::{path::Path, time::SystemTime};

use bytes::Bytes;
use minitoolstream_proto::{
    AbortUploadRequest, GetUploadRequest, GetUploadResponse, UploadHeader, UploadResponse,
    ingress_service_client::IngressServiceClient,
};
use tokio::io::AsyncRead;

use crate::{
    Client, Error, NewMessage, Progress, Result, channels::Channels, progress::Observer, source::Source,
    uploading::Uploading,
};

/// Attempts in a row that bring nothing new, before a transfer gives up: about half a minute with the default back-off.
pub(crate) const ATTEMPTS: u32 = 20;

/// A message of any size to be published, whose data is sent in pieces. Made by [`Client::upload`].
///
/// The data comes from a file, a reader or memory. What the broker has on stable storage is not sent again: when the
/// connection breaks or the broker restarts, the upload goes on by itself, and one with an [`id`](Self::id) that was
/// chosen goes on in another process, too, with the same message.
///
/// Dropping the future of an upload interrupts it. The broker keeps what it has for its `uploads.retention`.
#[derive(Debug)]
#[must_use = "an upload begins with one of its 'from' methods"]
pub struct Upload {
    client: Client,
    message: NewMessage,
    id: String,
    /// The id is the caller's: the broker may have a part of it.
    is_named: bool,
    size: Option<u64>,
    sha256: Option<[u8; 32]>,
    attempts: u32,
    observer: Observer,
}

/// A message that was uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// Its sequence in the subject; 0 if it waits for its time.
    pub sequence: u64,
    /// True if its message id or its upload was published before: this is the sequence of the first.
    pub duplicate: bool,
    /// True if it waits for the time it is to be delivered at.
    pub scheduled: bool,
    /// Bytes of its data, as the broker counted them.
    pub size: u64,
    /// SHA-256 of its data, as the broker computed it; `None` if it does not know that of an earlier one.
    pub sha256: Option<[u8; 32]>,
}

/// What a broker knows of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadState {
    /// Bytes on stable storage: it goes on here.
    pub offset: u64,
    /// The message that it became, if it did.
    pub published: Option<Uploaded>,
    /// When it is given up unless it goes on, or forgotten if it is published.
    pub deadline: Option<SystemTime>,
}

impl Client {
    /// Publishes a message whose data is sent in pieces, whatever its size: subject, headers, ttl, message id and the like
    /// are those of `message`, which must be without data.
    pub fn upload(&self, message: NewMessage) -> Upload {
        let id = format!("{:032x}", fastrand::u128(..));
        Upload {
            client: self.clone(),
            message,
            id,
            is_named: false,
            size: None,
            sha256: None,
            attempts: ATTEMPTS,
            observer: Observer::nobody(),
        }
    }

    /// Where an upload can be continued, or what became of it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if nothing of it is stored (any more), [`Error::Invalid`] if the id is none.
    pub async fn get_upload(&self, id: &str) -> Result<UploadState> {
        let response = self.repeat(|| {
            let (mut ingress, request) = (self.ingress(), GetUploadRequest { upload_id: id.into() });
            async move { ingress.get_upload(request).await }
        });
        Ok(response.await?.into())
    }

    /// Gives up an upload that is not published: what is stored of it is removed.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such upload, [`Error::Invalid`] if it is published or the id is none.
    pub async fn abort_upload(&self, id: &str) -> Result<()> {
        let response = self.repeat(|| {
            let (mut ingress, request) = (self.ingress(), AbortUploadRequest { upload_id: id.into() });
            async move { ingress.abort_upload(request).await }
        });
        response.await.map(|_| ())
    }

    pub(crate) fn ingress(&self) -> IngressServiceClient<Channels> {
        IngressServiceClient::new(self.channels.clone())
    }
}

impl Upload {
    /// Names the upload, by at most 128 bytes; a random 128-bit number by default. An upload of this name that was
    /// interrupted goes on, and one that was published is not published again.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self.is_named = true;
        self
    }

    /// The bytes of a reader, if they are known: then the broker refuses at once what it has no room for, and a reader
    /// that ends elsewhere is an error. Files and memory know their own.
    pub fn size(mut self, bytes: u64) -> Self {
        self.size = Some(bytes);
        self
    }

    /// The SHA-256 that the data must have: otherwise nothing is published.
    pub fn sha256(mut self, digest: [u8; 32]) -> Self {
        self.sha256 = Some(digest);
        self
    }

    /// Attempts in a row that bring nothing new before the upload gives up, with the client's back-off between them; 20
    /// by default. Each byte that becomes durable begins the count anew.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Calls `tell` for each frame that is sent, and when it is known how much is durable. It must not block.
    pub fn on_progress(mut self, tell: impl FnMut(Progress) + Send + 'static) -> Self {
        self.observer = Observer::new(tell);
        self
    }

    /// The name that it can be continued by.
    pub fn upload_id(&self) -> &str {
        &self.id
    }

    /// Uploads a file, of the size that it has now.
    ///
    /// # Errors
    /// [`Error::DataLoss`] if the data does not have the [`sha256`](Self::sha256), [`Error::Conflict`] if the subject moved
    /// on from the expected last sequence, [`Error::Invalid`] if the file changes meanwhile or the broker refuses the
    /// message, [`Error::Other`] if the file cannot be read, [`Error::Exhausted`] and [`Error::Unavailable`] after many
    /// attempts.
    pub async fn from_file(self, path: impl AsRef<Path>) -> Result<Uploaded> {
        let source = Source::of_file(path.as_ref().to_owned()).await?;
        self.run(source).await
    }

    /// Uploads what a reader gives until its end, as from a pipe. What was read cannot be read again: when the connection
    /// breaks, the upload goes on only if nothing of it was lost. Of an earlier upload of the same id nothing may be left:
    /// [`Client::abort_upload`] removes it.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file), and [`Error::Other`] if it cannot go on after an interruption.
    pub async fn from_reader(self, reader: impl AsyncRead + Send + 'static) -> Result<Uploaded> {
        let source = Source::of_reader(reader, self.size);
        self.run(source).await
    }

    /// Uploads data in memory.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file).
    pub async fn from_bytes(self, data: impl Into<Bytes>) -> Result<Uploaded> {
        let source = Source::of_bytes(data.into());
        self.run(source).await
    }

    async fn run(self, source: Source) -> Result<Uploaded> {
        let Self { client, message, id, is_named, size, sha256, attempts, observer } = self;
        if !message.request.data.is_empty() {
            return Err(Error::Invalid(format!(
                "the message of an upload has {} bytes of data of its own: make it with empty data, and give the data to \
                 the upload",
                message.request.data.len()
            )));
        }
        if let (Some(said), Some(has)) = (size, source.size())
            && said != has
        {
            return Err(Error::Invalid(format!("the upload was said to have {said} bytes, and its source has {has}")));
        }
        let header = UploadHeader {
            upload_id: id,
            message: Some(message.request),
            offset: 0,
            size: source.size(),
            sha256: sha256.map(|digest| Bytes::copy_from_slice(&digest)).unwrap_or_default(),
        };
        Uploading::new(client, header, source, attempts, observer).run(is_named).await
    }
}

impl From<UploadResponse> for Uploaded {
    fn from(response: UploadResponse) -> Self {
        let UploadResponse { sequence, size, sha256, duplicate, scheduled } = response;
        Self { sequence, duplicate, scheduled, size, sha256: sha256.as_ref().try_into().ok() }
    }
}

impl From<GetUploadResponse> for UploadState {
    fn from(response: GetUploadResponse) -> Self {
        let GetUploadResponse { offset, published, deadline } = response;
        let deadline = deadline.and_then(|deadline| deadline.try_into().ok());
        Self { offset, published: published.map(Into::into), deadline }
    }
}
