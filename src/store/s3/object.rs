//! The writer of one object.
//!
//! ```text
//!  write: pieces ─▶ gathered until they make a part ─▶ parts under way (a few) ─▶ tags, in order
//!  sync:  waits for the whole parts taken so far ─▶ offset and receipt ─▶ another process goes on there
//!  finish: one put if all of it fits a part, or the last part and the completion
//! ```
//!
//! Memory: a part being gathered and those under way, so `part size × (parts per object + 2)`.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::{
    sync::{OnceCell, Semaphore},
    task::JoinSet,
};

use super::{
    call::{Call, UploadId},
    client::Client,
    failure::{Cause, Failure},
    parts::{Parts, Ticket},
    receipt::{Receipt, fits},
    settings::{PARTS_MAX, Settings},
};
use crate::{
    error::{Error, Result},
    store::{ObjectWriter, Synced},
};

/// See the [module](self).
pub(super) struct ObjectUpload {
    line: Line,
    /// Bytes of a part.
    part_size: u64,
    /// Of this object, at a time.
    under_way_max: usize,
    gathered: Vec<Bytes>,
    gathered_bytes: u64,
    parts: Arc<Parts>,
    under_way: JoinSet<()>,
}

/// What a part needs on its way.
#[derive(Clone)]
struct Line {
    client: Arc<Client>,
    key: Arc<str>,
    /// Begun with the first part.
    upload: Arc<OnceCell<UploadId>>,
    /// Parts of all objects, at a time.
    slots: Arc<Semaphore>,
}

impl ObjectUpload {
    /// Begins an object.
    pub(super) fn begin(client: Arc<Client>, slots: Arc<Semaphore>, key: &str, settings: &Settings) -> Self {
        let line = Line { client, key: key.into(), upload: Arc::default(), slots };
        Self {
            line,
            part_size: settings.part_size,
            under_way_max: settings.parts_per_object,
            gathered: Vec::new(),
            gathered_bytes: 0,
            parts: Parts::new(Vec::new()),
            under_way: JoinSet::new(),
        }
    }

    /// Goes on after what was synced.
    pub(super) async fn resume(
        client: Arc<Client>,
        slots: Arc<Semaphore>,
        key: &str,
        settings: &Settings,
        from: &Synced,
    ) -> Result<Self> {
        let mut upload = Self::begin(client, slots, key, settings);
        if from.offset == 0 {
            return Ok(upload);
        }
        let receipt = Receipt::decode(from.receipt.clone())?;
        upload.part_size = receipt.part_size;
        if receipt.part_size.checked_mul(receipt.etags.len() as u64) != Some(from.offset) {
            let (offset, parts) = (from.offset, receipt.etags.len());
            return Err(lost(key, &format!("its receipt tells of {parts} parts, and {offset} bytes were stored")));
        }
        if upload.line.client.uploads(key).await?.contains(&receipt.upload_id) {
            upload.line.upload = Arc::new(OnceCell::new_with(Some(UploadId::new(receipt.upload_id))));
            upload.parts = Parts::new(receipt.etags);
        } else {
            upload.copy(from.offset).await?;
        }
        Ok(upload)
    }

    /// Uploads the first bytes of the object anew: it was complete already, and its message was not committed.
    async fn copy(&mut self, len: u64) -> Result<()> {
        let (client, key) = (self.line.client.clone(), self.line.key.clone());
        match client.size(&key).await? {
            Some(size) if size >= len => {}
            Some(size) => return Err(lost(&key, &format!("it has {size} bytes, and {len} were stored"))),
            None => return Err(lost(&key, "the parts that were stored are gone")),
        }
        let mut at = 0;
        while at < len {
            let range = at..at + self.part_size;
            at = range.end;
            let part = client.call(&key, Call::Get { range }).await?.body;
            self.write(vec![part]).await?;
        }
        self.sync().await.map(drop)
    }

    /// Takes some of the bytes, up to the end of a part; gives the rest.
    fn gather(&mut self, mut piece: Bytes) -> Bytes {
        let room = usize::try_from(self.part_size - self.gathered_bytes).unwrap_or(usize::MAX);
        let rest = piece.split_off(room.min(piece.len()));
        self.gathered_bytes += piece.len() as u64;
        self.gathered.push(piece);
        rest
    }

