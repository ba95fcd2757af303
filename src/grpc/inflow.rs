//! Takes permits for the bytes of requests as they arrive (P6).
//!
//! Every gRPC message begins with its length. The body of every call is watched here: a message that is here whole is let
//! through once its bytes are permitted, one that arrives in parts is let through part by part, each permitted by itself.
//! HTTP/2 flow control keeps the client waiting meanwhile. The permits queue up beside the body, one for each message, for
//! the handler to take.
//!
//! ```text
//! prefix ─▶ whole: permit for all ─────────────▶ passed
//!     └───▶ in parts: permit for this part ─▶ ... ─▶ passed
//!               └─ nothing for a while, or not whole in time: the call ends, its permits are free
//! ```

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use http::Request;
use http_body::{Body as _, Frame};
use tokio::time::{Instant, Sleep};
use tonic::{Status, body::Body};

use super::{connection::ConnectionInfo, status::status};
use crate::{
    admission::{ConnectionAdmission, PATIENCE, PartPermit, Permit, Purpose},
    error::{Error, Result},
    types::time,
};

/// Largest frame of an upload, with room for the header's message.
const UPLOAD_FRAME_MAX: usize = (4 << 20) + (64 << 10);

/// A message that has begun to arrive sends some of it at least so often.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// The same, for the one that arrives beyond all quotas while others wait for its place.
const IDLE_BEYOND_MAX: Duration = Duration::from_secs(1);

/// Compression flag and length.
const PREFIX: usize = 5;

/// The permits of messages that were let through, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Permits(Arc<Mutex<VecDeque<Permit>>>);

impl Permits {
    /// The permit of the next message; call it once for each.
    pub(super) fn next(&self) -> Permit {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front().unwrap_or_default()
    }
}

/// Watches the bodies of calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    /// Largest message, in bytes as encoded.
    pub(super) message_max: usize,
    /// How long a message may take to arrive once it is permitted, and a frame of a stream to be permitted.
    pub(super) stall_timeout: Duration,
}

impl Watch {
    pub(super) fn body(self, request: Request<Body>) -> Request<Body> {
        if !request.uri().path().starts_with("/minitoolstream.") {
            return request;
        }
        let Some(info) = request.extensions().get::<Arc<ConnectionInfo>>() else { return request };
        let ends_with = |call: &&str| request.uri().path().ends_with(*call);
        let is_stream = ["/PublishStream", "/Consume", "/Upload"].iter().any(ends_with);
        let purpose = match request.uri().path().rsplit('/').next() {
            Some("Upload") => Purpose::Upload,
            Some("Publish" | "PublishBatch" | "PublishStream") => Purpose::Message,
            _ => Purpose::Answer,
        };
        let permits = Permits::default();
        let watched = Watched {
            watch: self,
            limits: info.admission.clone(),
            purpose,
            patience: if is_stream { self.stall_timeout } else { PATIENCE },
            permits: permits.clone(),
            unread: Bytes::new(),
            prefix: [0; PREFIX],
            prefix_len: 0,
            left: 0,
            charge: Charge::Whole,
            charged: Permit::default(),
            arriving: Permit::default(),
            whole_by: Instant::now(),
            waiting: None,
            stalled: Box::pin(tokio::time::sleep(self.stall_timeout)),
            inner: Body::empty(),
        };
        let (mut parts, inner) = request.into_parts();
        parts.extensions.insert(permits);
        Request::from_parts(parts, Body::new(Watched { inner, ..watched }))
    }
}

struct Watched {
    watch: Watch,
    limits: ConnectionAdmission,
    purpose: Purpose,
    patience: Duration,
    permits: Permits,
    /// Arrived, and not looked at yet.
    unread: Bytes,
    /// The prefix of the next message, as far as it arrived.
    prefix: [u8; PREFIX],
    prefix_len: usize,
    /// Bytes of the present message still to come.
    left: usize,
    charge: Charge,
    /// What the present message was permitted so far, if it arrives in parts.
    charged: Permit,
    arriving: Permit,
    /// When the present message must be whole.
    whole_by: Instant,
    /// The permit that the next message, or the next part, waits for.
    waiting: Option<BoxFuture<'static, Result<Granted>>>,
    stalled: Pin<Box<Sleep>>,
    inner: Body,
}

/// How the bytes of the present message are permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Charge {
    /// All of them were.
    Whole,
    /// Part by part.
    Parts,
    /// It may arrive beyond all quotas.
    Beyond,
}

/// What was waited for.
enum Granted {
    Whole(Permit),
    Part(PartPermit),
}

