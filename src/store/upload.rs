use bytes::Bytes;

use crate::types::{Subject, Timestamp, UploadId};

/// An upload to be begun or continued.
#[derive(Clone, Debug)]
pub struct NewUpload {
    /// Its name.
    pub id: UploadId,
    /// What the message will be, in the uploader's form: an upload is continued with the same.
    pub header: Bytes,
    /// The present moment.
    pub now: Timestamp,
    /// When it is abandoned unless it goes on.
    pub deadline: Timestamp,
    /// Most uploads under way that there may be.
    pub uploads_max: usize,
}

/// An upload, as its row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Its name.
    pub id: UploadId,
    /// Whether it goes on.
    pub state: UploadState,
    /// When it is forgotten, or abandoned with its bytes unless it goes on.
    pub deadline: Timestamp,
}

/// Whether an upload goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadState {
    /// It does.
    Open {
        /// The object that its bytes go to.
        object: u64,
        /// Grows each time that the upload is continued: what an earlier uploader says does not count any more.
        epoch: u64,
        /// As in [`NewUpload::header`].
        header: Bytes,
        /// Where it can be continued.
        saved: Saved,
    },
    /// It became a message.
    Done {
        /// Whose it is.
        subject: Subject,
        /// Its sequence; 0 while it waits for its time.
        sequence: u64,
        /// Bytes of data.
        size: u64,
        /// SHA-256 of the data.
        sha256: [u8; 32],
    },
}

/// How far an upload is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Bytes.
    pub offset: u64,
    /// Their [`Tally`](crate::block::object::Tally).
    pub tally: Bytes,
    /// What the payload store needs to go on after them.
    pub receipt: Bytes,
}
