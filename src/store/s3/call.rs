use std::ops::Range;

use bytes::Bytes;
use s3::{
    BucketConfiguration, Region,
    command::{Command, Multipart},
    serde_types::{CompleteMultipartUploadData, DeleteObjectsRequest, ObjectIdentifier, Part},
    signing::uri_encode,
};

/// What objects are, for those who look into the bucket.
const CONTENT_TYPE: &str = "application/octet-stream";

/// One request to S3, but for the key that it is about.
pub(super) enum Call {
    Put {
        body: Bytes,
    },
    Get {
        range: Range<u64>,
    },
    Head,
    Delete,
    DeleteMany {
        keys: Vec<String>,
    },
    List {
        prefix: String,
        token: Option<String>,
        max: usize,
    },
    CreateUpload,
    /// Numbers begin at 1.
    UploadPart {
        upload: UploadId,
        number: u32,
        body: Bytes,
    },
    /// With the tags of all parts.
    CompleteUpload {
        upload: UploadId,
        etags: Vec<String>,
    },
    AbortUpload {
        upload: UploadId,
    },
    ListUploads {
        prefix: String,
        key_marker: Option<String>,
        upload_marker: Option<String>,
    },
    CreateBucket {
        region: Option<Region>,
    },
}

/// The id of a multipart upload as it stands in a URL.
#[derive(Clone)]
pub(super) struct UploadId {
    pub(super) id: String,
    encoded: String,
}

impl UploadId {
    pub(super) fn new(id: String) -> Self {
        // The client library writes ids into URLs as they are.
        let encoded = uri_encode(&id, true);
        Self { id, encoded }
    }
}

impl Call {
    /// Its name in metrics and errors.
    pub(super) fn operation(&self) -> &'static str {
        match self {
            Self::Put { .. } => "put",
            Self::Get { .. } => "get",
            Self::Head => "head",
            Self::Delete => "delete",
            Self::DeleteMany { .. } => "delete_many",
            Self::List { .. } => "list",
            Self::CreateUpload => "create_upload",
            Self::UploadPart { .. } => "upload_part",
            Self::CompleteUpload { .. } => "complete_upload",
            Self::AbortUpload { .. } => "abort_upload",
            Self::ListUploads { .. } => "list_uploads",
            Self::CreateBucket { .. } => "create_bucket",
        }
    }

    /// What it carries, if that is payload.
    pub(super) fn payload(&self) -> Option<&Bytes> {
        match self {
            Self::Put { body } | Self::UploadPart { body, .. } => Some(body),
            _ => None,
        }
    }

    /// Bytes of its answer, if that is payload.
    pub(super) fn expected(&self) -> Option<u64> {
        match self {
            Self::Get { range } => Some(range.end - range.start),
            _ => None,
        }
    }

    /// True if it asks for the first bytes of an object.
    pub(super) fn begins_at_zero(&self) -> bool {
        matches!(self, Self::Get { range } if range.start == 0)
    }

    /// True if a server may have long work with it before it answers.
    pub(super) fn is_long(&self) -> bool {
        matches!(self, Self::CompleteUpload { .. } | Self::DeleteMany { .. })
    }

    pub(super) fn command(&self) -> Command<'_> {
        let put = |content, multipart| Command::PutObject {
            content,
            content_type: CONTENT_TYPE,
            custom_headers: None,
            multipart,
        };
        match self {
            Self::Put { body } => put(body, None),
            Self::UploadPart { upload, number, body } => put(body, Some(Multipart::new(*number, &upload.encoded))),
            Self::Get { range } => Command::GetObjectRange { start: range.start, end: Some(range.end - 1) },
            Self::Head => Command::HeadObject,
            Self::Delete => Command::DeleteObject,
            Self::DeleteMany { keys } => {
                let objects = keys.iter().map(ObjectIdentifier::new).collect();
                Command::DeleteObjects { data: DeleteObjectsRequest { objects, quiet: true } }
            }
            Self::List { prefix, token, max } => Command::ListObjectsV2 {
                prefix: prefix.clone(),
                delimiter: None,
                continuation_token: token.clone(),
                start_after: None,
                max_keys: Some(*max),
            },
            Self::CreateUpload => Command::InitiateMultipartUpload { content_type: CONTENT_TYPE },
            Self::CompleteUpload { upload, etags } => {
                let part = |(part_number, etag): (u32, &String)| Part { part_number, etag: etag.clone() };
                let data = CompleteMultipartUploadData { parts: (1..).zip(etags).map(part).collect() };
                Command::CompleteMultipartUpload { upload_id: &upload.encoded, data }
            }
            Self::AbortUpload { upload } => Command::AbortMultipartUpload { upload_id: &upload.encoded },
            Self::ListUploads { prefix, key_marker, upload_marker } => Command::ListMultipartUploads {
                prefix: Some(prefix),
                delimiter: None,
                key_marker: key_marker.clone(),
                upload_id_marker: upload_marker.clone(),
                max_uploads: None,
            },
            Self::CreateBucket { region } => {
                let mut config = BucketConfiguration::default();
                region.iter().for_each(|region| config.set_region(region.clone()));
                Command::CreateBucket { config }
            }
        }
    }
}
