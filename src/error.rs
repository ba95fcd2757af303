//! What can go wrong, in the kinds that a caller acts on differently.

use std::{fmt, time::Duration};

/// The result of an operation of the broker.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A refusal or failure. Each kind asks for another reaction of the caller; the text says what was refused and what to
/// do next.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The request breaks a rule and will do so again: correct it.
    #[error("{}", Violations(.0))]
    Invalid(Vec<Violation>),
    /// The thing named does not exist (any more).
    #[error("{0}")]
    NotFound(String),
    /// The subject has moved on from the state the caller expected: read again, decide again.
    #[error("{0}")]
    Conflict(String),
    /// What the request builds on is no more, or is something else: a lease that is over, a consumer with other
    /// settings. Look at the present state, decide again.
    #[error("{0}")]
    Precondition(String),
    /// A limit is reached now: wait and repeat.
    #[error("{what}")]
    Exhausted {
        /// Which limit, and its value.
        what: String,
        /// How long to wait before repeating.
        retry_after: Duration,
    },
    /// The broker or its store cannot serve now, or the outcome is unknown: repeat, with the same message id.
    #[error("{what}")]
    Unavailable {
        /// What is down.
        what: String,
        /// How long to wait before repeating.
        retry_after: Duration,
    },
    /// Stored bytes are damaged or missing: they are refused, never served.
    #[error("{0}")]
    DataLoss(String),
    /// Data came that does not have the digest its sender announced: send it again.
    #[error("{0}")]
    Mismatch(String),
}

/// One field of a request and the rule it breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field, as the API names it.
    pub field: String,
    /// The rule, the value and the permitted range.
    pub problem: String,
}

impl Error {
    /// A request whose `field` breaks a rule.
    pub fn invalid(field: &str, problem: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation { field: field.into(), problem: problem.into() }])
    }

    /// The store or an actor cannot serve now.
    pub fn unavailable(what: impl Into<String>) -> Self {
        Self::Unavailable { what: what.into(), retry_after: Duration::from_millis(250) }
    }

    /// The request was handed on and its fate was lost: it may or may not have been carried out.
    pub fn outcome_unknown() -> Self {
        Self::unavailable(
            "the outcome is unknown: the request may or may not have been carried out; \
             repeat it with the same message id",
        )
    }

    /// The broker is on its way out.
    pub fn draining() -> Self {
        Self::unavailable("the broker is shutting down: connect again, to it or to another")
    }

    /// The connection is to be replaced by another, which may be opened at once.
    pub fn aged() -> Self {
        Self::Unavailable {
            what: "the connection has reached its age (server.connection_age): connect again".into(),
            retry_after: Duration::ZERO,
        }
    }

    /// The word for it in the label `status` of metrics.
    pub fn label(&self) -> &'static str {
        match self {
            // Both are refused for what they are.
            Self::Invalid(_) | Self::Mismatch(_) => "invalid",
            Self::NotFound(_) => "not_found",
            Self::Conflict(_) => "conflict",
            Self::Precondition(_) => "precondition",
            Self::Exhausted { .. } => "exhausted",
            Self::Unavailable { .. } => "unavailable",
            Self::DataLoss(_) => "data_loss",
        }
    }

    /// True if repeating the same request later may succeed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Exhausted { .. } | Self::Unavailable { .. })
    }
}

struct Violations<'a>(&'a [Violation]);

impl fmt::Display for Violations<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{} {}", violation.field, violation.problem)?;
        }
        Ok(())
    }
}
