use std::{fmt, time::Duration};

use crate::error::{Error, Result, Violation};

/// Fewest bytes of a part: S3 refuses smaller ones.
pub const PART_MIN: u64 = 5 << 20;

/// Most bytes of a part: each upload keeps up to three in memory.
pub const PART_MAX: u64 = 512 << 20;

/// Parts have a multiple of so many bytes: writes of uploads end there, and what can be gone on with ends with both.
pub const PART_STEP: u64 = 1 << 20;

/// Most parts of an object: S3 refuses more.
pub const PARTS_MAX: u64 = 10_000;

/// How to reach a bucket, and how hard to work it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port`, or a URL. A scheme in it goes before [`use_ssl`](Self::use_ssl).
    pub endpoint: String,
    /// Names the key that requests are signed with.
    pub access_key: String,
    /// The key that requests are signed with.
    pub secret_key: Secret,
    /// Comes with temporary keys.
    pub session_token: Option<Secret>,
    /// The bucket; others may use it too, under another [`prefix`](Self::prefix).
    pub bucket: String,
    /// Part of the signature; servers that have no regions take `us-east-1`.
    pub region: String,
    /// True for `host/bucket/key`, false for `bucket.host/key`.
    pub path_style: bool,
    /// True for HTTPS. Certificates are checked against the public authorities.
    pub use_ssl: bool,
    /// What all keys begin with: empty, or `letters.-_/` that end with a slash.
    pub prefix: String,
    /// Makes the bucket at the start if it is not there.
    pub create_bucket: bool,
    /// Bytes of a part of an object: a multiple of [`PART_STEP`] between [`PART_MIN`] and [`PART_MAX`]. The largest object has
    /// [`PARTS_MAX`] of them.
    pub part_size: u64,
    /// Parts of one object under way at a time, 1 to 16.
    pub parts_per_object: usize,
    /// Parts of all objects under way at a time, 1 to 1024.
    pub parts: usize,
    /// How long a server may say nothing. Long bodies get more: a second for each 128 KiB.
    pub timeout: Duration,
    /// How often a request is sent before its failure counts, 1 to 10.
    pub attempts: u32,
}

impl Settings {
    /// Settings for a bucket with path-style keys and the defaults of everything else.
    pub fn new(endpoint: &str, access_key: &str, secret_key: &str, bucket: &str) -> Self {
        Self {
            endpoint: endpoint.into(),
            access_key: access_key.into(),
            secret_key: Secret::new(secret_key),
            session_token: None,
            bucket: bucket.into(),
            region: "us-east-1".into(),
            path_style: true,
            use_ssl: false,
            prefix: String::new(),
            create_bucket: false,
            part_size: 8 << 20,
            parts_per_object: 2,
            parts: 8,
            timeout: Duration::from_secs(10),
            attempts: 5,
        }
    }

    /// Bytes of the largest object that fits the parts.
    pub fn object_max(&self) -> u64 {
        self.part_size * PARTS_MAX
    }

