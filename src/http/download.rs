//! `GET` and `HEAD`: a message, or a part of it.

use std::time::Instant;

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    body::SizedStream,
    http::header::{self, EntityTag, HeaderName, HeaderValue},
    http::{Method, StatusCode},
    web,
};
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;

use super::{
    announced::HEADER_PREFIX,
    conditions::{Validators, Wanted},
    refusal::Refusal,
    target::{Target, encode, location},
    transfers::{Ticket, Transfers},
};
use crate::{
    admission::Permit,
    block::object::Tally,
    broker::read::{DataRead, Found},
    error::{Error, Result},
    metrics::{Metrics, Operation, Service},
    store::reader::Stored,
    types::{Subject, hex},
};

/// Bytes given to the connection at a time: it copies them.
const PIECE: usize = 128 << 10;

/// Stands for the newest message of a subject, where a sequence would.
const LAST: &str = "last";

/// What a stored page may do in a browser: show itself, and nothing as a page of this server.
const POLICY: &str = "sandbox; default-src 'none'; media-src 'self'; img-src 'self'; style-src 'unsafe-inline'";

/// Gives a message.
pub(super) async fn get(request: HttpRequest, transfers: web::Data<Transfers>) -> Result<HttpResponse, Refusal> {
    let timed = Timed(Instant::now(), transfers.broker.metrics.clone());
    let ticket = transfers.enter()?;
    let target = Target::parse(request.uri().path())?;
    let is_fixed = target.tail.as_deref() != Some(LAST);
    let found = find(&transfers, target).await?;
    let message = &found.message;
    let validators = Validators {
        etag: EntityTag::new_strong(hex(&sha256(message))),
        modified: Validators::seconds(message.record.created.0),
        size: message.size(),
        is_fixed,
    };
    let size = validators.size;
    let (status, first, len) = match validators.judge(&request) {
        Wanted::Whole => (StatusCode::OK, 0, size),
        Wanted::Part { first, len } => (StatusCode::PARTIAL_CONTENT, first, len),
        Wanted::NotModified => {
            let mut response = HttpResponse::NotModified();
            describe(&mut response, message, &validators);
            return Ok(response.finish());
        }
        Wanted::Other => {
            let text =
                format!("message {} of '{}' has another ETag than If-Match names", message.sequence, message.subject);
            return Err(Refusal::new(StatusCode::PRECONDITION_FAILED, text));
        }
        Wanted::Beyond => {
            let mut response = HttpResponse::RangeNotSatisfiable();
            response.insert_header((header::CONTENT_RANGE, format!("bytes */{size}")));
            response.insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"));
            return Ok(
                response.json(json!({ "error": format!("the range begins beyond the end: there are {size} bytes") }))
            );
        }
    };
    let mut response = HttpResponse::build(status);
    describe(&mut response, message, &validators);
    if status == StatusCode::PARTIAL_CONTENT {
        response.insert_header((header::CONTENT_RANGE, format!("bytes {first}-{}/{size}", first + len - 1)));
    }
    if request.method() == Method::HEAD {
        return Ok(response.body(SizedStream::new(len, stream::empty::<Result<Bytes>>())));
    }
    let subject = message.subject.clone();
    let mut read = transfers.broker.read_data(found, first, Some(len))?;
    // What is damaged at its beginning is refused with a status, not with a broken connection.
    let piece = read.next().await?;
    if status == StatusCode::OK {
        transfers.broker.metrics.messages(Service::Egress, &subject, "ok", 1);
    }
    let outflow = Outflow { read, piece, _ticket: ticket, _timed: timed };
    let pieces = stream::try_unfold(outflow, |mut outflow| async move {
        let piece = outflow.next().await.inspect_err(|error| tracing::warn!(%error, "a download was broken off"))?;
        Ok::<_, Error>(piece.map(|piece| (piece, outflow)))
    });
    Ok(response.body(SizedStream::new(len, Box::pin(pieces))))
}

