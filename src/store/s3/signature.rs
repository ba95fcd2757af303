//! Signs requests that carry payload. The client library would read the payload three times for that: twice for its SHA-256,
//! and for an MD5 that no server needs beside the signed SHA-256.

use bytes::Bytes;
use hmac::Mac;
use http::{HeaderMap, HeaderName, header};
use s3::{
    Bucket,
    error::S3Error,
    request::{Request, tokio_backend::ReqwestRequest},
    signing,
};
use sha2::{Digest, Sha256};

use crate::types::hex;

/// The headers of a request whose body is payload, by AWS's signature version 4.
pub(super) async fn headers(bucket: &Bucket, request: &ReqwestRequest<'_>, body: &Bytes) -> Result<HeaderMap, S3Error> {
    let command = request.command();
    let sha256 = hex(&Sha256::digest(body));
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, request.host_header().parse()?);
    headers.insert(header::CONTENT_LENGTH, body.len().into());
    headers.insert(header::CONTENT_TYPE, command.content_type().parse()?);
    headers.insert(HeaderName::from_static("x-amz-content-sha256"), sha256.parse()?);
    headers.insert(HeaderName::from_static("x-amz-date"), request.long_date()?.parse()?);
    if let Some(token) = bucket.session_token().await? {
        headers.insert(HeaderName::from_static("x-amz-security-token"), token.parse()?);
    }
    let Some(access_key) = bucket.access_key().await? else { return Ok(headers) };
    let (datetime, region, method) = (request.datetime(), bucket.region(), command.http_verb().to_string());
    let canonical = signing::canonical_request(&method, &request.url()?, &headers, &sha256)?;
    let mut hmac = signing::HmacSha256::new_from_slice(&request.signing_key().await?)?;
    hmac.update(request.string_to_sign(&canonical)?.as_bytes());
    let (signed, signature) = (signing::signed_header_string(&headers), hex(&hmac.finalize().into_bytes()));
    let authorization = signing::authorization_header(&access_key, &datetime, &region, &signed, &signature)?;
    headers.insert(header::AUTHORIZATION, authorization.parse()?);
    Ok(headers)
}
