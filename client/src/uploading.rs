//! One upload on its way.
//!
//! ```text
//!           ┌──────── GetUpload: how far is it? ◀──── the stream broke, wait ◀─┐
//!           ▼                     │                                            │
//! seek ─▶ header, frames, commit ─┼────────────────────────────────────────────┘
//!                                 └─▶ published
//! ```
//! At most a few frames are in memory. A commit whose answer was lost is found out by asking: an upload that became a
//! message says so.

use std::time::Duration;

use bytes::Bytes;
use minitoolstream_proto::{
    GetUploadRequest, UploadCommit, UploadHeader, UploadRequest, UploadResponse, upload_request::Frame,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::{
    Client, Error, Progress, Result, attempts::Attempts, progress::Observer, source::Source, upload::Uploaded,
};

/// Frames that wait for the transport.
const FRAMES_WAITING: usize = 2;

/// How long the broker may take to make a message of what it has.
const COMMIT_MAX: Duration = Duration::from_mins(5);

pub(crate) struct Uploading {
    client: Client,
    header: UploadHeader,
    source: Source,
    attempts: Attempts,
    observer: Observer,
    /// Bytes that the broker said to have on stable storage.
    durable: u64,
    /// The most that they were: less is no progress.
    furthest: u64,
    /// It was found to be something else, and looked at once more, since it made progress.
    has_looked_again: bool,
}

/// Why an attempt ended without a message.
enum Stop {
    /// The data cannot be read.
    Source(Error),
    /// The broker refused, or the connection broke.
    Status(Box<Status>),
}

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl Uploading {
    pub(crate) fn new(client: Client, header: UploadHeader, source: Source, attempts: u32, observer: Observer) -> Self {
        let attempts = Attempts::new(client.connect.backoff, attempts);
        Self { client, header, source, attempts, observer, durable: 0, furthest: 0, has_looked_again: false }
    }

    /// Uploads until it is published; what is durable of it is asked for first if `is_known`.
    pub(crate) async fn run(mut self, is_known: bool) -> Result<Uploaded> {
        let mut asks = is_known && self.source.can_seek();
        let mut why = None;
        loop {
            let status = match self.attempt(asks).await {
                Ok(response) => {
                    self.durable = response.size;
                    self.tell(response.size);
                    return Ok(response.into());
                }
                Err(Stop::Source(error)) => {
                    return Err(match why {
                        Some(why) => Error::Other(format!("{error}; it had ended because of this: {why}")),
                        None => error,
                    });
                }
                Err(Stop::Status(status)) => *status,
            };
            asks = true;
            // It is not what it was: it expired, was aborted or taken over, or what the stream before had sent was still
            // being written. What it is now decides.
            let is_other = matches!(status.code(), Code::FailedPrecondition | Code::NotFound);
            if is_other && self.source.can_seek() && !std::mem::replace(&mut self.has_looked_again, true) {
                continue;
            }
            let error = self.attempts.failed(status.into())?;
            self.attempts.wait(&error).await;
            why = Some(error);
        }
    }

    async fn attempt(&mut self, asks: bool) -> Result<UploadResponse, Stop> {
        let mut offset = 0;
        if asks {
            let request = GetUploadRequest { upload_id: self.header.upload_id.clone() };
            match self.client.ingress().get_upload(request).await.map(tonic::Response::into_inner) {
                Ok(upload) => {
                    if let Some(published) = upload.published {
                        return Ok(published);
                    }
                    offset = upload.offset;
                }
                Err(status) if status.code() == Code::NotFound => {}
                Err(status) => return Err(status.into()),
            }
            if offset > self.furthest {
                self.furthest = offset;
                self.attempts.progressed();
                self.has_looked_again = false;
            }
        }
        self.durable = offset;
        self.source.seek(offset).await.map_err(Stop::Source)?;
        self.header.offset = offset;
        self.tell(offset);
        self.send().await
    }

    async fn send(&mut self) -> Result<UploadResponse, Stop> {
        let (frames, outgoing) = mpsc::channel(FRAMES_WAITING);
        let mut ingress = self.client.ingress();
        let call = ingress.upload(ReceiverStream::new(outgoing));
        tokio::pin!(call);
        tokio::select! {
            answer = &mut call => return Ok(answer?.into_inner()),
            fed = self.feed(frames) => fed.map_err(Stop::Source)?,
        }
        match timeout(COMMIT_MAX, call).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(Status::unavailable("the broker did not confirm the upload in time").into()),
        }
    }

    /// Gives all frames to the transport. One that takes no more has an answer, or lost its connection.
    async fn feed(&mut self, frames: mpsc::Sender<UploadRequest>) -> Result<()> {
        let mut next = Frame::Header(self.header.clone());
        while frames.send(UploadRequest { frame: Some(next) }).await.is_ok() {
            self.tell(self.source.position());
            match self.source.next().await? {
                Some(data) => next = Frame::Data(data),
                None => {
                    let commit = UploadCommit { size: Some(self.source.position()), sha256: Bytes::new() };
                    let _ = frames.send(UploadRequest { frame: Some(Frame::Commit(commit)) }).await;
                    break;
                }
            }
        }
        Ok(())
    }

    fn tell(&mut self, transferred: u64) {
        let (durable, total) = (self.durable, self.source.size());
        self.observer.tell(Progress { durable, transferred, total });
    }
}
