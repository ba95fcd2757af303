//! One client's connection, from its first byte to its end.
//!
//! ```text
//! accepted ─▶ serving ──── its age, or the broker stops ───▶ leaving ─▶ closed
//!      │         │                                             │
//!      │         └─▶ the client goes                           └─ the grace is over: cut
//!      └─ no preface in time: cut
//! ```
//! A connection that leaves takes no more calls (HTTP/2 says GOAWAY); calls under way end by themselves, and streams that
//! would never end are told to.

use std::{convert::Infallible, io, pin::pin, sync::Arc, time::Instant};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    server::conn::http2::Builder,
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_stream::Stream;
use tonic::{Status, body::Body, service::Routes};
use tower_service::Service as _;

use super::{
    Broker,
    age::{Age, Stage},
    deadline::deadline,
    draining::Draining,
    handshake::{CountedStream, HANDSHAKE_MAX},
    inflow::Watch,
};
use crate::{admission::ConnectionAdmission, metrics::GaugeGuard};

/// One client's connection.
pub(super) struct Connection {
    stream: TcpStream,
    since: Instant,
    age: Age,
    info: Arc<ConnectionInfo>,
    broker: Broker,
    _counted: GaugeGuard,
    _slot: OwnedSemaphorePermit,
}

/// What calls learn of the connection that they came through.
#[derive(Debug)]
pub(super) struct ConnectionInfo {
    /// The limits that it has to itself.
    pub(super) admission: ConnectionAdmission,
    /// Tells its streams to end.
    pub(super) draining: Draining,
}

/// Accepts connections, as many at a time as `slots` allows: one more waits here, the others in the listener's backlog.
pub(super) fn accept(listener: TcpListener, slots: Arc<Semaphore>, broker: Broker) -> impl Stream<Item = Connection> {
    futures_util::stream::unfold((listener, slots, broker), |(listener, slots, broker)| async move {
        let stream = loop {
            match accept_one(&listener).await {
                Ok(stream) => break stream,
                // The peer gave up, or we are out of descriptors: neither ends the server.
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        };
        // Taken after the connection is there: a listener that waits for one keeps no slot from another listener.
        let slot = slots.clone().acquire_owned().await.ok()?;
        let draining = Draining::with(&broker.draining);
        let connection = Connection {
            stream,
            since: Instant::now(),
            age: Age::new(broker.config.connection_age, broker.config.connection_age_grace, fastrand::f64()),
            info: Arc::new(ConnectionInfo { admission: broker.admission.connection(), draining }),
            broker: broker.clone(),
            _counted: broker.metrics.connection(),
            _slot: slot,
        };
        Some((connection, (listener, slots, broker)))
    })
}

async fn accept_one(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    // Answers are small: they must not wait for more.
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Connection {
    /// Serves until the client goes, or all that was under way when the connection began to leave has ended. Dropped, it is
    /// cut.
    pub(super) async fn serve(self, http2: Builder<TokioExecutor>, routes: Routes, watch: Watch) {
        let Self { stream, since, age, info, broker, _counted, _slot } = self;
        let draining = &info.draining;
        let calls = calls(routes, watch, info.clone());
        let (stream, received) = CountedStream::new(stream);
        let mut served = pin!(http2.serve_connection(TokioIo::new(stream), calls));
        let mut handshake = pin!(tokio::time::sleep(HANDSHAKE_MAX));
        let (mut is_leaving, mut is_open) = (false, false);
        loop {
            let wait = match age.stage(since.elapsed()) {
                Stage::Serving(wait) => wait,
                Stage::Leaving(wait) => {
                    if !draining.has_begun() {
                        broker.metrics.aged_connection();
                        draining.begin();
                    }
                    Some(wait)
                }
                Stage::Over => {
                    tracing::debug!("a connection was cut: it reached its age, and what was under way did not end");
                    return;
                }
            };
            tokio::select! {
                ended = &mut served => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection broke");
                    }
                    return;
                }
                () = draining.begun(), if !is_leaving => {
                    is_leaving = true;
                    served.as_mut().graceful_shutdown();
                }
                () = &mut handshake, if !is_open => {
                    is_open = received.is_open();
                    if !is_open {
                        tracing::debug!("a connection was cut: its client did not speak HTTP/2 in time");
                        return;
                    }
                }
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            }
        }
    }
}

/// The calls of a connection: each learns where it came through, and ends when its caller waits no more.
fn calls(
    routes: Routes,
    watch: Watch,
    info: Arc<ConnectionInfo>,
) -> impl Service<
    Request<Incoming>,
    Response = Response<Body>,
    Error = Infallible,
    Future: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
> {
    service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(info.clone());
        let deadline = deadline(request.headers());
        let answer = routes.clone().call(watch.body(request));
        async move {
            match deadline {
                None => answer.await,
                Some(deadline) => tokio::time::timeout(deadline, answer).await.unwrap_or_else(|_| {
                    Ok(Status::deadline_exceeded("the time that the caller gave this call is over").into_http())
                }),
            }
        }
    })
}
