//! What the head of a request says of the message that its body will be.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use actix_web::{
    HttpMessage, HttpRequest,
    http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ContentRangeSpec, HeaderMap},
};
use minitoolstream_proto::{PublishRequest, UploadHeader};

use super::{digest, target::Target};
use crate::error::{Error, Result};

/// Request headers with this prefix become headers of the message.
pub(super) const HEADER_PREFIX: &str = "mts-header-";

/// What will come.
pub(super) struct Announced {
    pub(super) header: UploadHeader,
    /// True if the client can continue the upload: it chose the id.
    pub(super) is_resumable: bool,
    /// Bytes of this body; `None` if the client does not know.
    pub(super) body_len: Option<u64>,
    /// True if the message ends with this body.
    pub(super) is_last: bool,
}

impl Announced {
    /// Reads path and headers.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the header that cannot be read.
    pub(super) fn read(request: &HttpRequest) -> Result<Self> {
        let (headers, target) = (request.headers(), Target::parse(request.uri().path())?);
        let body_len = body_len(request)?;
        let range = content_range(headers, body_len)?;
        let given_id = text(headers, "mts-upload-id")?;
        if given_id.is_none() && range.is_some_and(|(offset, end, size)| offset > 0 || size != Some(end)) {
            let problem = "is of a part: give the upload an Mts-Upload-Id, so that the other parts can follow";
            return Err(Error::invalid("Content-Range", problem));
        }
        let (offset, size) = range.map_or((0, body_len), |(offset, _, size)| (offset, size));
        let message = PublishRequest {
            subject: target.subject,
            headers: message_headers(headers, target.tail)?,
            message_id: text(headers, "mts-message-id")?.unwrap_or_default().into(),
            ttl: text(headers, "mts-ttl")?.map(ttl).transpose()?,
            expected_last_sequence: text(headers, "mts-expected-last-sequence")?.map(sequence).transpose()?,
            deliver_at: text(headers, "mts-deliver-at")?.map(deliver_at).transpose()?,
            ..Default::default()
        };
        let header = UploadHeader {
            upload_id: given_id.map_or_else(random_id, Into::into),
            message: Some(message),
            offset,
            size,
            sha256: digest::announced(headers)?.unwrap_or_default().into(),
        };
        let body_len = range.map_or(body_len, |(offset, end, _)| Some(end - offset));
        let is_last = range.is_none_or(|(_, end, size)| size == Some(end));
        Ok(Self { header, is_resumable: given_id.is_some(), body_len, is_last })
    }
}

/// One header as text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let value = std::str::from_utf8(value.as_bytes()).map_err(|_| Error::invalid(name, "is not UTF-8"))?;
    Ok(Some(value.trim()))
}

fn body_len(request: &HttpRequest) -> Result<Option<u64>> {
    if request.chunked().unwrap_or(true) {
        return Ok(None);
    }
    let len = text(request.headers(), CONTENT_LENGTH.as_str())?.unwrap_or("0");
    len.parse().map(Some).map_err(|_| Error::invalid("Content-Length", format!("'{len}' is no number")))
}

/// Where the body begins and ends in the data, and the size of all of it: of `bytes 5-9/20`, 5, 10 and 20.
fn content_range(headers: &HeaderMap, body_len: Option<u64>) -> Result<Option<(u64, u64, Option<u64>)>> {
    let Some(given) = text(headers, CONTENT_RANGE.as_str())? else { return Ok(None) };
    let refuse = |problem: &str| Err(Error::invalid("Content-Range", format!("'{given}' {problem}")));
    let Ok(ContentRangeSpec::Bytes { range: Some((first, last)), instance_length: size }) = given.parse() else {
        return refuse("cannot be read: give 'bytes FIRST-LAST/SIZE'");
    };
    if last == u64::MAX || size.is_some_and(|size| last >= size) {
        return refuse("ends beyond its size");
    }
    if body_len.is_some_and(|len| len != last - first + 1) {
        return refuse("differs from Content-Length");
    }
    Ok(Some((first, last + 1, size)))
}

fn message_headers(headers: &HeaderMap, file: Option<String>) -> Result<HashMap<String, String>> {
    let mut found: HashMap<String, String> = HashMap::new();
    for (name, _) in headers {
        let Some(key) = name.as_str().strip_prefix(HEADER_PREFIX) else { continue };
        if found.contains_key(key) {
            continue;
        }
        // RFC 9110: several of a name are one, with commas.
        let values = headers.get_all(name).map(|value| std::str::from_utf8(value.as_bytes()));
        let values: Result<Vec<_>, _> = values.collect();
        let values = values.map_err(|_| Error::invalid(name.as_str(), "is not UTF-8"))?;
        found.insert(key.into(), values.join(", "));
    }
    for name in [CONTENT_TYPE, CONTENT_ENCODING] {
        if let Some(value) = text(headers, name.as_str())? {
            found.entry(name.as_str().into()).or_insert_with(|| value.into());
        }
    }
    if let Some(file) = file {
        if let Some(guess) = mime_guess::from_path(&file).first_raw() {
            found.entry(CONTENT_TYPE.as_str().into()).or_insert_with(|| guess.into());
        }
        found.entry("path".into()).or_insert(file);
    }
    Ok(found)
}

