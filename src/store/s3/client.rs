//! Requests to one bucket: signed, sent, counted, and sent again while that may help.
//!
//! The client library signs and knows the API's texts. Sending is done here: its own retries are quadratic and set for the
//! whole process, its timeout would cut long bodies, and it copies each body.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, header};
use s3::{
    Bucket, Region,
    creds::Credentials,
    error::S3Error,
    request::{Request, tokio_backend::ReqwestRequest},
};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};

use super::{
    budget::{Budget, pause},
    call::Call,
    failure::{Cause, Failure},
    settings::{Secret, Settings},
    signature,
    text::late_error,
};
use crate::{
    error::{Error, Result},
    metrics::Metrics,
};

/// Bodies of this many bytes are hashed off the runtime's threads.
const SIGN_ASIDE: usize = 256 << 10;

/// Bytes a second that a body must come to at least.
const RATE_MIN: u64 = 128 << 10;

/// Most bytes of an answer that is no payload: a page of a listing has a tenth.
const TEXT_MAX: usize = 16 << 20;

/// How often an object must be reported missing: a server whose parts disagree may deny one for a moment.
pub(super) const MISSING_MIN: u32 = 3;

/// Buffers for answers begin with this many bytes.
const BUFFER: u64 = 1 << 20;

pub(super) struct Client {
    bucket: Bucket,
    budget: Budget,
    metrics: Metrics,
    timeout: Duration,
    attempts: u32,
}

