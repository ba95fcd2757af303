//! Where an upload stands, and its end.

use std::time::Instant;

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use serde_json::json;

use super::{
    origin::refuse_other_sites,
    refusal::Refusal,
    target::{location, upload_id},
    transfers::Transfers,
    upload::UPLOAD_OFFSET,
};
use crate::{
    metrics::Operation,
    store::{Upload, UploadState},
    types::hex,
};

/// Says how far an upload is, or what it came to.
pub(super) async fn get(request: HttpRequest, transfers: web::Data<Transfers>) -> Result<HttpResponse, Refusal> {
    let (started, broker) = (Instant::now(), &transfers.broker);
    let id = upload_id(request.uri().path())?;
    let found = broker.find_upload(&id).await;
    broker.metrics.latency(Operation::HttpUpload, started.elapsed());
    let Upload { state, deadline, .. } = found?;
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CACHE_CONTROL, "no-store"));
    let mut body = json!({ "upload": id, "deadline": deadline.to_rfc3339() });
    let offset = match state {
        UploadState::Open { saved, .. } => saved.offset,
        UploadState::Done { subject, sequence, size, sha256 } => {
            body["published"] =
                json!({ "subject": subject.as_str(), "sequence": sequence, "size": size, "sha256": hex(&sha256) });
            if sequence > 0 {
                response.insert_header((header::LOCATION, location(subject.as_str(), sequence)));
            }
            size
        }
    };
    body["offset"] = offset.into();
    response.insert_header((UPLOAD_OFFSET, offset.to_string()));
    Ok(response.json(body))
}

/// Ends an upload that is not published.
pub(super) async fn delete(request: HttpRequest, transfers: web::Data<Transfers>) -> Result<HttpResponse, Refusal> {
    refuse_other_sites(request.headers())?;
    transfers.broker.abort_upload(&upload_id(request.uri().path())?).await?;
    Ok(HttpResponse::NoContent().finish())
}
