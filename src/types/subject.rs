use std::{fmt, sync::Arc};

use crate::error::{Error, Result};

/// The name of a stream of messages: tokens separated by dots, such as `orders.eu.new`.
///
/// At most 255 bytes; tokens are non-empty and hold printable, non-space UTF-8 except `*` and `>`, which belong to
/// [`SubjectFilter`](super::SubjectFilter). Cloning copies a reference.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(Arc<str>);

impl Subject {
    /// Longest subject, in bytes.
    pub const BYTES_MAX: usize = 255;

    /// Checks a name given by a user; `field` names it in the error.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the rule that the name breaks.
    pub fn parse(field: &str, name: &str) -> Result<Self> {
        check_tokens(name, |token| {
            token
                .contains(['*', '>'])
                .then_some("a wildcard cannot stand here: give a full subject without '*' and '>'")
        })
        .map_err(|problem| Error::invalid(field, problem))?;
        Ok(Self(name.into()))
    }

    /// The subject of messages that wait for their time.
    pub fn scheduled() -> Self {
        Self("$scheduled".into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for subjects that the broker alone writes to: dead letters, scheduled messages.
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with(RESERVED)
    }
}

/// The first character of subjects that are the broker's. A wildcard in the first place does not stand for them (the rule
/// of MQTT 5.0, 4.7.2), so that `>` is everything that was published, and not its dead letters again.
pub(super) const RESERVED: char = '$';

/// Checks length, tokens and characters; `token_rule` adds a rule of the caller's for each token.
pub(super) fn check_tokens(name: &str, token_rule: impl Fn(&str) -> Option<&'static str>) -> Result<(), String> {
    if name.is_empty() {
        return Err("is empty: give 1 to 255 bytes, such as 'orders.new'".into());
    }
    if name.len() > Subject::BYTES_MAX {
        return Err(format!("has {} bytes: at most {} are allowed", name.len(), Subject::BYTES_MAX));
    }
    for token in name.split('.') {
        if token.is_empty() {
            return Err(format!("'{}' has an empty token: remove the extra dot", name.escape_debug()));
        }
        if let Some(bad) = token.chars().find(|c| c.is_whitespace() || c.is_control()) {
            return Err(format!(
                "'{}' holds {bad:?}: spaces and control characters are not allowed",
                name.escape_debug()
            ));
        }
        if let Some(problem) = token_rule(token) {
            return Err(format!("'{}': {problem}", name.escape_debug()));
        }
    }
    Ok(())
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_the_rules_allow() {
        for name in ["a", "orders.eu-1.new_2", "événements.日本", &"x".repeat(255)] {
            assert_eq!(Subject::parse("subject", name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn refuses_what_they_do_not() {
        let too_long = "x".repeat(256);
        for (name, says) in [
            ("", "is empty"),
            (too_long.as_str(), "256 bytes"),
            ("a..b", "empty token"),
            (".a", "empty token"),
            ("a.", "empty token"),
            ("a b", "spaces"),
            ("a\u{0}b", "control"),
            ("a.*", "wildcard"),
            ("a.>", "wildcard"),
            ("a*b", "wildcard"),
        ] {
            let error = Subject::parse("subject", name).unwrap_err().to_string();
            assert!(error.contains(says), "{name:?}: {error}");
        }
    }
}
