use std::time::Duration;

use bytes::{Bytes, BytesMut};
use minitoolstream_proto::PublishRequest;

use super::{
    Expected, Opening, Uploaded, stored_header,
    uploaders::{Turn, overtaken},
    writing::Writing,
};
use crate::{
    admission::{ConnectionAdmission, Permit},
    block::{OBJECT_MIN, object::Tally},
    broker::{Broker, validate},
    error::{Error, Result},
    store::{NewUpload, Upload, UploadState},
    types::{Draft, RequestId, UploadId},
};

/// Bytes gathered for one write.
pub(super) const WRITE: usize = 1 << 20;

/// Pieces below this size are joined.
const SMALL: usize = 4 << 10;

/// How long a write under way may take to end when its uploader is gone.
const STOP_MAX: Duration = Duration::from_secs(5);

/// One uploader at work.
pub(crate) struct Session {
    broker: Broker,
    id: UploadId,
    message: PublishRequest,
    draft: Draft,
    expected: Expected,
    /// Bytes that were not handed on yet, and the last of them.
    gathered: Vec<Bytes>,
    small: BytesMut,
    gathered_len: usize,
    permit: Permit,
    /// To write to an object.
    slot: Option<Permit>,
    /// Of the row; `None` while all data is in memory.
    epoch: Option<u64>,
    /// `None` while all data is in memory.
    writing: Option<Writing>,
    turn: Turn,
}

/// How an upload begins.
pub(crate) enum Begun {
    /// Data is awaited.
    Open(Box<Session>),
    /// It was published before.
    Done(Uploaded),
}

impl Session {
    /// Begins an upload, or continues one. What can be refused before the data comes is refused here.
    ///
    /// # Errors
    /// [`Error::Precondition`] if it cannot be continued at the offset, [`Error::Conflict`] if the expected last sequence is
    /// another already, [`Error::NotFound`] if there is nothing to continue.
    pub(crate) async fn begin(broker: &Broker, opening: Opening) -> Result<Begun> {
        let Opening { id, message, offset, expected } = opening;
        if broker.draining.is_cancelled() {
            return Err(Error::draining());
        }
        let turn = broker.uploads.enter(&id).await?;
        let draft = validate::draft(message.clone(), None, &broker.config, broker.clock.now())?;
        let found = broker.stores.metadata.upload(&id).await?;
        let session = Self {
            broker: broker.clone(),
            id,
            message,
            draft,
            expected,
            gathered: Vec::new(),
            small: BytesMut::new(),
            gathered_len: 0,
            permit: Permit::default(),
            slot: None,
            epoch: None,
            writing: None,
            turn,
        };
        match found.map(|upload| upload.state) {
            Some(UploadState::Done { subject, sequence, .. }) if subject != session.draft.subject => {
                Err(Error::Precondition(format!(
                    "upload '{}' is published already, as {sequence} of '{subject}': give this one another id",
                    session.id
                )))
            }
            Some(UploadState::Done { sequence, size, sha256, .. }) => {
                Ok(Begun::Done(Uploaded { sequence, size, sha256, duplicate: true }))
            }
            // Another object: whoever wrote to this one may still do so.
            Some(UploadState::Open { .. }) if offset == 0 => {
                let late = broker.stores.payload.late_writes();
                broker.stores.metadata.abandon_upload(&session.id, None, broker.clock.now().after(late)).await?;
                session.begin_anew().await
            }
            Some(UploadState::Open { saved, .. }) => session.go_on(offset, saved.offset).await,
            None if offset > 0 => Err(Error::NotFound(format!(
                "nothing of upload '{}' is stored: begin it anew, at offset 0",
                session.id
            ))),
            None => session.begin_anew().await,
        }
    }

    async fn begin_anew(mut self) -> Result<Begun> {
        if let Some(expected) = self.draft.expected_last {
            let last = self.broker.stores.metadata.subject(&self.draft.subject).await?.map_or(0, |row| row.last);
            if last != expected {
                return Err(Error::Conflict(format!(
                    "the last sequence of '{}' is {last}, not {expected}: read what came meanwhile and decide again",
                    self.draft.subject
                )));
            }
        }
        if let Some(size) = self.expected.size {
            self.broker.stores.payload.room(size).await?;
            if size > OBJECT_MIN as u64 {
                self.write_to_object(0).await?;
            }
        }
        Ok(Begun::Open(Box::new(self)))
    }

