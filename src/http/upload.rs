//! `PUT` and `POST`: a body becomes a message.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, http::header, web};
use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    announced::Announced,
    inflow::{Broken, Inflow},
    origin::refuse_other_sites,
    refusal::Refusal,
    target::location,
    transfers::{Ticket, Transfers},
};
use crate::{
    admission::{ConnectionAdmission, Permit},
    broker::{
        Broker,
        upload::{Begun, Expected, Opening, Session, Uploaded},
    },
    error::Error,
    metrics::Operation,
    store::UploadState,
    types::{RequestId, hex},
};

/// Bytes that wait for more are written after this long.
const IDLE: Duration = Duration::from_millis(20);

/// Says how far an upload is durable.
pub(super) const UPLOAD_OFFSET: &str = "upload-offset";

/// Publishes a body.
#[tracing::instrument(skip_all, fields(request_id))]
pub(super) async fn put(
    request: HttpRequest,
    body: web::Payload,
    transfers: web::Data<Transfers>,
) -> Result<HttpResponse, Refusal> {
    let started = Instant::now();
    let answer = receive(&request, body, &transfers).await;
    transfers.broker.metrics.latency(Operation::HttpPut, started.elapsed());
    answer
}

async fn receive(request: &HttpRequest, body: web::Payload, transfers: &Transfers) -> Result<HttpResponse, Refusal> {
    refuse_other_sites(request.headers())?;
    let (broker, ticket, id) = (&transfers.broker, transfers.enter()?, RequestId::next());
    tracing::Span::current().record("request_id", tracing::field::display(id));
    let Announced { header, is_resumable, body_len, is_last } = Announced::read(request)?;
    let opening = broker.check_upload(header)?;
    let (subject, upload_id) = (opening.message.subject.clone(), opening.id.to_string());
    let limits = broker.admission.connection();
    let (pieces, arriving) = mpsc::channel(1);
    let upload = Upload { broker: broker.clone(), limits: limits.clone(), id, is_resumable, is_last };
    let upload = transfers.runtime.spawn(upload.run(opening, arriving, ticket));
    let broken = hand_on(Inflow::new(body, limits, broker.config.stall_timeout, body_len), pieces).await.err();
    match (upload.await.unwrap_or_else(|_| Err(Error::outcome_unknown().into()))?, broken) {
        (Outcome::Published(uploaded), _) => Ok(published(&subject, &uploaded)),
        (Outcome::Kept(offset), None) => {
            let mut response = HttpResponse::Accepted();
            response.insert_header((UPLOAD_OFFSET, offset.to_string()));
            Ok(response.json(json!({ "upload": upload_id, "offset": offset })))
        }
        (Outcome::Kept(offset), Some(broken)) => Err(interrupted(broken, is_resumable.then_some(offset))),
    }
}

/// What the upload gets, in order.
enum Piece {
    Data(Bytes, Permit),
    End,
}

/// Gives what arrives to the upload, as fast as it takes it.
async fn hand_on(mut body: Inflow, pieces: mpsc::Sender<Piece>) -> Result<(), Broken> {
    loop {
        let piece = tokio::select! {
            biased;
            // It ended by itself, and says why.
            () = pieces.closed() => return Ok(()),
            piece = body.next() => piece?,
        };
        let is_end = piece.is_none();
        let piece = piece.map_or(Piece::End, |(data, permit)| Piece::Data(data, permit));
        if pieces.send(piece).await.is_err() || is_end {
            return Ok(());
        }
    }
}

/// One upload, on the broker's threads: it ends in good order whatever becomes of the connection.
struct Upload {
    broker: Broker,
    limits: ConnectionAdmission,
    id: RequestId,
    is_resumable: bool,
    is_last: bool,
}

enum Outcome {
    Published(Uploaded),
    /// No message, but so many durable bytes of one.
    Kept(u64),
}

