//! Uploads over gRPC: a header, data, a commit.

use std::time::{Duration, Instant};

use minitoolstream_proto::{
    GetUploadResponse, UploadCommit, UploadHeader, UploadRequest, UploadResponse, upload_request::Frame,
};
use tonic::{Status, Streaming};

use super::{egress::wire_time, inflow::Permits, status::status};
use crate::{
    admission::ConnectionAdmission,
    broker::{
        Broker,
        upload::{Begun, Expected, Session, Uploaded},
    },
    error::{Error, Result},
    metrics::Operation,
    store::{Upload, UploadState},
    types::RequestId,
};

/// Bytes that wait for more are written after this long.
const IDLE: Duration = Duration::from_millis(20);

/// Serves one stream. Runs to its end even if the client does not wait for it: what it sent is then kept.
pub(super) async fn serve(
    broker: Broker,
    request: RequestId,
    limits: ConnectionAdmission,
    permits: Permits,
    frames: Streaming<UploadRequest>,
) -> Result<UploadResponse, Status> {
    let started = Instant::now();
    let metrics = broker.metrics.clone();
    let served = tokio::spawn(receive(broker, request, limits, permits, frames)).await;
    metrics.latency(Operation::Upload, started.elapsed());
    served.unwrap_or_else(|_| Err(status(&Error::outcome_unknown()))).map(response)
}

async fn receive(
    broker: Broker,
    request: RequestId,
    limits: ConnectionAdmission,
    permits: Permits,
    mut frames: Streaming<UploadRequest>,
) -> Result<Uploaded, Status> {
    let begun = match frames.message().await?.and_then(|first| first.frame) {
        Some(Frame::Header(header)) => {
            permits.next();
            begin(&broker, header).await.map_err(|error| status(&error))?
        }
        _ => return Err(status(&Error::invalid("header", "must be the first frame of an upload"))),
    };
    let mut session = match begun {
        Begun::Open(session) => session,
        Begun::Done(uploaded) => return Ok(uploaded),
    };
    let mut leaving = std::pin::pin!(session.leaving());
    let end = loop {
        tokio::select! {
            biased;
            reason = &mut leaving => break End::Interrupted(status(&reason)),
            frame = frames.message() => match frame {
                Ok(Some(UploadRequest { frame: Some(Frame::Data(data)) })) => {
                    if let Err(error) = session.push(data, permits.next()).await {
                        break End::Interrupted(status(&error));
                    }
                }
                Ok(Some(UploadRequest { frame: Some(Frame::Commit(commit)) })) => {
                    permits.next();
                    break End::Commit(commit);
                }
                Ok(Some(_)) => {
                    let error = Error::invalid("frame", "is neither data nor a commit: these follow the header");
                    break End::Interrupted(status(&error));
                }
                Ok(None) => {
                    let error = Error::Precondition(
                        "the stream ended without a commit: what was written is kept; GetUpload tells where to go on".into(),
                    );
                    break End::Interrupted(status(&error));
                }
                Err(broken) => break End::Interrupted(broken),
            },
            () = tokio::time::sleep(IDLE), if session.waits() => {
                if let Err(error) = session.hand_on().await {
                    break End::Interrupted(status(&error));
                }
            }
        }
    };
    match end {
        End::Commit(UploadCommit { size, sha256 }) => {
            let committed = match Expected::parse(size, &sha256) {
                Ok(expected) => session.commit(expected, request, &limits).await,
                Err(error) => Err(error),
            };
            committed.map_err(|error| status(&error))
        }
        End::Interrupted(reason) => {
            match session.interrupt().await {
                Ok(kept) => tracing::debug!(%request, kept, reason = reason.message(), "an upload was interrupted"),
                Err(error) => tracing::warn!(%request, %error, "an interrupted upload was not saved to its end"),
            }
            Err(reason)
        }
    }
}

/// Why no more data is taken.
enum End {
    Commit(UploadCommit),
    Interrupted(Status),
}

async fn begin(broker: &Broker, header: UploadHeader) -> Result<Begun> {
    Session::begin(broker, broker.check_upload(header)?).await
}

fn response(uploaded: Uploaded) -> UploadResponse {
    let Uploaded { sequence, size, sha256, duplicate } = uploaded;
    UploadResponse { sequence, size, sha256: sha256.to_vec().into(), duplicate, scheduled: sequence == 0 }
}

/// Where an upload stands, for the wire.
pub(super) fn standing(upload: Upload) -> GetUploadResponse {
    let deadline = Some(wire_time(upload.deadline.0));
    match upload.state {
        UploadState::Open { saved, .. } => GetUploadResponse { offset: saved.offset, published: None, deadline },
        UploadState::Done { sequence, size, sha256, .. } => {
            let published = Some(response(Uploaded { sequence, size, sha256, duplicate: false }));
            GetUploadResponse { offset: size, published, deadline }
        }
    }
}
