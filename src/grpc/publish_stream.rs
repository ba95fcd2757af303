//! Publishing over one stream: frames in, runs of acks out.
//!
//! Frames are validated and handed to publishers in the order in which they came; many may be in flight. Their acks are
//! gathered as they complete. When the client's credit (the connection's permits) is used up, no further frame is
//! read: HTTP/2 flow control tells the client to wait. A client whose connection becomes old is told, and ends the stream
//! itself, so that it knows what became of every message; a broker that stops reads no further frame.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use minitoolstream_proto::{PublishAck, PublishStreamRequest, PublishStreamResponse};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Status, Streaming};

use super::{
    Broker,
    connection::ConnectionInfo,
    inflow::Permits,
    status::{publish_error, status},
    validate,
};
use crate::{actors::publisher::Results, error::Result, metrics::Operation, types::RequestId};

/// Frames in flight on one stream; more wait to be read.
const FRAMES_MAX: usize = 1024;

/// Responses that wait for a client to read them.
const RESPONSES_MAX: usize = 64;

/// How long a client may take to end its stream when it is told that its connection is old.
const NOTICE: Duration = Duration::from_secs(5);

/// Serves one stream until the client ends it, fails, or does not read its acks.
pub(super) fn serve(
    broker: Broker,
    connection: Arc<ConnectionInfo>,
    permits: Permits,
    frames: Streaming<PublishStreamRequest>,
) -> impl Stream<Item = Result<PublishStreamResponse, Status>> {
    let (acks, responses) = mpsc::channel(RESPONSES_MAX);
    // Beside the queue: a client that does not read leaves no room in it, and finds the reason when it does.
    let (reason, end) = oneshot::channel();
    tokio::spawn(async move {
        if let Err(status) = pump(&broker, &connection, &permits, frames, &acks).await {
            let _ = reason.send(status);
        }
    });
    let end = futures_util::stream::once(end).filter_map(async |reason| reason.ok().map(Err));
    ReceiverStream::new(responses).map(Ok).chain(end)
}

async fn pump(
    broker: &Broker,
    connection: &ConnectionInfo,
    permits: &Permits,
    mut frames: Streaming<PublishStreamRequest>,
    acks: &mpsc::Sender<PublishStreamResponse>,
) -> Result<(), Status> {
    let mut in_flight = FuturesUnordered::new();
    let draining = &connection.draining;
    let mut notice = pin!(async {
        draining.begun().await;
        // No room means that the client reads none of its acks: nor would it read this.
        let _ = acks.try_send(PublishStreamResponse { draining: true, ..Default::default() });
        tokio::select! {
            () = draining.broker_stops() => {}
            () = tokio::time::sleep(NOTICE) => {}
        }
    });
    let (mut open, mut is_ended) = (true, false);
    while open || !in_flight.is_empty() {
        tokio::select! {
            () = &mut notice, if open => {
                open = false;
                is_ended = true;
            }
            frame = frames.message(), if open && in_flight.len() < FRAMES_MAX => match frame? {
                Some(frame) => {
                    validate::batch_len("messages", frame.messages.len(), &broker.config)
                        .map_err(|error| status(&error))?;
                    let started = Instant::now();
                    let submitted = broker.submit(RequestId::next(), frame.messages, &connection.admission, permits.next()).await;
                    in_flight.push(async move { (frame.first_id, started, submitted.results().await) });
                }
                None => open = false,
            },
            Some(done) = in_flight.next() => {
                let mut response = PublishStreamResponse::default();
                let mut done = Some(done);
                // What else is complete goes along.
                while let Some((first_id, started, results)) = done {
                    broker.metrics.latency(Operation::PublishStream, started.elapsed());
                    push_acks(&mut response.acks, first_id, &results);
                    done = in_flight.next().now_or_never().flatten();
                }
                match tokio::time::timeout(broker.config.stall_timeout, acks.send(response)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Ok(()),
                    Err(_) => return Err(Status::resource_exhausted(
                        "the acks of the stream were not read in time: read them while publishing",
                    )),
                }
            }
        }
    }
    if is_ended { Err(status(&draining.reason())) } else { Ok(()) }
}

/// Appends the results of a frame as runs of consecutive ids and sequences.
fn push_acks(acks: &mut Vec<PublishAck>, first_id: u64, results: &Results) {
    let of_this_frame = acks.len();
    for (id, result) in (first_id..).zip(results) {
        let ack = match result {
            Ok(published) => PublishAck {
                first_id: id,
                count: 1,
                first_sequence: published.sequence,
                duplicate: published.duplicate,
                error: None,
                scheduled: published.is_scheduled(),
            },
            Err(error) => {
                PublishAck { first_id: id, count: 1, error: Some(publish_error(error)), ..Default::default() }
            }
        };
        match acks[of_this_frame..].last_mut() {
            Some(run) if continues(run, &ack) => run.count += 1,
            _ => acks.push(ack),
        }
    }
}

fn continues(run: &PublishAck, next: &PublishAck) -> bool {
    match (&run.error, &next.error) {
        (None, None) => {
            let follows = run.first_sequence + u64::from(run.count) == next.first_sequence;
            run.duplicate == next.duplicate && run.scheduled == next.scheduled && (follows || run.scheduled)
        }
        (Some(of_run), Some(of_next)) => of_run == of_next,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::Error, types::Published};

    #[test]
    fn acks_are_runs() {
        let ok = |sequence| Ok(Published { sequence, duplicate: false, object: None });
        let bad = || Err(Error::invalid("subject", "is empty"));
        let mut acks = Vec::new();
        push_acks(&mut acks, 100, &vec![ok(7), ok(8), bad(), bad(), ok(9), ok(20)]);
        let shape: Vec<_> = acks.iter().map(|a| (a.first_id, a.count, a.first_sequence, a.error.is_some())).collect();
        assert_eq!(shape, [(100, 2, 7, false), (102, 2, 0, true), (104, 1, 9, false), (105, 1, 20, false)]);
    }
}