    async fn go_on(mut self, offset: u64, saved: u64) -> Result<Begun> {
        if offset != saved {
            return Err(Error::Precondition(format!(
                "upload '{}' has {saved} durable bytes, and this stream begins at {offset}: continue it at offset {saved}, \
                 or give a new upload another id",
                self.id
            )));
        }
        if let Some(size) = self.expected.size {
            self.broker.stores.payload.room(size.saturating_sub(saved)).await?;
        }
        self.write_to_object(saved).await?;
        Ok(Begun::Open(Box::new(self)))
    }

    /// From now on bytes go to an object, from an offset on; its row is written first.
    async fn write_to_object(&mut self, offset: u64) -> Result<()> {
        self.slot = Some(self.broker.admission.upload().await?);
        let now = self.broker.clock.now();
        let new = NewUpload {
            id: self.id.clone(),
            header: stored_header(&self.message, &self.draft),
            now,
            deadline: now.after(self.broker.config.upload_retention),
            uploads_max: self.broker.config.uploads,
        };
        match self.broker.stores.metadata.begin_upload(new).await? {
            Upload { state: UploadState::Open { object, epoch, saved, .. }, .. } if saved.offset == offset => {
                self.epoch = Some(epoch);
                let opened = Writing::open(&self.broker, &self.id, epoch, object, saved).await;
                if let Err(Error::DataLoss(_)) = &opened {
                    // Nobody can go on with it: the next one begins anew.
                    self.abandon().await;
                }
                self.writing = Some(opened?);
                Ok(())
            }
            // Somebody else was at it since it was looked at, at another broker.
            Upload { .. } => Err(overtaken(&self.id)),
        }
    }

    /// Completes when another uploader wants to go on, or the broker drains: [`interrupt`](Self::interrupt) then.
    pub(crate) fn leaving(&self) -> impl Future<Output = Error> + Send + use<> {
        let (leave, draining, id) = (self.turn.leave.clone(), self.broker.draining.clone(), self.id.clone());
        async move {
            tokio::select! {
                () = leave.cancelled() => overtaken(&id),
                () = draining.cancelled() => Error::draining(),
            }
        }
    }

    /// Takes the next bytes, under a permit for as many.
    pub(crate) async fn push(&mut self, mut data: Bytes, permit: Permit) -> Result<()> {
        let len = self.len() + data.len() as u64;
        if let Err(error) = self.broker.check_upload_size(len) {
            // It would be refused again.
            return self.refuse(error).await;
        }
        if self.expected.size.is_some_and(|size| len > size) {
            let problem = format!("has {len} bytes or more, and fewer were announced: upload it again");
            return self.refuse(Error::invalid("data", problem)).await;
        }
        // Writes end on their boundaries, where the store may want to end a part.
        while self.gathered_len + data.len() >= self.room() {
            let piece = data.split_to(self.room() - self.gathered_len);
            self.gather(piece);
            if self.writing.is_none() && data.is_empty() {
                // Exactly as much as a block takes: it may be all.
                self.permit.absorb(permit);
                return Ok(());
            }
            self.permit.absorb(permit.clone());
            self.hand_on().await?;
        }
        self.permit.absorb(permit);
        self.gather(data);
        Ok(())
    }

    /// Keeps a piece. Small ones are joined: each would take more memory than its bytes.
    fn gather(&mut self, data: Bytes) {
        self.gathered_len += data.len();
        if data.len() < SMALL {
            self.small.extend_from_slice(&data);
        } else {
            self.end_small();
            self.gathered.push(data);
        }
    }

    fn end_small(&mut self) {
        if !self.small.is_empty() {
            self.gathered.push(self.small.split().freeze());
        }
    }

    /// Bytes up to the next boundary.
    fn room(&self) -> usize {
        let written = self.writing.as_ref().map_or(0, Writing::len);
        let over = usize::try_from(written % WRITE as u64).unwrap_or(0);
        WRITE - over
    }

    fn len(&self) -> u64 {
        self.writing.as_ref().map_or(0, Writing::len) + self.gathered_len as u64
    }

    /// True if bytes wait for more.
    pub(crate) fn waits(&self) -> bool {
        self.gathered_len > 0
    }

    /// Writes what was gathered, and gives its permits back: they are not for those who are slow.
    pub(crate) async fn hand_on(&mut self) -> Result<()> {
        if self.gathered_len == 0 {
            return Ok(());
        }
        if self.writing.is_none() {
            self.write_to_object(0).await?;
        }
        self.end_small();
        let (data, permit) = (std::mem::take(&mut self.gathered), std::mem::take(&mut self.permit));
        self.gathered_len = 0;
        match &mut self.writing {
            Some(writing) => writing.write(data, permit).await,
            None => Ok(()),
        }
    }