/// An answer of success.
pub(super) struct Reply {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// What goes over the wire.
struct Signed {
    method: Method,
    url: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Client {
    pub(super) fn new(settings: &Settings, metrics: Metrics) -> Result<Self> {
        let refused = |error: S3Error| Error::invalid("s3", format!("cannot be used: {error}"));
        let session_token = settings.session_token.as_ref().map(Secret::expose);
        let (access_key, secret_key) = (&settings.access_key, settings.secret_key.expose());
        let credentials = Credentials::new(Some(access_key), Some(secret_key), None, session_token, None);
        let credentials = credentials.map_err(|error| refused(error.into()))?;
        let region = Region::Custom { region: settings.region.clone(), endpoint: settings.url() };
        let mut bucket = Bucket::new(&settings.bucket, region, credentials).map_err(refused)?;
        if settings.path_style {
            bucket.set_path_style();
        }
        let (timeout, attempts) = (settings.timeout, settings.attempts);
        Ok(Self { bucket: *bucket, budget: Budget::default(), metrics, timeout, attempts })
    }

    /// Sends a request until it succeeds, cannot succeed, or has failed often enough.
    pub(super) async fn call(self: &Arc<Self>, key: &str, call: Call) -> Result<Reply, Failure> {
        let call = Arc::new(call);
        let (mut attempt, mut denials) = (1, 0);
        loop {
            let mut failure = match self.attempt(key, &call).await {
                Ok(reply) => {
                    self.budget.earn();
                    return Ok(reply);
                }
                Err(failure) => failure,
            };
            failure.attempts = attempt;
            let is_denied = match *call {
                Call::Get { .. } => failure.is_missing(),
                // No answer to this has a body that could tell more.
                Call::Head => failure.has_status(404),
                _ => false,
            };
            denials += u32::from(is_denied);
            failure.denials = denials;
            let is_final =
                if is_denied { denials >= MISSING_MIN } else { attempt >= self.attempts || !failure.is_transient() };
            if is_final || !self.budget.take() {
                return Err(failure);
            }
            sleep(pause(attempt, failure.is_slow_down(), failure.retry_after, fastrand::f64())).await;
            attempt += 1;
        }
    }

    /// Sends a request once.
    pub(super) async fn attempt(self: &Arc<Self>, key: &str, call: &Arc<Call>) -> Result<Reply, Failure> {
        let started = Instant::now();
        let bytes = call.payload().map_or(0, |body| body.len() as u64) + call.expected().unwrap_or(0);
        let patience = if call.is_long() { self.timeout * 6 } else { self.timeout };
        let deadline = patience + Duration::from_secs(bytes / RATE_MIN);
        let answer = timeout(deadline, self.send(key, call, deadline)).await;
        let answer = answer.unwrap_or_else(|_| Err(self.failure(key, call, Cause::Timeout)));
        let code = answer.as_ref().map_or_else(Failure::label, |(status, _)| status.to_string());
        self.metrics.s3_request(call.operation(), &code, started.elapsed());
        if let Err(failure) = &answer {
            tracing::debug!(%failure, "a request to S3 failed");
        }
        answer.map(|(_, reply)| reply)
    }

    async fn send(self: &Arc<Self>, key: &str, call: &Arc<Call>, deadline: Duration) -> Result<(u16, Reply), Failure> {
        let failed = |cause| self.failure(key, call, cause);
        let Signed { method, url, headers, body } =
            self.sign(key, call).await.map_err(|error| failed(cause_of(error)))?;
        let sent = self.bucket.http_client().request(method, url).headers(headers).body(body).send();
        // Nothing tells how far a body that goes out has got, so only the deadline ends it.
        let patience = if call.expected().is_some() { self.timeout } else { deadline };
        let sent = timeout(patience, sent).await.map_err(|_| failed(Cause::Timeout))?;
        let mut response = sent.map_err(|error| failed(cause_of(error.into())))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let is_success = response.status().is_success();
        let mut body = BytesMut::new();
        let expected = call.expected().filter(|_| is_success);
        let bytes_max = match expected {
            Some(expected) => {
                // A server that ignores the range would send the whole object.
                let is_whole = call.begins_at_zero() && response.content_length() == Some(expected);
                if status != 206 && !is_whole {
                    return Err(failed(Cause::Unsendable("the server does not read ranges".into())));
                }
                body.reserve(usize::try_from(expected.min(BUFFER)).unwrap_or(0));
                usize::try_from(expected).unwrap_or(usize::MAX)
            }
            None => TEXT_MAX,
        };
        loop {
            let chunk = timeout(self.timeout, response.chunk()).await.map_err(|_| failed(Cause::Timeout))?;
            match chunk.map_err(|error| failed(cause_of(error.into())))? {
                Some(chunk) if body.len() + chunk.len() > bytes_max => {
                    return Err(failed(Cause::Broken(format!("more than {bytes_max} bytes came"))));
                }
                Some(chunk) => body.extend_from_slice(&chunk),
                None => break,
            }
        }
        let body = body.freeze();
        if !is_success {
            let mut failure = Failure::refused(self.subject(key, call), status, &body, request_id(&headers));
            failure.retry_after = text(&headers, header::RETRY_AFTER.as_str())
                .and_then(|text| text.parse().ok())
                .map(Duration::from_secs);
            if let (416, Call::Get { .. }) = (status, &**call) {
                failure.cause = Cause::Beyond { size: size_told(&headers).unwrap_or(0) };
            }
            return Err(failure);
        }
        if let (Some(expected), Call::Get { range }) = (expected, &**call)
            && (body.len() as u64) < expected
        {
            let cause = match size_told(&headers) {
                Some(size) if size < range.end => Cause::Beyond { size },
                _ => Cause::Short { bytes: body.len() as u64, expected },
            };
            return Err(failed(cause));
        }
        if matches!(**call, Call::CompleteUpload { .. }) {
            late_error(&self.subject(key, call), &body)?;
        }
        Ok((status, Reply { headers, body }))
    }

    async fn sign(self: &Arc<Self>, key: &str, call: &Arc<Call>) -> Result<Signed, S3Error> {
        if call.payload().is_none_or(|body| body.len() < SIGN_ASIDE) {
            return sign(&self.bucket, key, call).await;
        }
        let (client, key, call, runtime) = (self.clone(), key.to_owned(), call.clone(), Handle::current());
        let signed = tokio::task::spawn_blocking(move || runtime.block_on(sign(&client.bucket, &key, &call)));
        signed.await.map_err(|error| S3Error::Io(std::io::Error::other(error)))?
    }

    fn failure(&self, key: &str, call: &Call, cause: Cause) -> Failure {
        Failure::new(self.subject(key, call), cause, None)
    }

    /// What a request is about, for its errors.
    pub(super) fn subject(&self, key: &str, call: &Call) -> String {
        let (operation, bucket) = (call.operation(), &self.bucket.name);
        if key.is_empty() {
            format!("{operation} of bucket '{bucket}'")
        } else {
            format!("{operation} of '{bucket}/{key}'")
        }
    }
}

/// Waits for nothing: what is asynchronous in it is a lock that nobody holds for long.
async fn sign(bucket: &Bucket, key: &str, call: &Call) -> Result<Signed, S3Error> {
    let command = call.command();
    let method = Method::from_bytes(command.http_verb().to_string().as_bytes()).unwrap_or_default();
    let request = ReqwestRequest::new(bucket, key, command).await?;
    let (headers, body) = match call.payload() {
        Some(body) => (signature::headers(bucket, &request, body).await?, body.clone()),
        None => (request.headers().await?, request.request_body()?.into()),
    };
    Ok(Signed { method, url: request.url()?.into(), headers, body })
}

fn cause_of(error: S3Error) -> Cause {
    let S3Error::Reqwest(error) = error else { return Cause::Unsendable(error.to_string()) };
    // What it says by itself names the URL and little else.
    let mut problem = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        problem = error.to_string();
        source = error.source();
    }
    match error {
        error if error.is_timeout() => Cause::Timeout,
        error if error.is_connect() => Cause::Connect(problem),
        error if error.is_builder() => Cause::Unsendable(problem),
        _ => Cause::Broken(problem),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn request_id(headers: &HeaderMap) -> Option<String> {
    text(headers, "x-amz-request-id").map(Into::into)
}

/// The object's size, from `bytes 0-9/10` or `bytes */10`.
fn size_told(headers: &HeaderMap) -> Option<u64> {
    text(headers, header::CONTENT_RANGE.as_str())?.rsplit('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{super::call::UploadId, *};

    async fn signed(settings: Settings, call: Call) -> Signed {
        let client = Client::new(&settings, Metrics::new(1).unwrap()).unwrap();
        sign(&client.bucket, "some/key", &call).await.unwrap()
    }

    #[tokio::test]
    async fn buckets_are_named_in_the_path_or_in_the_host() {
        let settings = Settings { use_ssl: true, ..Settings::new("s3.example.com:9000", "key", "secret", "letters") };
        let url = async |path_style| signed(Settings { path_style, ..settings.clone() }, Call::Head).await.url;
        assert_eq!(url(true).await, "https://s3.example.com:9000/letters/some/key");
        assert_eq!(url(false).await, "https://letters.s3.example.com:9000/some/key");
    }

    #[tokio::test]
    async fn temporary_keys_come_with_their_token() {
        let token = Some(Secret::new("the-token"));
        let settings = Settings { session_token: token, ..Settings::new("localhost", "key", "secret", "letters") };
        let Signed { method, headers, .. } = signed(settings, Call::Delete).await;
        assert_eq!((method, &headers["x-amz-security-token"]), (Method::DELETE, &"the-token".parse().unwrap()));
        let authorization = headers["authorization"].to_str().unwrap();
        assert!(authorization.contains("x-amz-security-token") && !authorization.contains("secret"), "{authorization}");
    }

    #[tokio::test]
    async fn upload_ids_may_have_any_letters() {
        let upload = UploadId::new("a+b/c=".into());
        let settings = Settings::new("localhost", "key", "secret", "letters");
        let url = signed(settings, Call::AbortUpload { upload }).await.url;
        assert!(url.ends_with("?uploadId=a%2Bb%2Fc%3D"), "{url}");
    }
}
