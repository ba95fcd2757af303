//! From runs of leased messages to frames.

use std::collections::VecDeque;

use bytes::Bytes;
use minitoolstream_proto::{ConsumeResponse, Delivery};

use crate::{
    admission::Permit,
    block::{Located, Placement},
    broker::read::{MESSAGE_OVERHEAD, PAGE_BYTES},
    consumer::{
        Given, How, Run, Settle,
        window::{Held, Window},
    },
    error::{Error, Result},
    grpc::Broker,
    metrics::Service,
    store::reader::{Bodies, Stored},
    types::Timestamp,
};

/// A frame is closed at this many bytes of data.
const FRAME_BYTES: usize = 256 << 10;

/// A frame is closed at this many deliveries.
const FRAME_DELIVERIES: usize = 512;

/// What one look sends, and what it found that cannot be sent.
#[derive(Default)]
pub(super) struct Page {
    pub(super) frames: Vec<ConsumeResponse>,
    pub(super) permit: Permit,
    /// Answers of the broker's own to leases that never reached the worker.
    pub(super) settles: Vec<Settle>,
    /// Set if the store did not answer.
    pub(super) failed: Option<Error>,
    /// Bytes that the worker must have room for before it leases more: those of a message that did not fit.
    pub(super) needs: u64,
    frame_bytes: usize,
    bytes: usize,
    deliveries: usize,
}

/// What a page is made from.
pub(super) struct Source<'a> {
    pub(super) broker: &'a Broker,
    /// The largest data the client takes in one message.
    pub(super) message_bytes: usize,
    pub(super) now: Timestamp,
    /// Messages that wait behind those that are leased.
    pub(super) backlog: u64,
}