    /// Ends without a message: what was written is kept for who continues it. Gives how much that is.
    pub(crate) async fn interrupt(mut self) -> Result<u64> {
        if self.writing.is_none() {
            return Ok(0);
        }
        let handed_on = self.hand_on().await;
        let saved = match (&mut self.writing, handed_on) {
            (Some(writing), Ok(())) => writing.interrupt().await,
            (_, handed_on) => handed_on.map(|()| 0),
        };
        self.stop().await;
        saved
    }

    /// Ends without a message, and keeps nothing: nobody will go on.
    pub(crate) async fn abort(mut self) {
        self.abandon().await;
    }

    /// Makes all of it one message.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if it is not what was announced, [`Error::DataLoss`] if the store lost some of it: the upload is
    /// then over. After [`Error::Unavailable`] and [`Error::Exhausted`] it can be continued where it was saved last.
    pub(crate) async fn commit(
        mut self,
        later: Expected,
        request: RequestId,
        limits: &ConnectionAdmission,
    ) -> Result<Uploaded> {
        let expected = match self.expected.and(later) {
            Ok(expected) => expected,
            Err(error) => return self.refuse(error).await,
        };
        let published = match self.writing {
            None => self.commit_small(expected, request, limits).await,
            Some(_) => self.commit_object(expected, request, limits).await,
        };
        match &published {
            Ok(uploaded) if !uploaded.duplicate => {}
            // One that follows another, or that can never be published, has no use for its bytes.
            Ok(_) | Err(Error::Invalid(_) | Error::Conflict(_) | Error::DataLoss(_) | Error::Mismatch(_)) => {
                self.abandon().await;
            }
            Err(_) => self.stop().await,
        }
        published
    }

    async fn commit_small(
        &mut self,
        expected: Expected,
        request: RequestId,
        limits: &ConnectionAdmission,
    ) -> Result<Uploaded> {
        self.end_small();
        let data = match self.gathered.len() {
            1 => self.gathered.remove(0),
            _ => self.gathered.concat().into(),
        };
        let tally = Tally::of(&data);
        let (size, sha256) = (tally.len(), tally.sha256());
        check(expected, size, sha256)?;
        let permit = std::mem::take(&mut self.permit);
        let draft = Draft { data, upload: Some(self.id.clone()), ..self.draft_now()? };
        let published = self.broker.publish(request, draft, limits, permit).await?;
        Ok(Uploaded { sequence: published.sequence, size, sha256, duplicate: published.duplicate })
    }

    async fn commit_object(
        &mut self,
        expected: Expected,
        request: RequestId,
        limits: &ConnectionAdmission,
    ) -> Result<Uploaded> {
        self.hand_on().await?;
        let Some(writing) = &mut self.writing else { return Err(overtaken(&self.id)) };
        let uploaded = writing.tally().await?;
        let (size, sha256) = (uploaded.size, uploaded.sha256);
        check(expected, size, sha256)?;
        writing.finish().await?;
        let draft = Draft { upload: Some(self.id.clone()), uploaded: Some(uploaded), ..self.draft_now()? };
        let published = self.broker.publish(request, draft, limits, Permit::default()).await?;
        Ok(Uploaded { sequence: published.sequence, size, sha256, duplicate: published.duplicate })
    }

    /// The message as of now: its time to live begins.
    fn draft_now(&self) -> Result<Draft> {
        validate::draft(self.message.clone(), None, &self.broker.config, self.broker.clock.now())
    }

    /// Ends an upload that can never be published.
    async fn refuse<T>(&mut self, error: Error) -> Result<T> {
        self.abandon().await;
        Err(error)
    }

    /// Removes what was written.
    async fn abandon(&mut self) {
        self.stop().await;
        self.writing = None;
        let Some(epoch) = self.epoch.take() else { return };
        let now = self.broker.clock.now();
        if let Err(error) = self.broker.stores.metadata.abandon_upload(&self.id, Some(epoch), now).await {
            tracing::warn!(upload = %self.id, %error, "an upload that cannot be published stays until its deadline");
        }
    }

    async fn stop(&mut self) {
        if let Some(writing) = &mut self.writing {
            writing.stop(STOP_MAX).await;
        }
    }
}

fn check(expected: Expected, size: u64, sha256: [u8; 32]) -> Result<()> {
    if let Some(announced) = expected.size.filter(|announced| *announced != size) {
        return Err(Error::invalid(
            "data",
            format!("has {size} bytes, and {announced} were announced: upload it again"),
        ));
    }
    if expected.sha256.is_some_and(|announced| announced != sha256) {
        return Err(Error::Mismatch(
            "the data does not have the announced SHA-256: nothing was published; upload it again".into(),
        ));
    }
    Ok(())
}
