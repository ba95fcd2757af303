//! Publishing over one stream.
//!
//! ```text
//! publish() ─▶ window permit ─▶ queue ─▶ driver: frames of what waits ─▶ stream
//!    ▲                                     │ in flight, by id              │
//!    └──────────── Pending ◀───────────────┴───────── runs of acks ◀───────┘
//! ```
//! The driver is one task. When the connection is about to end, the broker says so: what is in flight is waited for, and the
//! rest goes over another stream. When the stream breaks, messages with an id go to the front of the next stream in their old
//! order; the others fail, as their outcome is unknown.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use minitoolstream_proto::{
    PublishAck, PublishRequest, PublishStreamRequest, PublishStreamResponse,
    ingress_service_client::IngressServiceClient,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    Backoff, Error, NewMessage, Published, Result,
    channels::{Channels, Via},
};

/// How a publisher uses its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublisherOptions {
    /// Most messages sent and not yet acknowledged; more wait.
    pub in_flight_max: usize,
    /// Most bytes sent and not yet acknowledged; more wait.
    pub in_flight_bytes: usize,
    /// How long a message may wait for its ack, repetitions included.
    pub timeout: Duration,
}

impl Default for PublisherOptions {
    /// 4,096 messages, 8 MiB, 30 s.
    fn default() -> Self {
        Self { in_flight_max: 4096, in_flight_bytes: 8 << 20, timeout: Duration::from_secs(30) }
    }
}

/// A frame is closed at this many bytes, well below the broker's limit.
const FRAME_BYTES: usize = 512 << 10;

/// A frame is closed at this many messages.
const FRAME_MESSAGES: usize = 1024;

/// Frames that wait for the transport. Few: what waits here cannot grow into a larger frame any more.
const FRAMES_WAITING: usize = 2;

/// Publishes messages over one stream, many at a time. Cloning shares the stream.
///
/// Messages of one publisher to one subject get sequences in the order of their calls of [`send`](Self::send), unless
/// one is repeated after a broken connection. The stream ends when the last clone is dropped and all acks are in.
#[derive(Clone, Debug)]
pub struct Publisher {
    queue: mpsc::UnboundedSender<Entry>,
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    bytes_max: usize,
    timeout: Duration,
}

/// A message that was sent; resolves when it is durable or refused.
#[derive(Debug)]
#[must_use = "the outcome is known only when this resolves"]
pub struct Pending(oneshot::Receiver<Result<Published>>);

impl Future for Pending {
    type Output = Result<Published>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = std::task::ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(answer.unwrap_or_else(|_| Err(Error::unavailable("the publisher was stopped"))))
    }
}

#[derive(Debug)]
struct Entry {
    request: PublishRequest,
    repeatable: bool,
    size: usize,
    reply: oneshot::Sender<Result<Published>>,
    deadline: tokio::time::Instant,
    _window: [OwnedSemaphorePermit; 2],
}

impl Publisher {
    pub(crate) fn start(channels: Channels, backoff: Backoff, options: PublisherOptions) -> Self {
        let (queue, waiting) = mpsc::unbounded_channel();
        let bytes_max = options.in_flight_bytes.clamp(1, u32::MAX as usize);
        let driver =
            Driver { channels, backoff, timeout: options.timeout, waiting, again: VecDeque::new(), failures: 0 };
        tokio::spawn(driver.run());
        Self {
            queue,
            messages: Arc::new(Semaphore::new(options.in_flight_max.max(1))),
            bytes: Arc::new(Semaphore::new(bytes_max)),
            bytes_max,
            timeout: options.timeout,
        }
    }

    /// Publishes a message and waits until it is durable.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the outcome is unknown; otherwise why the broker refused it.
    pub async fn publish(&self, message: NewMessage) -> Result<Published> {
        self.send(message).await.await
    }