async fn find(transfers: &Transfers, target: Target) -> Result<Found> {
    let subject = Subject::parse("subject", &target.subject)?;
    match target.tail.as_deref() {
        Some(LAST) => transfers.broker.find_last(&subject).await,
        tail => {
            let sequence = tail.and_then(|sequence| sequence.parse().ok()).ok_or_else(|| {
                let given = tail.unwrap_or_default();
                Error::invalid(
                    "sequence",
                    format!("'{given}' is no number: ask for {}, or for .../last", location(subject.as_str(), 1)),
                )
            })?;
            transfers.broker.find(&subject, sequence).await
        }
    }
}

fn sha256(message: &Stored) -> [u8; 32] {
    message.object.as_ref().map_or_else(|| Tally::of(&message.record.data).sha256(), |object| object.sha256)
}

/// Says all about a message but its data.
fn describe(response: &mut HttpResponseBuilder, message: &Stored, validators: &Validators) {
    let Stored { subject, sequence, stream_sequence, record, .. } = message;
    response
        .insert_header((header::ETAG, validators.etag.to_string()))
        .insert_header(header::LastModified(validators.last_modified()))
        .insert_header((header::ACCEPT_RANGES, "bytes"))
        .insert_header((header::CONTENT_LOCATION, location(subject.as_str(), *sequence)))
        .insert_header((header::CONTENT_TYPE, "application/octet-stream"))
        // A sequence may be purged, and "last" may be another tomorrow: whoever keeps a copy asks with its ETag.
        .insert_header((header::CACHE_CONTROL, "private, no-cache"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header(("cross-origin-resource-policy", "same-origin"))
        .insert_header(("mts-sequence", sequence.to_string()))
        .insert_header(("mts-stream-sequence", stream_sequence.to_string()));
    for (name, value) in &record.headers {
        let own = match name.to_ascii_lowercase().as_str() {
            "content-type" => Some(header::CONTENT_TYPE),
            "content-encoding" => Some(header::CONTENT_ENCODING),
            _ => None,
        };
        if let (Some(own), Ok(value)) = (own, HeaderValue::from_str(value)) {
            response.insert_header((own, value));
        }
        if name.eq_ignore_ascii_case("path") {
            let file = value.rsplit(['/', '\\']).next().unwrap_or_default();
            let disposition = format!("inline; filename*=UTF-8''{}", encode(file));
            response.insert_header((header::CONTENT_DISPOSITION, disposition));
        }
        let as_it_is = HeaderName::from_bytes(format!("{HEADER_PREFIX}{name}").as_bytes());
        let name = as_it_is.or_else(|_| HeaderName::from_bytes(format!("{HEADER_PREFIX}{}", encode(name)).as_bytes()));
        // Spaces around a value would be lost, and clients disagree on what is beyond ASCII.
        let is_plain = value.trim() == value && value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        let value = HeaderValue::from_str(&if is_plain { value.clone() } else { encode(value) });
        if let (Ok(name), Ok(value)) = (name, value) {
            response.append_header((name, value));
        }
    }
}

/// Data on its way out. The connection asks for more when it has sent what it had.
struct Outflow {
    read: DataRead,
    /// What is being sent, with the permit for it.
    piece: Option<(Bytes, Permit)>,
    _ticket: Ticket,
    _timed: Timed,
}

impl Outflow {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.piece.as_ref().is_none_or(|(piece, _)| piece.is_empty()) {
            self.piece = None;
            self.piece = self.read.next().await?;
        }
        Ok(self.piece.as_mut().map(|(piece, _)| piece.split_to(piece.len().min(PIECE))))
    }
}

/// Measures how long a download takes, however it ends.
struct Timed(Instant, Metrics);

impl Drop for Timed {
    fn drop(&mut self) {
        self.1.latency(Operation::HttpGet, self.0.elapsed());
    }
}
