use std::time::Duration;

use minitoolstream_proto::PublishError;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. Each kind asks for another reaction.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The request breaks a rule, which the text names: correct it.
    #[error("{0}")]
    Invalid(String),
    /// The thing named does not exist (any more).
    #[error("{0}")]
    NotFound(String),
    /// The subject moved on from the expected last sequence: read again and decide again.
    #[error("{0}")]
    Conflict(String),
    /// A limit of the broker is reached: wait and repeat.
    #[error("{message}")]
    Exhausted {
        /// Which limit.
        message: String,
        /// How long the broker asks to wait.
        retry_after: Duration,
    },
    /// The broker cannot be reached or cannot serve now. A publish may or may not have been stored: repeat it with the
    /// same message id.
    #[error("{message}")]
    Unavailable {
        /// What is down.
        message: String,
        /// How long the broker asks to wait.
        retry_after: Duration,
    },
    /// The message is no longer this worker's: it is, or will be, delivered again, maybe to another. Stop working on it.
    /// What was said of it may have been done, or not.
    #[error("{0}")]
    LeaseLost(String),
    /// Stored bytes are damaged; the text names them.
    #[error("{0}")]
    DataLoss(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// True if the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Exhausted { .. } | Self::Unavailable { .. })
    }

    /// How long the broker asks to wait before the call is repeated.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Exhausted { retry_after, .. } | Self::Unavailable { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::Unavailable { message: message.into(), retry_after: Duration::from_millis(100) }
    }

    pub(crate) fn of_publish(error: PublishError) -> Self {
        let retry_after = error.retry_after.and_then(|wait| wait.try_into().ok());
        Self::of_code(Code::from(error.code), error.message, retry_after)
    }

    /// Why a broker did not do what was asked of a lease.
    pub(crate) fn of_lease(code: i32, message: String) -> Self {
        match Code::from(code) {
            Code::FailedPrecondition => {
                Self::LeaseLost(format!("the lease is over, the message is or will be delivered again ({message})"))
            }
            code => Self::of_code(code, message, None),
        }
    }

    fn of_code(code: Code, message: String, retry_after: Option<Duration>) -> Self {
        let retry_after = retry_after.unwrap_or(Duration::from_millis(100));
        match code {
            Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => Self::Invalid(message),
            Code::NotFound => Self::NotFound(message),
            Code::Aborted => Self::Conflict(message),
            Code::ResourceExhausted => Self::Exhausted { message, retry_after },
            // What the transport reports when a connection breaks under a call.
            Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Internal => {
                Self::Unavailable { message, retry_after }
            }
            Code::DataLoss => Self::DataLoss(message),
            Code::Unimplemented => {
                Self::Other("the broker does not know this call: it is older than its client".into())
            }
            _ => Self::Other(format!("{message} ({code:?})")),
        }
    }
}

/// Holds the error: `error.get_ref()` and `downcast_ref` give it back.
impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        use std::io::ErrorKind;
        let kind = match &error {
            Error::Invalid(_) => ErrorKind::InvalidInput,
            Error::NotFound(_) => ErrorKind::NotFound,
            Error::Exhausted { .. } => ErrorKind::ResourceBusy,
            Error::Unavailable { .. } => ErrorKind::NotConnected,
            Error::DataLoss(_) => ErrorKind::InvalidData,
            Error::Conflict(_) | Error::LeaseLost(_) | Error::Other(_) => ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let retry_after = status.get_details_retry_info().and_then(|info| info.retry_delay);
        Self::of_code(status.code(), status.message().into(), retry_after)
    }
}