    /// Sends a message, once the window has room for it, and gives the ack to come.
    pub async fn send(&self, message: NewMessage) -> Pending {
        let (reply, answer) = oneshot::channel();
        let size = message.size();
        let bytes = u32::try_from(size.min(self.bytes_max)).unwrap_or(u32::MAX);
        let window = (acquire(&self.messages, 1).await, acquire(&self.bytes, bytes).await);
        if let (Some(messages), Some(bytes)) = window {
            let entry = Entry {
                repeatable: message.is_repeatable(),
                size,
                request: message.request,
                reply,
                deadline: tokio::time::Instant::now() + self.timeout,
                _window: [messages, bytes],
            };
            // The driver lives as long as a publisher does; without it, the reply is dropped and says so.
            let _ = self.queue.send(entry);
        }
        Pending(answer)
    }
}

async fn acquire(semaphore: &Arc<Semaphore>, permits: u32) -> Option<OwnedSemaphorePermit> {
    match semaphore.clone().try_acquire_many_owned(permits) {
        Ok(permit) => Some(permit),
        Err(_) => semaphore.clone().acquire_many_owned(permits).await.ok(),
    }
}

struct Driver {
    channels: Channels,
    backoff: Backoff,
    timeout: Duration,
    waiting: mpsc::UnboundedReceiver<Entry>,
    /// Messages of a broken stream, to be sent first.
    again: VecDeque<Entry>,
    failures: u32,
}

/// Messages on the present stream. Ids are consecutive, so they are positions.
#[derive(Default)]
struct InFlight {
    first_id: u64,
    /// `None` once answered.
    entries: VecDeque<Option<Entry>>,
}

enum Ended {
    /// Nobody publishes any more, and all is answered.
    Done,
    /// The connection is about to end, and all that was sent is answered.
    Drained,
    /// The stream broke.
    Broken(Error),
}

impl Driver {
    async fn run(mut self) {
        loop {
            // Nothing is opened before there is something to say.
            if self.again.is_empty() {
                let Some(entry) = self.waiting.recv().await else {
                    return;
                };
                self.again.push_back(entry);
            }
            let mut in_flight = InFlight::default();
            let error = match self.stream(&mut in_flight).await {
                Ended::Done => return,
                Ended::Drained => continue,
                Ended::Broken(error) => error,
            };
            self.failures += 1;
            self.sort_out(in_flight, &error);
            self.backoff.sleep(self.failures, None).await;
        }
    }

    /// What was not sent, or may be repeated, goes to the front in its order; the outcome of the rest is unknown.
    fn sort_out(&mut self, in_flight: InFlight, error: &Error) {
        let now = tokio::time::Instant::now();
        let not_sent = std::mem::take(&mut self.again);
        for entry in in_flight.entries.into_iter().flatten() {
            // A stream that is refused as a whole held a message too large for it; the others only share its fate.
            let is_refused = !error.is_transient() && entry.size > FRAME_BYTES;
            if entry.repeatable && entry.deadline > now && !is_refused {
                self.again.push_back(entry);
                continue;
            }
            let error = match error {
                refusal if is_refused || error.is_transient() => refusal.clone(),
                ended => Error::unavailable(format!("the stream was ended ({ended}): the outcome is unknown")),
            };
            let _ = entry.reply.send(Err(error));
        }
        for entry in not_sent {
            if entry.deadline > now {
                self.again.push_back(entry);
            } else {
                let _ = entry.reply.send(Err(error.clone()));
            }
        }
    }

