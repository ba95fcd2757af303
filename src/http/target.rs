//! Paths that name messages and uploads.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::error::{Error, Result};

/// All messages stand below this path.
pub(super) const MESSAGES: &str = "/v1/messages/";

/// All uploads stand below this path.
pub(super) const UPLOADS: &str = "/v1/uploads/";

/// What is encoded in paths and headers: all but RFC 3986's unreserved characters.
const ENCODED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a path below [`MESSAGES`] names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) subject: String,
    /// A sequence or `last` to read, the name of a file to publish; `None` if the path ends with the subject.
    pub(super) tail: Option<String>,
}

impl Target {
    /// Takes a path apart.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not percent-encoded UTF-8.
    pub(super) fn parse(path: &str) -> Result<Self> {
        let rest = path.strip_prefix(MESSAGES).unwrap_or_default();
        let (subject, tail) = rest.split_once('/').unwrap_or((rest, ""));
        let tail = (!tail.is_empty()).then(|| decode("the path", tail)).transpose()?;
        Ok(Self { subject: decode("subject", subject)?, tail })
    }
}

/// The id that a path below [`UPLOADS`] names.
pub(super) fn upload_id(path: &str) -> Result<String> {
    decode("upload id", path.strip_prefix(UPLOADS).unwrap_or_default())
}

/// Where a message can be read.
pub(super) fn location(subject: &str, sequence: u64) -> String {
    format!("{MESSAGES}{}/{sequence}", encode(subject))
}

/// Text as a part of a path or of a header.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, &ENCODED).to_string()
}

fn decode(field: &str, text: &str) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| Error::invalid(field, format!("'{text}' is not UTF-8, percent-encoded")))?;
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_once_and_encoded_back() {
        for (path, subject, tail) in [
            ("/v1/messages/a.b", "a.b", None),
            ("/v1/messages/a.b/", "a.b", None),
            ("/v1/messages/a%2Fb/7", "a/b", Some("7")),
            ("/v1/messages/%D1%82/a%2520b%20c.txt", "т", Some("a%20b c.txt")),
            ("/v1/messages/a/dir/file", "a", Some("dir/file")),
            ("/v1/messages/", "", None),
        ] {
            let target = Target { subject: subject.into(), tail: tail.map(Into::into) };
            assert_eq!(Target::parse(path), Ok(target), "{path}");
        }
        assert!(Target::parse("/v1/messages/%FF").is_err());
        assert_eq!(location("a/т.%", 7), "/v1/messages/a%2F%D1%82.%25/7");
        assert_eq!(upload_id("/v1/uploads/a%20b").unwrap(), "a b");
    }
}
