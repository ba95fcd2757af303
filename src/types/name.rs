use std::fmt;

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
