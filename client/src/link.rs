//! One stream of a consumer: its books, and the task that speaks for it.
//!
//! ```text
//! broker ─▶ deliveries ─▶ Leases ─▶ Deliveries (the reader) ─▶ Delivery (a handler)
//!    ▲                      │ ▲                                    │
//!    └── frames of what ◀───┘ └──────────── answers ◀──────────────┘
//!        is to be said
//! ```
//! Answers wait a moment for others to share a frame with, unless somebody waits for them. The task ends when the stream
//! breaks, or when it leaves: nothing more is taken, and what is out is settled.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use minitoolstream_proto::{ConsumeRequest, ConsumeResponse, Delivery};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Interval, MissedTickBehavior, interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    Client, Error, Result,
    answers::LAST,
    channels::Via,
    leases::{Leases, Terms},
    worker::Opening,
};

/// Frames that wait for the transport. Few: what waits here cannot grow into a larger frame any more.
const FRAMES_WAITING: usize = 2;

/// How long the broker may take to open a stream.
const OPENING_MAX: Duration = Duration::from_secs(10);

/// How long the broker may take to end its deliveries, and the stream, when it is left.
const ENDING_MAX: Duration = Duration::from_secs(1);

/// How long an answer that nobody waits for may wait for others.
const LINGER: Duration = Duration::from_millis(1);

/// So many heartbeats may be missed: then the connection is taken for broken.
const HEARTBEATS_MISSED: u32 = 3;

/// What the reader, the handlers and the task of a stream share.
#[derive(Debug)]
pub(crate) struct Link {
    leases: Mutex<Leases>,
    /// There is something to say, or it has become urgent.
    spoken: Notify,
    /// Reads what was too large to be sent along: at the broker that gave the leases, nobody else knows them.
    pub(crate) client: Client,
    /// The connection is about to end: what is read from now on may reach another broker.
    is_draining: AtomicBool,
}

impl Link {
    pub(crate) fn with<T>(&self, visit: impl FnOnce(&mut Leases) -> T) -> T {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let result = visit(&mut leases);
        let wakers = leases.take_wakers();
        drop(leases);
        wakers.into_iter().for_each(std::task::Waker::wake);
        result
    }

    /// True if the broker that gave the leases may be out of reach, other than by this stream.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    /// The same, for those who may have something to say.
    pub(crate) fn speak<T>(&self, visit: impl FnOnce(&mut Leases) -> T) -> T {
        let (result, is_news) = self.with(|leases| {
            let before = (leases.answers.is_empty(), leases.answers.in_a_hurry());
            let result = visit(leases);
            (result, before != (leases.answers.is_empty(), leases.answers.in_a_hurry()))
        });
        if is_news {
            self.spoken.notify_one();
        }
        result
    }

    /// The next message; `None` when this stream has no more.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.speak(|leases| {
            let taken = leases.poll_take(Instant::now(), cx);
            if taken.is_pending() {
                // More comes only once what was said is heard.
                leases.answers.hurry();
            }
            taken
        })
    }
}

/// The task's side of a stream.
pub(crate) struct Driver {
    pub(crate) link: Arc<Link>,
    /// The channel that it is open on.
    pub(crate) via: Option<Via>,
    frames: mpsc::Sender<ConsumeRequest>,
    responses: Streaming<ConsumeResponse>,
    extension: Interval,
    heartbeat: Interval,
    heard: Instant,
    silence_max: Duration,
    leave: watch::Receiver<bool>,
    is_leaving: bool,
    /// Deliveries may be on their way, although no more are asked for.
    may_deliver: bool,
    /// The broker delivered or confirmed something: it is worth coming back to.
    pub(crate) is_proven: bool,
    why_over: String,
}

/// How it went.
pub(crate) enum Ended {
    /// It was left, and all is settled.
    Left,
    /// The connection is about to end: what is out is to be settled on this stream, the rest on another.
    Draining,
    /// The stream broke.
    Broken(Error),
}

impl Driver {
    pub(crate) async fn open(client: &Client, opening: &Opening, leave: watch::Receiver<bool>) -> Result<Self> {
        let (frames, outgoing) = mpsc::channel(FRAMES_WAITING);
        // There is room: nothing was sent yet.
        let _ = frames.try_send(opening.request());
        let opened = async {
            let response = client.egress().consume(ReceiverStream::new(outgoing)).await?;
            let (via, mut responses) = (Via::of(&response), response.into_inner());
            let first = responses.message().await?;
            Ok::<_, tonic::Status>((via, responses, first))
        };
        let opened = timeout(OPENING_MAX, opened).await;
        let (via, responses, first) =
            opened.map_err(|_| Error::unavailable("the broker did not open the stream in time"))??;
        let Some((first, opened)) = first.and_then(|mut first| first.opened.take().map(|opened| (first, opened)))
        else {
            return Err(Error::unavailable("the broker ended the stream before it was open"));
        };
        let ack_wait = opened.ack_wait.and_then(|wait| wait.try_into().ok()).unwrap_or(Duration::from_secs(30));
        let terms = Terms { ack_wait, hold: opening.hold(), window: opening.window_messages };
        let client = Client { channels: client.channels.home_of(via.as_ref()), connect: client.connect.clone() };
        let leases = Mutex::new(Leases::new(terms));
        let link = Link { leases, spoken: Notify::new(), client, is_draining: AtomicBool::new(false) };
        let mut driver = Self {
            link: Arc::new(link),
            via,
            frames,
            responses,
            extension: ticks(ack_wait / 3),
            heartbeat: ticks(opening.heartbeat),
            heard: Instant::now(),
            silence_max: opening.heartbeat * HEARTBEATS_MISSED,
            leave,
            is_leaving: false,
            may_deliver: true,
            is_proven: false,
            why_over: "the worker was stopped, the message will be delivered again".into(),
        };
        driver.take_in(first);
        Ok(driver)
    }