impl Source<'_> {
    /// Takes leased messages and makes one page of them, as far as the window takes them.
    pub(super) async fn page(&self, ready: &mut VecDeque<Run>, window: &mut Window, permit: Permit) -> Page {
        let mut page = Page { permit, ..Page::default() };
        let mut left = ready.iter().map(|run| run.given.len()).sum::<usize>();
        let blocks: Vec<Located> = ready.iter().map(located).collect();
        let mut bodies = Bodies::default();
        for index in 0..blocks.len() {
            let Some(run) = ready.pop_front() else { break };
            left -= run.given.len();
            if let Some(size) = self.sent_object(&run) {
                // One large message is a page of its own, with a permit for all of it.
                if page.deliveries > 0 {
                    ready.push_front(run);
                    break;
                }
                drop(std::mem::take(&mut page.permit));
                match self.broker.admission.read(size).await {
                    Ok(permit) => page.permit = permit,
                    Err(error) => page.fail(&run, error, self.now),
                }
            }
            if page.failed.is_none() {
                let behind = self.backlog + left as u64;
                match self.read(&mut bodies, &blocks[index..], &run).await {
                    Ok(messages) => self.deliver(&run, messages, window, behind, &mut page).await,
                    Err(error) => page.fail(&run, error, self.now),
                }
            }
            if page.failed.is_some() || page.needs > 0 {
                // What does not fit, or cannot be read now, goes back: others may take it.
                for run in ready.drain(..) {
                    page.give_back(&run.given, &How::Release, self.now);
                }
            }
            if page.bytes >= PAGE_BYTES || self.sent_object(&run).is_some() {
                break;
            }
        }
        page.permit.shrink_to(page.bytes + page.deliveries * MESSAGE_OVERHEAD);
        self.broker.metrics.bytes(Service::Egress, page.bytes as u64);
        page
    }

    /// The messages of a run, from its first to its last; an error other than that of a store at rest is an answer.
    async fn read(&self, bodies: &mut Bodies, blocks: &[Located], run: &Run) -> Result<Found> {
        let (Some(first), Some(last)) = (run.given.first(), run.given.last()) else {
            return Ok(Found::Gone);
        };
        let index = |given: &Given| u32::try_from(given.at - run.block.stream_first).unwrap_or(u32::MAX);
        match bodies.messages(&self.broker.stores, blocks, run.given.len(), index(first)..index(last) + 1).await {
            Ok(Some(messages)) => Ok(Found::Messages(messages)),
            Ok(None) => Ok(Found::Gone),
            Err(Error::DataLoss(what)) => Ok(Found::Damaged(what)),
            Err(error) => Err(error),
        }
    }

    async fn deliver(&self, run: &Run, found: Found, window: &mut Window, mut behind: u64, page: &mut Page) {
        let messages = match found {
            Found::Messages(messages) => messages,
            Found::Gone => return page.give_back(&run.given, &How::Gone, self.now),
            Found::Damaged(what) => return self.report(&run.given, run, what, page),
        };
        behind += run.given.len() as u64;
        // Few messages of a block would keep all of its body in memory.
        let is_sparse = run.given.len() * 4 < messages.len().max(run.block.count as usize);
        let (mut messages, mut sent) = (messages.into_iter(), 0);
        let mut next = run.given.first().map_or(0, |first| first.at);
        for (index, given) in run.given.iter().enumerate() {
            behind -= 1;
            let skipped = usize::try_from(given.at - next).unwrap_or(usize::MAX);
            next = given.at + 1;
            let Some(mut stored) = messages.nth(skipped) else { break };
            if is_sparse {
                stored.record.data = Bytes::copy_from_slice(&stored.record.data);
            }
            let one = std::slice::from_ref(given);
            // A lease that ended while it waited here is somebody else's, or will be.
            if given.deadline <= self.now {
                continue;
            }
            if stored.record.is_expired(self.now) {
                page.give_back(one, &How::Gone, self.now);
                continue;
            }
            let size = stored.object.as_ref().map_or(stored.record.data.len() as u64, |object| object.size);
            let bytes = if size <= self.message_bytes as u64 { size } else { 0 };
            if !window.takes(bytes) {
                page.needs = bytes;
                page.give_back(&run.given[index..], &How::Release, self.now);
                break;
            }
            let message = match self.broker.to_wire(stored, self.message_bytes).await {
                Ok(message) => message,
                Err(Error::DataLoss(what)) => {
                    self.report(one, run, what, page);
                    continue;
                }
                Err(error) => {
                    page.give_back(&run.given[index..], &How::Release, self.now);
                    page.failed = Some(error);
                    break;
                }
            };
            let held = Held { at: given.at, attempt: given.attempt, bytes, deadline: given.deadline };
            let lease_id = window.send(held);
            page.push(Delivery { lease_id, attempt: given.attempt, backlog: behind, message: Some(message) });
            sent += 1;
        }
        if sent > 0 {
            self.broker.metrics.messages(Service::Egress, &run.subject, "ok", sent);
        }
    }

    /// Damage is told, and what is damaged is given up: it must not hold up what lies behind it (P7).
    fn report(&self, given: &[Given], run: &Run, what: String, page: &mut Page) {
        let error = Error::DataLoss(what.clone());
        self.broker.metrics.messages(Service::Egress, &run.subject, error.label(), given.len() as u64);
        tracing::error!(subject = %run.subject, sequence = run.block.first, %error, "a damaged block was refused");
        page.give_back(given, &How::Damaged(what), self.now);
    }

    /// The size of a message that is an object, if it is sent along.
    fn sent_object(&self, run: &Run) -> Option<usize> {
        match run.block.placement {
            Placement::Object { size, .. } => usize::try_from(size).ok().filter(|size| *size <= self.message_bytes),
            _ => None,
        }
    }
}

/// What became of the messages of a run.
enum Found {
    Messages(Vec<Stored>),
    /// Removed since they were leased.
    Gone,
    Damaged(String),
}

impl Page {
    fn push(&mut self, delivery: Delivery) {
        let bytes = delivery.message.as_ref().map_or(0, |message| message.data.len());
        self.bytes += bytes;
        self.deliveries += 1;
        self.frame_bytes += bytes;
        match self.frames.last_mut() {
            Some(frame) if self.frame_bytes <= FRAME_BYTES && frame.deliveries.len() < FRAME_DELIVERIES => {
                frame.deliveries.push(delivery);
            }
            _ => {
                self.frame_bytes = bytes;
                self.frames.push(ConsumeResponse { deliveries: vec![delivery], ..Default::default() });
            }
        }
    }

    fn give_back(&mut self, given: &[Given], how: &How, now: Timestamp) {
        let settle = |given: &Given| Settle { at: given.at, attempt: given.attempt, received: now, how: how.clone() };
        self.settles.extend(given.iter().map(settle));
    }

    fn fail(&mut self, run: &Run, error: Error, now: Timestamp) {
        self.give_back(&run.given, &How::Release, now);
        self.failed = Some(error);
    }
}

fn located(run: &Run) -> Located {
    Located { subject: run.subject.clone(), floor: 0, block: run.block.clone() }
}