    async fn stream(&mut self, in_flight: &mut InFlight) -> Ended {
        let (frames, outgoing) = mpsc::channel(FRAMES_WAITING);
        let mut client = IngressServiceClient::new(self.channels.clone());
        let opened = client.publish_stream(ReceiverStream::new(outgoing));
        let (via, mut acks) = match tokio::time::timeout(self.timeout, opened).await {
            Ok(Ok(response)) => (Via::of(&response), response.into_inner()),
            Ok(Err(status)) => return Ended::Broken(status.into()),
            Err(_) => {
                return Ended::Broken(Error::unavailable("the broker did not open the stream in time"));
            }
        };
        let mut open = true;
        let mut taken = Vec::new();
        loop {
            let idle = in_flight.entries.is_empty();
            if !open && idle && self.again.is_empty() {
                drop(frames);
                return Ended::Done;
            }
            // A stream in good order may be silent for ever, unless an ack is missing.
            let patience = if idle { Duration::MAX } else { self.timeout };
            let response = tokio::select! {
                response = next(&mut acks, patience) => response,
                frame = frames.reserve(), if !self.again.is_empty() => match frame {
                    Ok(frame) => {
                        frame.send(self.next_frame(in_flight));
                        continue;
                    }
                    // Why comes with the acks.
                    Err(_) => next(&mut acks, self.timeout).await,
                },
                count = self.waiting.recv_many(&mut taken, FRAME_MESSAGES), if open && self.again.is_empty() => {
                    open = count > 0;
                    self.again.extend(taken.drain(..));
                    continue;
                }
            };
            let response = match response {
                Ok(response) => response,
                Err(error) => return Ended::Broken(error),
            };
            self.failures = 0;
            response.acks.into_iter().for_each(|ack| in_flight.answer(ack));
            if response.draining {
                drop(frames);
                self.channels.leave(via.as_ref());
                return self.drain(acks, in_flight).await;
            }
        }
    }

    /// Takes the acks that are missing.
    async fn drain(&self, mut acks: Streaming<PublishStreamResponse>, in_flight: &mut InFlight) -> Ended {
        while !in_flight.entries.is_empty() {
            match next(&mut acks, self.timeout).await {
                Ok(response) => response.acks.into_iter().for_each(|ack| in_flight.answer(ack)),
                Err(error) => return Ended::Broken(error),
            }
        }
        Ended::Drained
    }

    /// Takes what waits, up to the size of a frame.
    fn next_frame(&mut self, in_flight: &mut InFlight) -> PublishStreamRequest {
        let first_id = in_flight.first_id + in_flight.entries.len() as u64;
        let mut messages = Vec::new();
        let mut bytes = 0;
        while messages.len() < FRAME_MESSAGES && bytes < FRAME_BYTES {
            let entry = match self.again.pop_front() {
                Some(entry) => entry,
                None => match self.waiting.try_recv() {
                    Ok(entry) => entry,
                    Err(_) => break,
                },
            };
            bytes += entry.size;
            if !messages.is_empty() && bytes > FRAME_BYTES {
                self.again.push_front(entry);
                break;
            }
            let mut entry = entry;
            // Kept for a repetition only where one may come: the data is shared, the rest is copied.
            messages.push(if entry.repeatable { entry.request.clone() } else { std::mem::take(&mut entry.request) });
            in_flight.entries.push_back(Some(entry));
        }
        PublishStreamRequest { first_id, messages }
    }
}

impl InFlight {
    fn answer(&mut self, ack: PublishAck) {
        let error = ack.error.map(Error::of_publish);
        for offset in 0..u64::from(ack.count) {
            let Some(position) = (ack.first_id + offset).checked_sub(self.first_id) else {
                continue;
            };
            let slot = usize::try_from(position).ok().and_then(|position| self.entries.get_mut(position));
            let Some(entry) = slot.and_then(Option::take) else {
                continue;
            };
            let result = match &error {
                Some(error) => Err(error.clone()),
                None => {
                    let PublishAck { first_sequence, duplicate, scheduled, .. } = ack;
                    let sequence = if scheduled { 0 } else { first_sequence + offset };
                    Ok(Published { sequence, duplicate, scheduled })
                }
            };
            // The caller may have stopped waiting.
            let _ = entry.reply.send(result);
        }
        while let Some(None) = self.entries.front() {
            self.entries.pop_front();
            self.first_id += 1;
        }
    }
}

/// The next response; an end of the stream while acks are missing is a break.
async fn next(acks: &mut Streaming<PublishStreamResponse>, timeout: Duration) -> Result<PublishStreamResponse> {
    match tokio::time::timeout(timeout, acks.message()).await {
        Ok(Ok(Some(response))) => Ok(response),
        Ok(Ok(None)) => Err(Error::unavailable("the broker ended the stream: the outcome is unknown")),
        Ok(Err(status)) => Err(status.into()),
        Err(_) => Err(Error::unavailable("no ack came in time: the outcome is unknown")),
    }
}
