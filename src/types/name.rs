use std::{fmt, sync::Arc};

use super::Subject;
use crate::error::{Error, Result};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $bytes_max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// Longest name, in bytes.
            pub const BYTES_MAX: usize = $bytes_max;

            /// Checks a name given by a user; `field` names it in the error.
            ///
            /// # Errors
            /// [`Error::Invalid`] if the name is empty, too long or holds control characters.
            pub fn parse(field: &str, name: &str) -> Result<Self> {
                check(name, Self::BYTES_MAX).map_err(|problem| Error::invalid(field, problem))?;
                Ok(Self(name.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name! {
    /// The name under which a consumer's position is kept. At most 255 bytes, no control characters.
    DurableName, 255
}

name! {
    /// A publisher's own id of a message, for deduplication. At most 128 bytes, no control characters.
    MessageId, 128
}

name! {
    /// The name that an uploader gives an upload, to continue it. At most 128 bytes, no control characters.
    UploadId, 128
}

/// The name of a consumer with leases: one token of a subject, so that `$dlq.<name>` is a subject. At most 128 bytes.
///
/// Consumers and the cursors of [`DurableName`] are kept apart, also where names are equal.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConsumerName(Arc<str>);

impl ConsumerName {
    /// Longest name, in bytes.
    pub const BYTES_MAX: usize = 128;

    /// Checks a name given by a user; `field` names it in the error.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the rule that the name breaks.
    pub fn parse(field: &str, name: &str) -> Result<Self> {
        check(name, Self::BYTES_MAX).map_err(|problem| Error::invalid(field, problem))?;
        match Subject::parse(field, name) {
            Ok(_) if !name.contains('.') => Ok(Self(name.into())),
            _ => {
                let problem = format!("'{name}' holds a space, a dot, '*' or '>': give one token, such as 'billing'");
                Err(Error::invalid(field, problem))
            }
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The subject that holds its dead letters unless its settings name another.
    pub fn dead_letters(&self) -> Subject {
        Subject::parse("dead_letter_subject", &format!("{DEAD_LETTERS}.{self}"))
            .expect("a token of at most 128 bytes makes a subject")
    }
}

impl fmt::Display for ConsumerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ConsumerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// First token of the subjects of dead letters.
const DEAD_LETTERS: &str = "$dlq";

fn check(name: &str, bytes_max: usize) -> Result<(), String> {
    if name.is_empty() {
        return Err(format!("is empty: give 1 to {bytes_max} bytes"));
    }
    if name.len() > bytes_max {
        return Err(format!("has {} bytes: at most {bytes_max} are allowed", name.len()));
    }
    if name.chars().any(char::is_control) {
        return Err(format!("'{}' holds control characters", name.escape_debug()));
    }
    Ok(())
}