impl Upload {
    async fn run(
        self,
        opening: Opening,
        mut arriving: mpsc::Receiver<Piece>,
        _ticket: Ticket,
    ) -> Result<Outcome, Refusal> {
        let (upload_id, offset) = (opening.id.to_string(), opening.offset);
        let mut session = match Session::begin(&self.broker, opening).await? {
            Begun::Open(session) => session,
            Begun::Done(uploaded) => return Ok(Outcome::Published(uploaded)),
        };
        let mut leaving = pin!(session.leaving());
        let ended = loop {
            tokio::select! {
                biased;
                reason = &mut leaving => break Err(Some(reason)),
                piece = arriving.recv() => match piece {
                    Some(Piece::Data(data, permit)) => {
                        if let Err(error) = session.push(data, permit).await {
                            break Err(Some(error));
                        }
                    }
                    Some(Piece::End) => break Ok(()),
                    None => break Err(None),
                },
                () = tokio::time::sleep(IDLE), if session.waits() => {
                    if let Err(error) = session.hand_on().await {
                        break Err(Some(error));
                    }
                }
            }
        };
        match ended {
            Ok(()) if self.is_last => {
                let committed = session.commit(Expected::default(), self.id, &self.limits).await;
                committed.map(Outcome::Published).map_err(Refusal::from)
            }
            Ok(()) => match self.keep(*session, &upload_id).await? {
                // Sent like this again and again, it would never come further.
                kept if kept == offset => Err(self.too_short().into()),
                kept => Ok(Outcome::Kept(kept)),
            },
            // It would be refused again, however it goes on.
            Err(Some(reason @ Error::Invalid(_))) => {
                session.abort().await;
                Err(reason.into())
            }
            Err(reason) => {
                let kept = self.keep(*session, &upload_id).await;
                let kept = kept.inspect_err(|error| {
                    tracing::warn!(request = %self.id, %error, "an interrupted upload was not saved to its end");
                });
                match reason {
                    Some(reason) => Err(reason.into()),
                    None => Ok(Outcome::Kept(kept.unwrap_or(0))),
                }
            }
        }
    }

    fn too_short(&self) -> Error {
        let least = self.broker.stores.payload.sync_step();
        let problem = format!(
            "is of a part too short to be kept: give each but the last at least {least} bytes, best a multiple of that"
        );
        Error::invalid("Content-Range", problem)
    }

    /// Saves what came for the one who goes on, if there can be one. Gives how much that is.
    async fn keep(&self, mut session: Session, upload_id: &str) -> Result<u64, Error> {
        if !self.is_resumable {
            session.abort().await;
            return Ok(0);
        }
        // Little data is kept, too: the client was promised that it can go on.
        session.hand_on().await?;
        session.interrupt().await?;
        match self.broker.find_upload(upload_id).await {
            Ok(upload) => match upload.state {
                UploadState::Open { saved, .. } => Ok(saved.offset),
                UploadState::Done { size, .. } => Ok(size),
            },
            Err(Error::NotFound(_)) => Ok(0),
            Err(error) => Err(error),
        }
    }
}

fn published(subject: &str, uploaded: &Uploaded) -> HttpResponse {
    let Uploaded { sequence, size, sha256, duplicate } = uploaded;
    let (digest, scheduled) = (hex(sha256), *sequence == 0);
    let status = match (duplicate, scheduled) {
        (true, _) => StatusCode::OK,
        (false, true) => StatusCode::ACCEPTED,
        (false, false) => StatusCode::CREATED,
    };
    let mut response = HttpResponse::build(status);
    response.insert_header((header::ETAG, format!("\"{digest}\"")));
    let mut body = json!({
        "subject": subject, "sequence": sequence, "size": size, "sha256": digest, "duplicate": duplicate,
    });
    if scheduled {
        body["scheduled"] = true.into();
    } else {
        response.insert_header((header::LOCATION, location(subject, *sequence)));
    }
    response.json(body)
}

fn interrupted(broken: Broken, kept: Option<u64>) -> Refusal {
    let (status, reason) = match broken {
        Broken::Client(reason) => (StatusCode::BAD_REQUEST, reason),
        Broken::Stalled(reason) => (StatusCode::REQUEST_TIMEOUT, reason),
        Broken::Full(error) => return error.into(),
    };
    let advice = match kept {
        Some(kept) => format!("{kept} bytes are kept, go on there"),
        None => "nothing was published; with an Mts-Upload-Id it could be continued".into(),
    };
    Refusal::new(status, format!("{reason}: {advice}"))
}