    pub(crate) async fn run(&mut self) -> Ended {
        let ended = self.speak_and_hear().await;
        if let Ended::Broken(error) = &ended {
            self.why_over =
                format!("the stream broke, the message will be delivered again unless it was settled ({error})");
        }
        ended
    }

    /// Settles what is out, after the broker began to drain.
    pub(crate) async fn run_out(mut self) {
        self.link.is_draining.store(true, Ordering::Release);
        self.start_leaving();
        if let Ended::Left = self.run().await {
            self.finish().await;
        }
    }

    /// Ends a stream that was left.
    pub(crate) async fn finish(mut self) {
        // Dropping the responses at once could overtake what was said last.
        let (frames, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.frames, frames));
        let rest = async { while let Ok(Some(_)) = self.responses.message().await {} };
        let _ = timeout(ENDING_MAX, rest).await;
    }

    async fn speak_and_hear(&mut self) -> Ended {
        let frames = self.frames.clone();
        let lingering = tokio::time::sleep(LINGER);
        tokio::pin!(lingering);
        let (mut is_lingering, mut has_lingered) = (false, false);
        let delivered = tokio::time::sleep(ENDING_MAX);
        tokio::pin!(delivered);
        loop {
            let (is_empty, in_a_hurry) = self.link.with(|leases| {
                if self.is_leaving && !self.may_deliver && leases.is_quiet() {
                    return (true, true);
                }
                (leases.answers.is_empty(), leases.answers.in_a_hurry())
            });
            if is_empty && in_a_hurry {
                return Ended::Left;
            }
            let speaks = !is_empty && (in_a_hurry || has_lingered || self.is_leaving);
            if !is_empty && !speaks && !is_lingering {
                lingering.as_mut().reset(tokio::time::Instant::now() + LINGER);
                is_lingering = true;
            }
            tokio::select! {
                response = self.responses.message() => match response {
                    Ok(Some(response)) => {
                        if self.take_in(response) && !self.is_leaving {
                            return Ended::Draining;
                        }
                    }
                    Ok(None) => return Ended::Broken(Error::unavailable("the broker ended the stream")),
                    Err(status) => return Ended::Broken(status.into()),
                },
                permit = frames.reserve(), if speaks => match permit {
                    Ok(permit) => {
                        (is_lingering, has_lingered) = (false, false);
                        if let Some(frame) = self.link.with(|leases| leases.answers.next()) {
                            permit.send(frame);
                        }
                    }
                    // Why comes with the responses.
                    Err(_) => match self.responses.message().await {
                        Err(status) => return Ended::Broken(status.into()),
                        Ok(_) => return Ended::Broken(Error::unavailable("the broker takes no more answers")),
                    },
                },
                () = self.link.spoken.notified(), if !speaks => {}
                () = &mut lingering, if is_lingering && !speaks => {
                    (is_lingering, has_lingered) = (false, true);
                }
                _ = self.extension.tick() => {
                    self.link.with(|leases| leases.extend_held(Instant::now()));
                }
                _ = self.heartbeat.tick() => {
                    if self.heard.elapsed() > self.silence_max {
                        return Ended::Broken(Error::unavailable("nothing was heard of the broker for too long"));
                    }
                }
                // Dropping the reader is leaving, too.
                _ = self.leave.changed(), if !self.is_leaving => {
                    self.start_leaving();
                    delivered.as_mut().reset(tokio::time::Instant::now() + ENDING_MAX);
                }
                () = &mut delivered, if self.is_leaving && self.may_deliver => self.may_deliver = false,
            }
        }
    }

    fn start_leaving(&mut self) {
        self.is_leaving = true;
        self.link.with(|leases| {
            leases.answers.stop();
            leases.stop_taking();
        });
    }

    /// True if the connection is about to end.
    fn take_in(&mut self, response: ConsumeResponse) -> bool {
        let ConsumeResponse { deliveries, settled, mut refused, draining, .. } = response;
        self.heard = Instant::now();
        if deliveries.is_empty() && settled.is_empty() && refused.is_empty() {
            return draining;
        }
        refused.retain(|refused| {
            self.may_deliver &= refused.lease_id != LAST;
            refused.lease_id != LAST
        });
        self.is_proven = true;
        self.link.with(|leases| {
            settled.into_iter().for_each(|run| leases.settled(run));
            refused.into_iter().for_each(|refused| leases.refused(refused));
            if !deliveries.is_empty() {
                leases.arrive(deliveries, self.heard);
            }
        });
        draining
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.link.with(|leases| leases.end(&self.why_over));
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    ticks
}
