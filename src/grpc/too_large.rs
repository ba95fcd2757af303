//! Requests beyond tonic's decoding limit. tonic answers them with `OUT_OF_RANGE`; the API says `INVALID_ARGUMENT`.

use http::{HeaderValue, Response};
use tonic::{Code, Status, body::Body};

const TOO_LARGE: &str = "message length too large";

/// The status of a refused frame of a stream, as the API says it.
pub(super) fn renamed(status: Status) -> Status {
    if status.code() == Code::OutOfRange && status.message().contains(TOO_LARGE) {
        return Status::invalid_argument(format!("{}: see limits.message_max", status.message()));
    }
    status
}

/// The response to a refused unary request, as the API says it.
pub(super) fn rename_response(mut response: Response<Body>) -> Response<Body> {
    if let Some(status) = Status::from_header_map(response.headers())
        && status.code() == Code::OutOfRange
        && status.message().contains(TOO_LARGE)
    {
        let code = HeaderValue::from(i32::from(Code::InvalidArgument));
        response.headers_mut().insert(Status::GRPC_STATUS, code);
    }
    response
}
