//! The texts that S3 answers with, and only what is needed of them: look-alikes leave out much of the rest.

use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};

use super::failure::{Cause, Failure};

/// A page of keys.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Keys {
    #[serde(default)]
    pub(super) contents: Vec<Key>,
    pub(super) next_continuation_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Key {
    pub(super) key: String,
}

/// A page of multipart uploads that are neither completed nor aborted.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Uploads {
    #[serde(default)]
    pub(super) upload: Vec<Upload>,
    #[serde(default)]
    pub(super) is_truncated: bool,
    pub(super) next_key_marker: Option<String>,
    pub(super) next_upload_id_marker: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Upload {
    pub(super) key: String,
    pub(super) upload_id: String,
}

/// A multipart upload that was begun.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Begun {
    pub(super) upload_id: String,
}

/// What became of the keys of a deletion that were not deleted.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Undeleted {
    #[serde(default)]
    pub(super) error: Vec<Refused>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Refused {
    pub(super) key: String,
    pub(super) code: String,
    pub(super) message: Option<String>,
}

/// Reads a text; `subject` names the request in the error.
pub(super) fn parse<T: DeserializeOwned>(subject: &str, body: &Bytes) -> Result<T, Failure> {
    let problem = match std::str::from_utf8(body) {
        Ok(text) => match quick_xml::de::from_str(text) {
            Ok(parsed) => return Ok(parsed),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    let cause = Cause::Broken(format!("the answer cannot be read: {problem}"));
    Err(Failure::new(subject.into(), cause, None))
}

/// Tells an error that came with a status of success: a server that begins to answer before it is done has no other way.
pub(super) fn late_error(subject: &str, body: &Bytes) -> Result<(), Failure> {
    let failure = Failure::refused(subject.into(), 500, body, None);
    match &failure.cause {
        Cause::Status { code, .. } if !code.is_empty() => Err(failure),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_are_read_without_what_is_optional() {
        let body = Bytes::from_static(
            b"<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name>\
              <Contents><Key>a</Key><Size>1</Size></Contents><Contents><Key>b</Key></Contents>\
              <NextContinuationToken>t</NextContinuationToken></ListBucketResult>",
        );
        let keys: Keys = parse("list", &body).unwrap();
        assert_eq!(keys.contents.iter().map(|key| key.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(keys.next_continuation_token.as_deref(), Some("t"));
        let empty: Uploads = parse("list", &Bytes::from_static(b"<ListMultipartUploadsResult/>")).unwrap();
        assert!(empty.upload.is_empty() && !empty.is_truncated);
        assert!(parse::<Begun>("create", &Bytes::from_static(b"\xff")).is_err());
    }

    #[test]
    fn errors_that_come_late_are_errors() {
        let error =
            late_error("complete", &Bytes::from_static(b"<Error><Code>InternalError</Code></Error>")).unwrap_err();
        assert!(error.is_transient());
        let done = b"<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>";
        late_error("complete", &Bytes::from_static(done)).unwrap();
        late_error("complete", &Bytes::new()).unwrap();
    }
}