fn ttl(given: &str) -> Result<prost_types::Duration> {
    let ttl = humantime::parse_duration(given).ok().and_then(|ttl| prost_types::Duration::try_from(ttl).ok());
    ttl.ok_or_else(|| Error::invalid("Mts-Ttl", format!("'{given}' is no duration: give one such as 30s or 7d")))
}

fn sequence(given: &str) -> Result<u64> {
    given.parse().map_err(|_| Error::invalid("Mts-Expected-Last-Sequence", format!("'{given}' is no sequence")))
}

fn deliver_at(given: &str) -> Result<prost_types::Timestamp> {
    let time = rfc3339(given).ok_or_else(|| {
        Error::invalid("Mts-Deliver-At", format!("'{given}' is no time: give one such as 2030-01-31T12:00:00Z"))
    })?;
    Ok(prost_types::Timestamp::from(time))
}

/// A time of RFC 3339, in any zone.
fn rfc3339(given: &str) -> Option<SystemTime> {
    let Some((local, [sign, hours @ .., _, _, _])) = given
        .len()
        .checked_sub(6)
        .and_then(|at| Some((given.get(..at)?, given.as_bytes().get(at..)?)))
        .filter(|(_, zone)| matches!(zone, [b'+' | b'-', _, _, b':', _, _]))
    else {
        return humantime::parse_rfc3339(given).ok();
    };
    let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse::<u64>().ok();
    let offset = Duration::from_secs(number(hours)? * 3600 + number(&given.as_bytes()[given.len() - 2..])? * 60);
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    let time = if *sign == b'-' { local.checked_add(offset) } else { local.checked_sub(offset) };
    time.filter(|time| *time >= UNIX_EPOCH)
}

/// Nobody can guess it: an upload without an id is nobody else's.
fn random_id() -> String {
    let random = || RandomState::new().hash_one(SystemTime::now());
    format!("http-{:016x}{:016x}", random(), random())
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn read(headers: &[(&str, &str)]) -> Result<Announced> {
        let request = TestRequest::with_uri("/v1/messages/a.b/film.mp4");
        let request = headers.iter().fold(request, |request, header| request.insert_header(*header));
        Announced::read(&request.to_http_request())
    }

    fn refusal(headers: &[(&str, &str)]) -> String {
        read(headers).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn headers_of_a_request_become_those_of_a_message() {
        let announced = read(&[("mts-header-Trace-Id", "7"), ("mts-ttl", "7d"), ("content-length", "3")]).unwrap();
        let message = announced.header.message.unwrap();
        let mut headers: Vec<_> = message.headers.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        headers.sort_unstable();
        assert_eq!(headers, [("content-type", "video/mp4"), ("path", "film.mp4"), ("trace-id", "7")]);
        assert_eq!((message.subject.as_str(), message.ttl.unwrap().seconds), ("a.b", 7 * 86_400));
        assert_eq!((announced.header.size, announced.is_last, announced.is_resumable), (Some(3), true, false));
        assert!(announced.header.upload_id.len() > 32);
    }

    #[test]
    fn a_range_says_where_the_body_goes_on() {
        let id = ("mts-upload-id", "u");
        let range = |range, len| read(&[id, ("content-range", range), ("content-length", len)]);
        let rest = range("bytes 5-9/10", "5").unwrap();
        assert_eq!((rest.header.offset, rest.header.size, rest.is_last), (5, Some(10), true));
        let part = range("bytes 0-4/10", "5").unwrap();
        assert_eq!((part.header.offset, part.header.size, part.is_last), (0, Some(10), false));
        assert!(!range("bytes 0-4/*", "5").unwrap().is_last);
        for (wrong, len) in [
            ("bytes 5-9/9", "5"),
            ("bytes 5-9/10", "4"),
            ("bytes */10", "0"),
            ("items 0-1/2", "2"),
            ("bytes 9-5/10", "5"),
        ] {
            assert!(range(wrong, len).is_err(), "{wrong}");
        }
        assert!(refusal(&[("content-range", "bytes 5-9/10"), ("content-length", "5")]).contains("Mts-Upload-Id"));
        assert!(read(&[("content-range", "bytes 0-9/10"), ("content-length", "10")]).is_ok(), "all of it");
    }

    #[test]
    fn times_are_read_in_any_zone() {
        let noon = humantime::parse_rfc3339("2030-01-31T12:00:00Z").ok();
        for text in ["2030-01-31T12:00:00Z", "2030-01-31T13:30:00+01:30", "2030-01-31T07:00:00-05:00"] {
            assert_eq!(rfc3339(text), noon, "{text}");
        }
        for text in ["", "noon", "2030-01-31", "2030-01-31T12:00:00+1:30", "1970-01-01T00:00:00+01:00", "é+01:00"] {
            assert_eq!(rfc3339(text), None, "{text}");
        }
        assert!(refusal(&[("mts-deliver-at", "tomorrow")]).contains("tomorrow"));
        assert!(refusal(&[("mts-ttl", "long")]).contains("30s"));
    }
}