impl Watched {
    /// Takes what may pass from the unread bytes; `None` if more must arrive or be permitted first.
    fn pass(&mut self) -> Result<Option<Bytes>> {
        if self.left > 0 {
            return Ok(self.pass_part());
        }
        let missing = (PREFIX - self.prefix_len).min(self.unread.len());
        self.unread.copy_to_slice(&mut self.prefix[self.prefix_len..self.prefix_len + missing]);
        self.prefix_len += missing;
        if self.prefix_len < PREFIX {
            return Ok(None);
        }
        let len = u32::from_be_bytes([self.prefix[1], self.prefix[2], self.prefix[3], self.prefix[4]]);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let max = match self.purpose {
            Purpose::Message | Purpose::Answer => self.watch.message_max,
            Purpose::Upload => UPLOAD_FRAME_MAX,
        };
        if len > max {
            let problem = format!("has {len} bytes: at most {max} are allowed in one piece");
            return Err(Error::invalid("message", problem));
        }
        if self.unread.len() < len {
            self.charge = Charge::Parts;
            self.whole_by = Instant::now() + self.watch.stall_timeout;
            return Ok(Some(self.begin()));
        }
        match self.limits.try_bytes(self.purpose, len) {
            Some(permit) => Ok(Some(self.permitted(permit))),
            None => {
                let (limits, purpose, patience) = (self.limits.clone(), self.purpose, self.patience);
                let waiting = async move { limits.bytes(purpose, len, patience).await.map(Granted::Whole) };
                self.waiting = Some(Box::pin(waiting));
                Ok(None)
            }
        }
    }

    /// Lets the waiting prefix of a message through that is here whole.
    fn permitted(&mut self, permit: Permit) -> Bytes {
        self.charge = Charge::Whole;
        self.push(permit);
        self.begin()
    }

    /// Lets the waiting prefix through.
    fn begin(&mut self) -> Bytes {
        self.left = u32::from_be_bytes([self.prefix[1], self.prefix[2], self.prefix[3], self.prefix[4]]) as usize;
        self.prefix_len = 0;
        self.arrived_some();
        Bytes::copy_from_slice(&self.prefix)
    }

    /// Lets the next part of the present message through, if it is permitted.
    fn pass_part(&mut self) -> Option<Bytes> {
        let len = self.left.min(self.unread.len());
        if len == 0 {
            return None;
        }
        if self.charge == Charge::Parts {
            match self.limits.try_part(self.purpose, len) {
                Some(part) => self.grant(part),
                None => {
                    let (limits, purpose, patience) = (self.limits.clone(), self.purpose, self.patience);
                    let waiting = async move { limits.part(purpose, len, patience).await.map(Granted::Part) };
                    self.waiting = Some(Box::pin(waiting));
                    return None;
                }
            }
        }
        Some(self.let_through(len))
    }

    fn let_through(&mut self, len: usize) -> Bytes {
        let passing = self.unread.split_to(len);
        self.left -= len;
        if self.left > 0 {
            self.arrived_some();
        } else if self.charge != Charge::Whole {
            // Before its last bytes: the handler that takes the message finds its permit.
            self.arriving = Permit::default();
            let charged = std::mem::take(&mut self.charged);
            self.push(charged);
        }
        passing
    }

    fn grant(&mut self, part: PartPermit) {
        self.charged.absorb(part.charged);
        self.arriving.absorb(part.arriving);
        if part.is_beyond {
            self.charge = Charge::Beyond;
        }
    }

    fn push(&self, permit: Permit) {
        self.permits.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(permit);
    }

    /// Counts the time to the next bytes of a message that is not whole.
    fn arrived_some(&mut self) {
        if self.left > 0 && self.charge != Charge::Whole {
            let idle = if self.charge == Charge::Beyond { IDLE_BEYOND_MAX } else { IDLE_MAX };
            self.stalled.as_mut().reset(self.whole_by.min(Instant::now() + idle));
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                let granted = ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
                let passing = granted.map(|granted| match granted {
                    Granted::Whole(permit) => self.permitted(permit),
                    Granted::Part(part) => {
                        self.grant(part);
                        self.let_through(self.left.min(self.unread.len()))
                    }
                });
                return Poll::Ready(Some(passing.map(Frame::data).map_err(|error| status(&error))));
            }
            if !self.unread.is_empty() {
                match self.pass() {
                    Ok(Some(passing)) => return Poll::Ready(Some(Ok(Frame::data(passing)))),
                    Ok(None) => continue,
                    Err(error) => return Poll::Ready(Some(Err(status(&error)))),
                }
            }
            if self.left > 0 && self.stalled.as_mut().poll(cx).is_ready() {
                let (waited, idle) = (time::show(self.watch.stall_timeout), time::show(IDLE_MAX));
                let problem = format!(
                    "did not arrive whole within {waited}, or sent nothing for {idle}: send it faster, or in smaller pieces"
                );
                return Poll::Ready(Some(Err(status(&Error::invalid("message", problem)))));
            }
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.unread = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.poll_bytes(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.unread.is_empty() && self.waiting.is_none() && self.inner.is_end_stream()
    }
}
