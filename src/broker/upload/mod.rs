//! Uploads: one message of any size, in pieces, in bounded memory.
//!
//! ```text
//! begin ─▶ small: bytes in memory ──────────────────────────commit─▶ a message like any other
//!            │ more than OBJECT_MIN, or slow
//!            ▼
//!          large: row written ─▶ object written, hashed, synced ─commit─▶ a message that refers to the object
//!                                  │ every 32 MiB, and at the end of an interrupted stream:
//!                                  ▼
//!                                row saved: the upload can be continued from here
//! ```
//! Only one uploader at a time writes an upload: one who continues it ends the other. Bytes are held until they are written
//! by permits of `limits.upload_bytes`; nothing else grows with the size.

mod session;
mod uploaders;
mod writing;

use bytes::Bytes;
use minitoolstream_proto::{PublishRequest, UploadHeader};
use serde::Serialize;
pub(crate) use session::{Begun, Session};
pub use uploaders::Uploaders;

use super::{Broker, validate};
use crate::{
    error::{Error, Result},
    store::{Upload, UploadState},
    types::{Draft, Headers, UploadId},
};

/// What an upload came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Uploaded {
    /// 0 while the message waits for its time.
    pub(crate) sequence: u64,
    pub(crate) size: u64,
    pub(crate) sha256: [u8; 32],
    /// True if it was published before.
    pub(crate) duplicate: bool,
}

/// What an uploader says at first, checked.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub(crate) id: UploadId,
    /// The message to be, without data.
    pub(crate) message: PublishRequest,
    /// The data begins here.
    pub(crate) offset: u64,
    pub(crate) expected: Expected,
}

/// What the data must turn out to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) size: Option<u64>,
    pub(crate) sha256: Option<[u8; 32]>,
}

impl Expected {
    /// Reads what an uploader gave.
    pub(crate) fn parse(size: Option<u64>, sha256: &[u8]) -> Result<Self> {
        let sha256 = match sha256 {
            [] => None,
            given => Some(
                given
                    .try_into()
                    .map_err(|_| Error::invalid("sha256", format!("has {} bytes: give 32, or none", given.len())))?,
            ),
        };
        Ok(Self { size, sha256 })
    }

    /// Adds what was said later; both must agree.
    fn and(self, later: Self) -> Result<Self> {
        if self.size.is_some_and(|size| later.size.is_some_and(|later| later != size)) {
            return Err(Error::invalid("size", "differs from the size in the header"));
        }
        if self.sha256.is_some_and(|digest| later.sha256.is_some_and(|later| later != digest)) {
            return Err(Error::invalid("sha256", "differs from the digest in the header"));
        }
        Ok(Self { size: self.size.or(later.size), sha256: self.sha256.or(later.sha256) })
    }
}

impl Broker {
    /// Checks the header of an upload: all of it that can be known before the data.
    pub(crate) fn check_upload(&self, header: UploadHeader) -> Result<Opening> {
        let UploadHeader { upload_id, message, offset, size, sha256 } = header;
        let id = UploadId::parse("upload_id", &upload_id)?;
        let message = message.ok_or_else(|| Error::invalid("message", "is missing: say what the message will be"))?;
        if !message.data.is_empty() {
            return Err(Error::invalid("message.data", "must be empty: data follows in frames of its own"));
        }
        let expected = Expected::parse(size, &sha256)?;
        self.check_upload_size(size.unwrap_or(0).max(offset))?;
        validate::draft(message.clone(), None, &self.config, self.clock.now())?;
        Ok(Opening { id, message, offset, expected })
    }

    fn check_upload_size(&self, size: u64) -> Result<()> {
        if size > self.config.upload_max.0 {
            let problem = format!("has {size} bytes or more: at most {} are allowed", self.config.upload_max);
            return Err(Error::invalid("data", problem));
        }
        Ok(())
    }

    /// Where an upload stands: the durable offset, or what it came to; and when it is forgotten.
    pub(crate) async fn find_upload(&self, id: &str) -> Result<Upload> {
        let id = UploadId::parse("upload_id", id)?;
        let found = self.stores.metadata.upload(&id).await?;
        found.ok_or_else(|| Error::NotFound(format!("nothing of upload '{id}' is stored: begin it anew")))
    }

    /// Ends an upload that is not published, and whoever is at it.
    pub(crate) async fn abort_upload(&self, id: &str) -> Result<()> {
        let upload = self.find_upload(id).await?;
        if let UploadState::Done { subject, sequence, .. } = &upload.state {
            return Err(Error::Precondition(format!(
                "upload '{id}' is published, as {sequence} of '{subject}': purge the message to remove it"
            )));
        }
        let _turn = self.uploads.enter(&upload.id).await?;
        self.stores.metadata.abandon_upload(&upload.id, None, self.clock.now()).await.map(drop)
    }
}

/// The header as it is stored, to be compared: the same message has the same bytes, whatever the order of its headers.
fn stored_header(message: &PublishRequest, draft: &Draft) -> Bytes {
    #[derive(Serialize)]
    struct Header<'a> {
        subject: &'a str,
        headers: &'a Headers,
        message_id: &'a str,
        ttl: Option<(i64, i32)>,
        expected_last: Option<u64>,
        deliver_at: Option<(i64, i32)>,
    }
    let header = Header {
        subject: &message.subject,
        headers: &draft.headers,
        message_id: &message.message_id,
        ttl: message.ttl.map(|ttl| (ttl.seconds, ttl.nanos)),
        expected_last: message.expected_last_sequence,
        deliver_at: message.deliver_at.map(|at| (at.seconds, at.nanos)),
    };
    serde_json::to_vec(&header).unwrap_or_default().into()
}
