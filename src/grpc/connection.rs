use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::Broker;
use crate::{admission::ConnectionAdmission, metrics::GaugeGuard};

/// One client's connection, with the limits that it has to itself.
pub(super) struct Connection {
    stream: TcpStream,
    info: ConnectionInfo,
    _counted: GaugeGuard,
    _slot: OwnedSemaphorePermit,
}

/// What calls learn of the connection that they came through.
#[derive(Clone, Debug)]
pub(super) struct ConnectionInfo {
    /// Its limits.
    pub(super) admission: ConnectionAdmission,
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

/// Accepts connections, as many at a time as `slots` allows: one more waits here, the others in the listener's backlog.
pub(super) fn accept(
    listener: TcpListener,
    slots: std::sync::Arc<Semaphore>,
    broker: Broker,
) -> impl Stream<Item = io::Result<Connection>> {
    futures_util::stream::unfold((listener, slots, broker), |(listener, slots, broker)| async move {
        let accepted = loop {
            match listener.accept().await {
                Ok((stream, _)) => break stream,
                // The peer gave up, or we are out of descriptors: neither ends the server.
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        };
        // Taken after the connection is there: a listener that waits for one keeps no slot from another listener.
        let slot = slots.clone().acquire_owned().await.ok()?;
        // Answers are small: they must not wait for more.
        let connection = accepted.set_nodelay(true).map(|()| Connection {
            stream: accepted,
            info: ConnectionInfo { admission: broker.admission.connection() },
            _counted: broker.metrics.connection(),
            _slot: slot,
        });
        Some((connection, (listener, slots, broker)))
    })
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