    fn take_gathered(&mut self) -> Bytes {
        let bytes = joined(std::mem::take(&mut self.gathered));
        self.gathered_bytes = 0;
        bytes
    }

    /// Sends what is gathered on its way.
    fn dispatch(&mut self) {
        let (line, ticket, body) = (self.line.clone(), self.parts.begin(), self.take_gathered());
        while self.under_way.try_join_next().is_some() {}
        self.under_way.spawn(async move {
            let outcome = line.carry(&ticket, body).await;
            ticket.settle(outcome);
        });
    }
}

impl Line {
    /// Gives the part's tag.
    async fn carry(&self, ticket: &Ticket, body: Bytes) -> Result<String> {
        let Self { client, key, upload, slots } = self;
        let number = ticket.number();
        if u64::from(number) > PARTS_MAX {
            let problem = format!(
                "is larger than {} bytes, the most that {PARTS_MAX} parts hold: raise s3.part_size",
                body.len() as u64 * PARTS_MAX
            );
            return Err(Error::invalid("data", problem));
        }
        let _slot = slots.acquire().await.map_err(|_| Error::draining())?;
        let upload = upload.get_or_try_init(|| client.begin_upload(key)).await?.clone();
        let id = upload.id.clone();
        let call = Call::UploadPart { upload, number, body };
        let subject = client.subject(key, &call);
        let reply = match client.call(key, call).await {
            Ok(reply) => reply,
            Err(failure) if failure.has_code("NoSuchUpload") => return Err(client.parts_are_gone(key, &failure).await),
            Err(failure) => return Err(failure.into()),
        };
        let etag = reply.headers.get(http::header::ETAG).and_then(|etag| etag.to_str().ok()).unwrap_or_default();
        if !fits(&id, etag) {
            let problem = format!("the answer has the ETag '{etag}', which is none");
            return Err(Failure::new(subject, Cause::Broken(problem), None).into());
        }
        Ok(etag.into())
    }
}

#[async_trait]
impl ObjectWriter for ObjectUpload {
    async fn write(&mut self, data: Vec<Bytes>) -> Result<()> {
        self.parts.waiter().at_most(self.under_way_max).await?;
        for mut piece in data {
            while !piece.is_empty() {
                // Only now is it sure that this is not the whole object.
                if self.gathered_bytes == self.part_size {
                    self.dispatch();
                    self.parts.waiter().at_most(self.under_way_max).await?;
                }
                piece = self.gather(piece);
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> BoxFuture<'static, Result<Synced>> {
        if self.gathered_bytes == self.part_size {
            self.dispatch();
        }
        let (count, part_size) = (self.parts.count(), self.part_size);
        let (mut waiter, upload) = (self.parts.waiter(), self.line.upload.clone());
        Box::pin(async move {
            let etags = waiter.etags(count).await?;
            let Some(upload) = upload.get().filter(|_| count > 0) else { return Ok(Synced::default()) };
            let offset = part_size * count as u64;
            let receipt = Receipt { part_size, upload_id: upload.id.clone(), etags }.encode();
            Ok(Synced { offset, receipt })
        })
    }

    fn sync_step(&self) -> u64 {
        self.part_size
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        let last = self.gathered_bytes;
        if self.parts.count() == 0 {
            let body = self.take_gathered();
            self.line.client.call(&self.line.key, Call::Put { body }).await?;
            return Ok(());
        }
        let size = self.parts.count() as u64 * self.part_size + last;
        if last > 0 {
            self.dispatch();
        }
        let etags = self.parts.waiter().etags(self.parts.count()).await?;
        let Line { client, key, upload, .. } = &self.line;
        let upload = upload.get().cloned().ok_or_else(|| lost(key, "its upload has no id"))?;
        client.complete_upload(key, upload, etags, size).await
    }
}

/// Puts pieces together; one piece is not copied.
pub(super) fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.remove(0);
    }
    let mut bytes = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
    bytes.freeze()
}

fn lost(key: &str, problem: &str) -> Error {
    Error::DataLoss(format!("the upload of '{key}' cannot go on: {problem}: begin it anew"))
}
