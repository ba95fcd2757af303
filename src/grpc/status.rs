//! The one table from errors to gRPC statuses.

use std::time::Duration;

use minitoolstream_proto::PublishError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::error::Error;

/// The status code of an error.
pub(super) fn code(error: &Error) -> Code {
    match error {
        Error::Invalid(_) => Code::InvalidArgument,
        Error::NotFound(_) => Code::NotFound,
        Error::Conflict(_) => Code::Aborted,
        Error::Precondition(_) => Code::FailedPrecondition,
        Error::Exhausted { .. } => Code::ResourceExhausted,
        Error::Unavailable { .. } => Code::Unavailable,
        Error::DataLoss(_) | Error::Mismatch(_) => Code::DataLoss,
    }
}

/// The status of an error, with field violations or the time to wait as details.
pub(super) fn status(error: &Error) -> Status {
    let mut details = ErrorDetails::new();
    match error {
        Error::Invalid(violations) => {
            let violations =
                violations.iter().map(|violation| FieldViolation::new(&violation.field, &violation.problem));
            details.set_bad_request(violations.collect::<Vec<_>>());
        }
        Error::Exhausted { retry_after, .. } | Error::Unavailable { retry_after, .. } => {
            details.set_retry_info(Some(*retry_after));
        }
        Error::NotFound(_) | Error::Conflict(_) | Error::Precondition(_) | Error::DataLoss(_) | Error::Mismatch(_) => {}
    }
    Status::with_error_details(code(error), error.to_string(), details)
}

/// An error as it stands beside the results of other messages.
pub(super) fn publish_error(error: &Error) -> PublishError {
    let retry_after = match error {
        Error::Exhausted { retry_after, .. } | Error::Unavailable { retry_after, .. } => {
            Some(wire_duration(*retry_after))
        }
        Error::Invalid(_)
        | Error::NotFound(_)
        | Error::Conflict(_)
        | Error::Precondition(_)
        | Error::DataLoss(_)
        | Error::Mismatch(_) => None,
    };
    PublishError { code: code(error).into(), message: error.to_string(), retry_after }
}

pub(super) fn wire_duration(duration: Duration) -> prost_types::Duration {
    duration.try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    #[test]
    fn the_table_of_statuses() {
        let retry_after = Duration::from_millis(250);
        let errors = [
            Error::invalid("subject", "is empty"),
            Error::NotFound("no such message".into()),
            Error::Conflict("the subject moved on".into()),
            Error::Precondition("the lease is over".into()),
            Error::Exhausted { what: "full".into(), retry_after },
            Error::Unavailable { what: "down".into(), retry_after },
            Error::DataLoss("block 7 is damaged".into()),
            Error::Mismatch("it has another SHA-256".into()),
        ];
        let mut table = String::new();
        for error in errors {
            let status = status(&error);
            let details = status.get_error_details();
            let fields = details.bad_request().map_or(0, |request| request.field_violations.len());
            let wait = details.retry_info().and_then(|info| info.retry_delay);
            writeln!(
                table,
                "{:?} {:?} [{}] fields={fields} wait={wait:?}",
                status.code(),
                status.message(),
                error.label()
            )
            .unwrap();
        }
        insta::assert_snapshot!(table);
    }
}
