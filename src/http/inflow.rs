//! The body of a request, in pieces that have their permits (P6).
//!
//! The server stops to read from a connection whose body nobody takes; it holds up to about 200 KiB then. More is taken only
//! under a permit.

use std::time::Duration;

use actix_web::web::Payload;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    admission::{ConnectionAdmission, Permit, Purpose},
    error::Error,
    types::time,
};

/// Bytes of a piece: so many that what a piece costs besides them does not count, however small the client's are.
const PIECE: usize = 64 << 10;

/// A piece goes on its way when nothing more comes for this long.
const IDLE: Duration = Duration::from_millis(20);

/// A piece goes on its way after this long: its permit is not for those who are slow.
const FILL_MAX: Duration = Duration::from_millis(200);

/// Why a body ended before its end.
#[derive(Debug)]
pub(super) enum Broken {
    /// The client went away, or sent what is no HTTP.
    Client(String),
    /// The client sent nothing for too long.
    Stalled(String),
    /// No room for more.
    Full(Error),
}

/// A body that arrives.
pub(super) struct Inflow {
    pub(super) body: Payload,
    pub(super) limits: ConnectionAdmission,
    pub(super) stall_timeout: Duration,
    /// Bytes to come, if the client said so.
    pub(super) left: Option<u64>,
    /// Arrived, and part of no piece yet.
    rest: Bytes,
    end: Option<Result<(), Broken>>,
}

impl Inflow {
    pub(super) fn new(body: Payload, limits: ConnectionAdmission, stall_timeout: Duration, len: Option<u64>) -> Self {
        Self { body, limits, stall_timeout, left: len, rest: Bytes::new(), end: None }
    }

    /// The next piece; `None` at the end of a whole body.
    pub(super) async fn next(&mut self) -> Result<Option<(Bytes, Permit)>, Broken> {
        while self.rest.is_empty() && self.end.is_none() {
            match timeout(self.stall_timeout, self.body.next()).await {
                Ok(chunk) => self.take(chunk),
                Err(_) => {
                    let waited = time::show(self.stall_timeout);
                    self.end = Some(Err(Broken::Stalled(format!("nothing of the body arrived for {waited}"))));
                }
            }
        }
        if self.rest.is_empty() {
            return self.end.take().unwrap_or(Ok(())).map(|()| None);
        }
        let permit = self.limits.bytes(Purpose::Upload, PIECE, self.stall_timeout).await;
        let mut permit = permit.map_err(Broken::Full)?;
        let piece = self.fill().await;
        permit.shrink_to(piece.len());
        Ok(Some((piece, permit)))
    }

    async fn fill(&mut self) -> Bytes {
        if self.rest.len() >= PIECE {
            return self.rest.split_to(PIECE);
        }
        let left = usize::try_from(self.left.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let mut piece = BytesMut::with_capacity(PIECE.min(left.saturating_add(self.rest.len())));
        let latest = Instant::now() + FILL_MAX;
        loop {
            piece.extend_from_slice(&self.rest.split_to(self.rest.len().min(PIECE - piece.len())));
            if piece.len() == PIECE || self.end.is_some() {
                return piece.freeze();
            }
            match timeout_at(latest.min(Instant::now() + IDLE), self.body.next()).await {
                Ok(chunk) => self.take(chunk),
                Err(_) => return piece.freeze(),
            }
        }
    }

    fn take<E: std::fmt::Display>(&mut self, chunk: Option<Result<Bytes, E>>) {
        match chunk {
            Some(Ok(chunk)) => {
                self.left = self.left.map(|left| left.saturating_sub(chunk.len() as u64));
                self.rest = chunk;
            }
            Some(Err(error)) => self.end = Some(Err(Broken::Client(format!("the body broke off: {error}")))),
            None => {
                let missing = self.left.unwrap_or(0);
                let short = || Broken::Client(format!("the body ended {missing} bytes before its Content-Length"));
                self.end = Some(if missing > 0 { Err(short()) } else { Ok(()) });
            }
        }
    }
}
