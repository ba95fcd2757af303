use std::{fmt, time::Duration};

use serde::Deserialize;

use crate::error::Error;

/// Statuses of a server that may answer otherwise soon.
const TRANSIENT: [u16; 7] = [408, 425, 429, 500, 502, 503, 504];

/// Codes of a server that has no room, by the servers that have them.
const FULL: [&str; 4] = ["XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "XMinioAdminBucketQuotaExceeded"];

/// Codes of a server that has an object and will not give it: it was archived, and somebody must restore it. Repeating
/// the request changes nothing, so its bytes count as lost until then.
const LOST: [&str; 1] = ["InvalidObjectState"];

/// Who is told that a store is full comes back after this.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a request failed.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) cause: Cause,
    /// How often it was sent.
    pub(super) attempts: u32,
    /// How often the server said that there is no such object.
    pub(super) denials: u32,
    /// What the server asked for.
    pub(super) retry_after: Option<Duration>,
    /// Operation and key.
    subject: Box<str>,
    request_id: Option<Box<str>>,
}

#[derive(Clone, Debug)]
pub(super) enum Cause {
    /// The server refused.
    Status { status: u16, code: String, message: String },
    /// Nothing came for too long.
    Timeout,
    /// No connection.
    Connect(String),
    /// The connection broke, or the answer makes no sense.
    Broken(String),
    /// The answer has fewer bytes than were asked for and are there.
    Short { bytes: u64, expected: u64 },
    /// The range ends beyond the object, which has this many bytes.
    Beyond { size: u64 },
    /// The request could not be made.
    Unsendable(String),
}

impl Failure {
    pub(super) fn new(subject: String, cause: Cause, request_id: Option<String>) -> Self {
        let request_id = request_id.map(String::into_boxed_str);
        Self { cause, attempts: 1, denials: 0, retry_after: None, subject: subject.into(), request_id }
    }

    /// Of an answer that is none of success.
    pub(super) fn refused(subject: String, status: u16, body: &[u8], request_id: Option<String>) -> Self {
        let refusal: Refusal =
            std::str::from_utf8(body).ok().and_then(|text| quick_xml::de::from_str(text).ok()).unwrap_or_default();
        let request_id = request_id.or(refusal.request_id);
        let cause = Cause::Status { status, code: refusal.code, message: refusal.message.unwrap_or_default() };
        Self::new(subject, cause, request_id)
    }

    /// The value of the metrics' label `code`.
    pub(super) fn label(&self) -> String {
        match &self.cause {
            Cause::Status { status, .. } => status.to_string(),
            Cause::Timeout => "timeout".into(),
            Cause::Connect(_) => "connect".into(),
            Cause::Broken(_) => "broken".into(),
            Cause::Short { .. } => "short".into(),
            Cause::Beyond { .. } => "beyond".into(),
            Cause::Unsendable(_) => "unsendable".into(),
        }
    }

    /// True if the same request may succeed soon.
    pub(super) fn is_transient(&self) -> bool {
        match &self.cause {
            Cause::Status { status, code, .. } => {
                // A 404 without a code is no word of S3 about a key, but one of something in between.
                TRANSIENT.contains(status) && !self.is_full()
                    || matches!(code.as_str(), "SlowDown" | "RequestTimeout" | "InternalError")
                    || *status == 404 && code.is_empty()
            }
            Cause::Timeout | Cause::Connect(_) | Cause::Broken(_) | Cause::Short { .. } => true,
            Cause::Beyond { .. } | Cause::Unsendable(_) => false,
        }
    }

    /// True if the server asks for fewer requests.
    pub(super) fn is_slow_down(&self) -> bool {
        matches!(&self.cause, Cause::Status { status: 429 | 503, .. })
    }

    /// True if there is no such object.
    pub(super) fn is_missing(&self) -> bool {
        self.has_code("NoSuchKey")
    }

    pub(super) fn has_code(&self, of: &str) -> bool {
        matches!(&self.cause, Cause::Status { code, .. } if code == of)
    }

    pub(super) fn has_status(&self, of: u16) -> bool {
        matches!(&self.cause, Cause::Status { status, .. } if *status == of)
    }

    fn is_full(&self) -> bool {
        self.has_status(507) || FULL.iter().any(|code| self.has_code(code))
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let what = failure.to_string();
        if failure.is_full() {
            return Self::Exhausted { what: format!("{what}: free some space there"), retry_after: RETRY_AFTER };
        }
        if LOST.iter().any(|code| failure.has_code(code)) {
            return Self::DataLoss(format!("{what}: restore the object from its archive"));
        }
        let hint = match &failure.cause {
            Cause::Status { status: 401 | 403, .. } => ": check s3.access_key, s3.secret_key and what they may do",
            Cause::Status { status: 301 | 307, .. } => ": check s3.region and s3.endpoint",
            Cause::Status { code, .. } if code == "NoSuchBucket" => ": make the bucket, or check s3.bucket",
            _ => "",
        };
        Self::unavailable(format!("{what}{hint}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3 {} failed: ", self.subject)?;
        match &self.cause {
            Cause::Status { status, code, message } => {
                write!(f, "{status}")?;
                for text in [code, message] {
                    if !text.is_empty() {
                        write!(f, " {text}")?;
                    }
                }
            }
            Cause::Timeout => f.write_str("no answer in time")?,
            Cause::Connect(problem) => write!(f, "no connection: {problem}")?,
            Cause::Broken(problem) | Cause::Unsendable(problem) => f.write_str(problem)?,
            Cause::Short { bytes, expected } => write!(f, "{bytes} bytes came instead of {expected}")?,
            Cause::Beyond { size } => write!(f, "it ends at byte {size}")?,
        }
        if let Some(id) = &self.request_id {
            write!(f, " (request {id})")?;
        }
        if self.attempts > 1 {
            write!(f, ", {} attempts", self.attempts)?;
        }
        Ok(())
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refusal {
    code: String,
    message: Option<String>,
    request_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str) -> Failure {
        let body = if code.is_empty() { "<html>".into() } else { format!("<Error><Code>{code}</Code></Error>") };
        Failure::refused("put 'a'".into(), status, body.as_bytes(), None)
    }

    #[test]
    fn what_may_pass_is_repeated() {
        for (status, code) in [(503, "SlowDown"), (500, "InternalError"), (429, ""), (400, "RequestTimeout"), (404, "")]
        {
            assert!(refused(status, code).is_transient(), "{status} {code}");
        }
        for (status, code) in
            [(403, "AccessDenied"), (404, "NoSuchKey"), (404, "NoSuchBucket"), (503, "XMinioStorageFull")]
        {
            assert!(!refused(status, code).is_transient(), "{status} {code}");
        }
    }

    #[test]
    fn errors_name_the_request_and_the_next_step() {
        let body =
            b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>No.</Message><Resource>/b</Resource>\
                     <RequestId>17</RequestId></Error>";
        let error = Error::from(Failure::refused("put 'a'".into(), 403, body, None));
        let Error::Unavailable { what, .. } = error else { panic!("{error:?}") };
        assert_eq!(
            what,
            "S3 put 'a' failed: 403 AccessDenied No. (request 17): check s3.access_key, s3.secret_key and what they may do"
        );
        assert!(matches!(Error::from(refused(507, "")), Error::Exhausted { .. }));
        let archived = Error::from(refused(403, "InvalidObjectState"));
        assert!(matches!(&archived, Error::DataLoss(what) if what.contains("restore the object")), "{archived:?}");
    }
}
