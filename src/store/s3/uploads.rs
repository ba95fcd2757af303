//! Multipart uploads of one bucket: from the first part to the object, or to nothing.

use std::sync::Arc;

use super::{
    call::{Call, UploadId},
    client::Client,
    failure::{Cause, Failure},
    text::{Begun, Upload, Uploads, parse},
};
use crate::error::{Error, Result};

/// Most pages of a listing of uploads: each has up to a thousand.
const PAGES_MAX: usize = 100;

impl Client {
    /// Begins an upload, the only one of its key from now on.
    pub(super) async fn begin_upload(self: &Arc<Self>, key: &str) -> Result<UploadId> {
        let reply = self.call(key, Call::CreateUpload).await?;
        let begun: Begun = parse(&self.subject(key, &Call::CreateUpload), &reply.body)?;
        // An earlier one may have been begun by a writer that is gone, or by a request whose answer was lost.
        self.abort_uploads(key, Some(&begun.upload_id)).await?;
        Ok(UploadId::new(begun.upload_id))
    }

    /// Ids of the uploads of a key that are neither complete nor aborted.
    pub(super) async fn uploads(self: &Arc<Self>, key: &str) -> Result<Vec<String>> {
        // With the whole key as prefix: some servers list by nothing else.
        let found = self.uploads_below(key).await?;
        Ok(found.into_iter().filter(|upload| upload.key == key).map(|upload| upload.upload_id).collect())
    }

    /// Uploads of all keys that begin like this, as far as the server tells.
    pub(super) async fn uploads_below(self: &Arc<Self>, prefix: &str) -> Result<Vec<Upload>> {
        let (mut found, mut key_marker, mut upload_marker) = (Vec::new(), None, None);
        for _ in 0..PAGES_MAX {
            let call = Call::ListUploads { prefix: prefix.into(), key_marker, upload_marker };
            let subject = self.subject("", &call);
            let page: Uploads = match self.call("", call).await {
                Ok(reply) => parse(&subject, &reply.body)?,
                Err(failure) if failure.has_code("NoSuchUpload") => return Ok(found),
                Err(failure) => return Err(failure.into()),
            };
            found.extend(page.upload);
            if !page.is_truncated || page.next_key_marker.is_none() {
                return Ok(found);
            }
            (key_marker, upload_marker) = (page.next_key_marker, page.next_upload_id_marker);
        }
        let many = PAGES_MAX * 1000;
        Err(Error::unavailable(format!(
            "S3 lists more than {many} unfinished uploads of '{prefix}': abort them by hand"
        )))
    }

    /// Ends all unfinished uploads of a key, but one if it is named.
    pub(super) async fn abort_uploads(self: &Arc<Self>, key: &str, but: Option<&str>) -> Result<()> {
        for id in self.uploads(key).await? {
            if but == Some(id.as_str()) {
                continue;
            }
            match self.call(key, Call::AbortUpload { upload: UploadId::new(id) }).await {
                Err(failure) if !failure.has_status(404) => return Err(failure.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes an object of the parts of an upload, `size` bytes together.
    pub(super) async fn complete_upload(
        self: &Arc<Self>,
        key: &str,
        upload: UploadId,
        etags: Vec<String>,
        size: u64,
    ) -> Result<()> {
        let Err(failure) = self.call(key, Call::CompleteUpload { upload, etags }).await else { return Ok(()) };
        // The answer to an earlier attempt was lost: the upload is no more because it is complete.
        if failure.attempts > 1 && failure.has_status(404) && self.size(key).await? == Some(size) {
            return Ok(());
        }
        if ["NoSuchUpload", "InvalidPart", "InvalidPartOrder"].iter().any(|code| failure.has_code(code)) {
            return Err(self.parts_are_gone(key, &failure).await);
        }
        Err(failure.into())
    }

    /// Why the parts of an object are not there: they are lost, or another broker has made the object of them.
    pub(super) async fn parts_are_gone(self: &Arc<Self>, key: &str, failure: &Failure) -> Error {
        match self.size(key).await {
            Ok(None) => Error::DataLoss(format!("{failure}: parts that were uploaded are gone: begin the upload anew")),
            Ok(Some(_)) => Error::unavailable(format!(
                "{failure}: the object was completed at another broker: ask how far the upload is, and continue it there"
            )),
            Err(error) => error,
        }
    }

    /// Bytes of an object, if it is there.
    pub(super) async fn size(self: &Arc<Self>, key: &str) -> Result<Option<u64>> {
        let reply = match self.call(key, Call::Head).await {
            Ok(reply) => reply,
            // Answers to HEAD have no body to tell more.
            Err(failure) if failure.has_status(404) => return Ok(None),
            Err(failure) => return Err(failure.into()),
        };
        let len = reply.headers.get(http::header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
        let untold = || Failure::new(self.subject(key, &Call::Head), Cause::Broken("it has no length".into()), None);
        Ok(Some(len.ok_or_else(untold)?))
    }
}
