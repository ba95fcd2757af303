//! The one table from errors to HTTP statuses.

use std::{fmt, time::Duration};

use actix_web::{HttpResponse, ResponseError, http::StatusCode, http::header};
use serde_json::json;

use crate::error::Error;

/// The status of an error.
fn code(error: &Error) -> StatusCode {
    match error {
        Error::Invalid(_) => StatusCode::BAD_REQUEST,
        Error::NotFound(_) => StatusCode::NOT_FOUND,
        Error::Conflict(_) => StatusCode::CONFLICT,
        Error::Precondition(_) => StatusCode::PRECONDITION_FAILED,
        Error::Exhausted { .. } => StatusCode::TOO_MANY_REQUESTS,
        Error::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Error::DataLoss(_) => StatusCode::INTERNAL_SERVER_ERROR,
        Error::Mismatch(_) => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

/// An answer that says no, and why.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    text: String,
    retry_after: Option<Duration>,
}

impl Refusal {
    /// One that no error of the broker stands for.
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), retry_after: None }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let retry_after = match &error {
            Error::Exhausted { retry_after, .. } | Error::Unavailable { retry_after, .. } => Some(*retry_after),
            _ => None,
        };
        Self { status: code(&error), text: error.to_string(), retry_after }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        response.insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"));
        if let Some(wait) = self.retry_after {
            // The header knows whole seconds.
            response.insert_header((header::RETRY_AFTER, wait.as_millis().div_ceil(1000).max(1).to_string()));
        }
        response.json(json!({ "error": self.text }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_statuses() {
        let retry_after = Duration::from_millis(1250);
        let table = [
            (Error::invalid("subject", "is empty"), 400, "subject is empty", None),
            (Error::NotFound("no such message".into()), 404, "no such message", None),
            (Error::Conflict("the subject moved on".into()), 409, "the subject moved on", None),
            (Error::Precondition("another goes on".into()), 412, "another goes on", None),
            (Error::Exhausted { what: "full".into(), retry_after }, 429, "full", Some("2")),
            (Error::Unavailable { what: "down".into(), retry_after }, 503, "down", Some("2")),
            (Error::DataLoss("block 7 is damaged".into()), 500, "block 7 is damaged", None),
            (Error::Mismatch("it has another SHA-256".into()), 422, "it has another SHA-256", None),
        ];
        for (error, status, text, wait) in table {
            let refusal = Refusal::from(error);
            assert_eq!((refusal.to_string().as_str(), refusal.status_code().as_u16()), (text, status));
            let response = refusal.error_response();
            let given = response.headers().get(header::RETRY_AFTER).map(|wait| wait.to_str().unwrap());
            assert_eq!(given, wait, "{text}");
        }
    }
}