    /// Checks all of them.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every rule that is broken.
    pub fn validate(&self) -> Result<()> {
        let mut violations = Vec::new();
        let mut rule = |holds: bool, field: &str, problem: String| {
            if !holds {
                violations.push(Violation { field: field.into(), problem });
            }
        };
        rule(!self.endpoint.is_empty(), "s3.endpoint", "is empty: give host:port".into());
        rule(!self.access_key.is_empty(), "s3.access_key", "is empty: give the name of the key".into());
        rule(!self.secret_key.expose().is_empty(), "s3.secret_key", "is empty: give the key".into());
        let is_bucket = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || ".-".contains(letter);
        rule(
            (3..=63).contains(&self.bucket.len()) && self.bucket.chars().all(is_bucket),
            "s3.bucket",
            format!("'{}' is no bucket's name: 3 to 63 of a-z, 0-9, '.' and '-'", self.bucket),
        );
        let is_prefix = |letter: char| letter.is_ascii_alphanumeric() || "._-/".contains(letter);
        rule(
            self.prefix.is_empty()
                || self.prefix.len() <= 512
                    && self.prefix.ends_with('/')
                    && !self.prefix.starts_with('/')
                    && self.prefix.chars().all(is_prefix),
            "s3.prefix",
            format!(
                "'{}' must be empty or up to 512 letters, digits, '._-/', with a slash at its end only",
                self.prefix
            ),
        );
        rule(
            (PART_MIN..=PART_MAX).contains(&self.part_size) && self.part_size.is_multiple_of(PART_STEP),
            "s3.part_size",
            format!("{} bytes is no whole number of MiB from 5 MiB to 512 MiB", self.part_size),
        );
        let number =
            |value: usize, max: usize| ((1..=max).contains(&value), format!("{value} is not between 1 and {max}"));
        let (holds, problem) = number(self.parts_per_object, 16);
        rule(holds, "s3.parts_per_object", problem);
        let (holds, problem) = number(self.parts, 1024);
        rule(holds, "s3.parts", problem);
        let (holds, problem) = number(self.attempts as usize, 10);
        rule(holds, "s3.attempts", problem);
        let range = Duration::from_millis(100)..=Duration::from_secs(600);
        rule(range.contains(&self.timeout), "s3.timeout", format!("{:?} is not between 100ms and 10m", self.timeout));
        if violations.is_empty() { Ok(()) } else { Err(Error::Invalid(violations)) }
    }

    /// The endpoint with its scheme.
    pub(super) fn url(&self) -> String {
        let endpoint = self.endpoint.trim_end_matches('/');
        match (endpoint.contains("://"), self.use_ssl) {
            (true, _) => endpoint.into(),
            (false, true) => format!("https://{endpoint}"),
            (false, false) => format!("http://{endpoint}"),
        }
    }
}

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let mut settings = Settings::new("localhost:9000", "key", "very-secret", "bucket");
        settings.session_token = Some(Secret::new("very-secret-too"));
        assert!(!format!("{settings:?} {settings:#?}").contains("very-secret"));
    }

    #[test]
    fn every_broken_rule_is_reported() {
        let settings = Settings {
            prefix: "/a".into(),
            part_size: 1,
            parts: 0,
            parts_per_object: 17,
            attempts: 0,
            timeout: Duration::ZERO,
            ..Settings::new("", "", "", "A")
        };
        let Err(Error::Invalid(violations)) = settings.validate() else { panic!("accepted") };
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        let names = "endpoint access_key secret_key bucket prefix part_size parts_per_object parts attempts timeout";
        let expected: Vec<_> = names.split(' ').map(|name| format!("s3.{name}")).collect();
        assert_eq!(fields, expected);
        Settings { prefix: "a/b/".into(), ..Settings::new("localhost:9000", "key", "secret", "bucket") }
            .validate()
            .unwrap();
    }

    #[test]
    fn parts_end_where_writes_of_uploads_do() {
        let settings = |part_size| Settings { part_size, ..Settings::new("localhost:9000", "key", "secret", "bucket") };
        for part_size in [PART_MIN, 6 << 20, PART_MAX] {
            settings(part_size).validate().unwrap();
        }
        for part_size in [PART_MIN - 1, PART_MIN + 1, 6_000_000, PART_MAX + (1 << 20)] {
            let Err(Error::Invalid(violations)) = settings(part_size).validate() else { panic!("{part_size}") };
            let Violation { field, problem } = &violations[0];
            assert_eq!((violations.len(), field.as_str()), (1, "s3.part_size"));
            assert!(problem.contains("5 MiB to 512 MiB") && problem.contains(&part_size.to_string()), "{problem}");
        }
    }

    #[test]
    fn a_scheme_in_the_endpoint_counts() {
        let url = |endpoint, use_ssl| Settings { use_ssl, ..Settings::new(endpoint, "", "", "") }.url();
        assert_eq!(url("localhost:9000", false), "http://localhost:9000");
        assert_eq!(url("s3.example.com", true), "https://s3.example.com");
        assert_eq!(url("http://localhost:9000/", true), "http://localhost:9000");
    }
}
