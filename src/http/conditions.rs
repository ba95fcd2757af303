//! What of a message a reader wants, by RFC 9110: conditions (13) and ranges (14).

use std::time::{Duration, SystemTime};

use actix_web::{
    HttpMessage, HttpRequest,
    http::Method,
    http::header::{self, EntityTag, HttpDate, IfMatch, IfNoneMatch, IfRange, Range},
};

/// What a reader already has may be the same, or must be.
pub(super) struct Validators {
    pub(super) etag: EntityTag,
    pub(super) modified: SystemTime,
    pub(super) size: u64,
    /// True if the path never stands for another message. Otherwise two of them may be of one second, and dates are weak.
    pub(super) is_fixed: bool,
}

/// What the reader is to get.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Whole,
    /// So many bytes from there.
    Part {
        first: u64,
        len: u64,
    },
    /// It has all of it.
    NotModified,
    /// Another message than it expects.
    Other,
    /// Bytes beyond the end.
    Beyond,
}

impl Validators {
    /// Judges a request, in the order of RFC 9110, 13.2.2.
    pub(super) fn judge(&self, request: &HttpRequest) -> Wanted {
        let headers = request.headers();
        if headers.contains_key(header::IF_MATCH) {
            let matches = match request.get_header::<IfMatch>() {
                Some(IfMatch::Any) => true,
                Some(IfMatch::Items(tags)) => tags.iter().any(|tag| tag.strong_eq(&self.etag)),
                None => false,
            };
            if !matches {
                return Wanted::Other;
            }
        }
        if headers.contains_key(header::IF_NONE_MATCH) {
            let matches = match request.get_header::<IfNoneMatch>() {
                Some(IfNoneMatch::Any) => true,
                Some(IfNoneMatch::Items(tags)) => tags.iter().any(|tag| tag.weak_eq(&self.etag)),
                None => false,
            };
            if matches {
                return Wanted::NotModified;
            }
        }
        if request.method() != Method::GET || !self.range_holds(request) {
            return Wanted::Whole;
        }
        match request.get_header::<Range>() {
            // Several ranges may be answered with the whole, and are rare.
            Some(Range::Bytes(ranges)) if ranges.len() == 1 => match ranges[0].to_satisfiable_range(self.size) {
                Some((first, last)) => Wanted::Part { first, len: last - first + 1 },
                None => Wanted::Beyond,
            },
            _ => Wanted::Whole,
        }
    }

    /// False if the reader has the beginning of something else.
    fn range_holds(&self, request: &HttpRequest) -> bool {
        if !request.headers().contains_key(header::IF_RANGE) {
            return true;
        }
        match request.get_header::<IfRange>() {
            Some(IfRange::EntityTag(tag)) => tag.strong_eq(&self.etag),
            Some(IfRange::Date(date)) => self.is_fixed && SystemTime::from(date) == self.modified,
            None => false,
        }
    }

    /// The time in the precision of HTTP.
    pub(super) fn seconds(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(millis / 1000)
    }

    pub(super) fn last_modified(&self) -> HttpDate {
        self.modified.into()
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn judge(size: u64, headers: &[(&str, &str)]) -> Wanted {
        judge_of(true, size, headers)
    }

    fn judge_of(is_fixed: bool, size: u64, headers: &[(&str, &str)]) -> Wanted {
        let (etag, modified) = (EntityTag::new_strong("e".into()), Validators::seconds(784_111_777_999));
        let request = headers.iter().fold(TestRequest::get(), |request, header| request.insert_header(*header));
        Validators { etag, modified, size, is_fixed }.judge(&request.to_http_request())
    }

    #[test]
    fn ranges() {
        let part = |first, len| Wanted::Part { first, len };
        for (size, range, wanted) in [
            (10, "bytes=0-0", part(0, 1)),
            (10, "bytes=3-5", part(3, 3)),
            (10, "bytes=3-", part(3, 7)),
            (10, "bytes=3-99", part(3, 7)),
            (10, "bytes=-4", part(6, 4)),
            (10, "bytes=-99", part(0, 10)),
            (10, "bytes=10-", Wanted::Beyond),
            (10, "bytes=-0", Wanted::Beyond),
            (0, "bytes=0-", Wanted::Beyond),
            (10, "bytes=0-1,4-5", Wanted::Whole),
            (10, "bytes=5-3", Wanted::Whole),
            (10, "items=0-1", Wanted::Whole),
            (10, "nonsense", Wanted::Whole),
        ] {
            assert_eq!(judge(size, &[("range", range)]), wanted, "{range} of {size}");
        }
    }

    #[test]
    fn conditions() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (name, value, wanted) in [
            ("if-match", "\"e\"", Wanted::Part { first: 3, len: 7 }),
            ("if-match", "*", Wanted::Part { first: 3, len: 7 }),
            ("if-match", "W/\"e\"", Wanted::Other),
            ("if-match", "\"x\", \"y\"", Wanted::Other),
            ("if-none-match", "\"x\", W/\"e\"", Wanted::NotModified),
            ("if-none-match", "*", Wanted::NotModified),
            ("if-none-match", "\"x\"", Wanted::Part { first: 3, len: 7 }),
            ("if-range", "\"e\"", Wanted::Part { first: 3, len: 7 }),
            ("if-range", "\"x\"", Wanted::Whole),
            ("if-range", "W/\"e\"", Wanted::Whole),
            ("if-range", date, Wanted::Part { first: 3, len: 7 }),
            ("if-range", "Sun, 06 Nov 1994 08:49:38 GMT", Wanted::Whole),
        ] {
            assert_eq!(judge(10, &[("range", "bytes=3-"), (name, value)]), wanted, "{name}: {value}");
        }
    }

    #[test]
    fn a_date_does_not_tell_two_messages_of_one_second_apart() {
        let date = ("if-range", "Sun, 06 Nov 1994 08:49:37 GMT");
        let range = ("range", "bytes=3-");
        assert_eq!(judge_of(true, 10, &[range, date]), Wanted::Part { first: 3, len: 7 });
        assert_eq!(judge_of(false, 10, &[range, date]), Wanted::Whole);
        assert_eq!(judge_of(false, 10, &[range, ("if-range", "\"e\"")]), Wanted::Part { first: 3, len: 7 });
    }
}
