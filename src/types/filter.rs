use std::fmt;

use super::subject::{Subject, check_tokens};
use crate::error::{Error, Result};

/// A pattern over subjects: `*` stands for exactly one token, `>` at the end for one or more. In the first place neither
/// stands for a token that begins with `$`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SubjectFilter(Box<str>);

impl SubjectFilter {
    /// Checks a pattern given by a user; `field` names it in the error.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the rule that the pattern breaks.
    pub fn parse(field: &str, pattern: &str) -> Result<Self> {
        let rule = |token: &str| {
            (token.len() > 1 && token.contains(['*', '>']))
                .then_some("a wildcard is a token of its own: 'logs.*', not 'logs.a*'")
        };
        check_tokens(pattern, rule).map_err(|problem| Error::invalid(field, problem))?;
        if pattern.split('.').rev().skip(1).any(|token| token == ">") {
            return Err(Error::invalid(field, format!("'{pattern}': '>' is allowed as the last token only")));
        }
        Ok(Self(pattern.into()))
    }

    /// Stands for every subject, the broker's own among them: no pattern of a user does.
    pub fn all() -> Self {
        Self("".into())
    }

    /// The filter that stands for one subject.
    pub fn one(subject: &Subject) -> Self {
        Self(subject.as_str().into())
    }

    /// The subject, if this pattern stands for one alone.
    pub fn subject(&self) -> Option<Subject> {
        if self.0.is_empty() || self.0.contains(['*', '>']) {
            return None;
        }
        Subject::parse("filter", &self.0).ok()
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if the subject is one that this pattern stands for.
    pub fn matches(&self, subject: &Subject) -> bool {
        if subject.is_reserved() && self.0.starts_with(['*', '>']) {
            return false;
        }
        if self.0.is_empty() {
            return true;
        }
        let mut tokens = subject.as_str().split('.');
        for pattern in self.0.split('.') {
            match (pattern, tokens.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (literal, Some(token)) if literal == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }

    /// The literal text that every matching subject starts with: where an ordered scan can begin.
    pub fn prefix(&self) -> &str {
        let end = self.0.find(['*', '>']).unwrap_or(self.0.len());
        &self.0[..end]
    }
}

impl fmt::Display for SubjectFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SubjectFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_documented() {
        for (pattern, subject, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("*.b", "a.b", true),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
            ("*", "a.b", false),
            (">", "$dlq.a", false),
            ("*.a", "$dlq.a", false),
            ("$dlq.*", "$dlq.a", true),
        ] {
            let filter = SubjectFilter::parse("filter", pattern).unwrap();
            let subject = Subject::parse("subject", subject).unwrap();
            assert_eq!(filter.matches(&subject), expected, "{pattern} on {subject}");
            if expected {
                assert!(subject.as_str().starts_with(filter.prefix()));
            }
        }
    }

    #[test]
    fn refuses_misplaced_wildcards() {
        for pattern in ["", "a.b*", ">.a", "a.>.b", "a..>"] {
            assert!(SubjectFilter::parse("filter", pattern).is_err(), "{pattern}");
        }
    }
}
