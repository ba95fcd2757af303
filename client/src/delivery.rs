use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use minitoolstream_proto as proto;

use crate::{Message, Open, Result, answers::Answer, link::Link};

/// A message that is this worker's until it answers: one of [`ack`](Self::ack), [`nak`](Self::nak),
/// [`nak_after`](Self::nak_after), [`terminate`](Self::terminate), [`release`](Self::release) and
/// [`ack_up_to`](Self::ack_up_to).
///
/// While it lives, its lease is extended by itself, up to the consumer's `max_hold`. Dropped without an answer, as by a
/// handler that panics, it counts as [`nak`](Self::nak)ed.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// How often it was delivered, this time included: 1 for the first.
    pub attempt: u32,
    /// Messages that wait behind it; at least so many while a filter with wildcards is far behind.
    pub backlog: u64,
    lease: Lease,
}

#[derive(Debug)]
struct Lease {
    link: Arc<Link>,
    id: u64,
    is_answered: AtomicBool,
}

impl Delivery {
    pub(crate) fn new(link: Arc<Link>, delivery: proto::Delivery) -> Self {
        let proto::Delivery { lease_id: id, attempt, backlog, message } = delivery;
        let message = message.unwrap_or_default().into();
        Self { message, attempt, backlog, lease: Lease { link, id, is_answered: AtomicBool::new(false) } }
    }

    /// The data to be read, whatever its size; await it for a [`Reader`](crate::Reader). Data that did not come along are
    /// read by the lease: once that is lost, the read fails with [`Error::LeaseLost`](crate::Error::LeaseLost), as the
    /// message is or will be with another worker. The lease is extended meanwhile, as long as this lives.
    pub fn reader(&self) -> Open {
        let Lease { link, id, .. } = &self.lease;
        Open::new(link.client.clone(), (&self.message).into(), Some((link.clone(), *id)))
    }

    /// The data, read from the broker if the message was too large to be sent along. All of it is kept in memory: read
    /// messages of many gigabytes with [`reader`](Self::reader).
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) if the message expired meanwhile,
    /// [`Error::LeaseLost`](crate::Error::LeaseLost) if it is no longer this worker's.
    pub async fn data(&self) -> Result<Bytes> {
        if let Some(data) = &self.message.data {
            return Ok(data.clone());
        }
        let mut reader = self.reader().await?;
        let mut data = BytesMut::new();
        while let Some(piece) = reader.piece().await? {
            data.extend_from_slice(&piece);
        }
        Ok(data.freeze())
    }

    /// The message is done.
    pub fn ack(self) -> Settled {
        self.say(Answer::Ack)
    }

    /// Like [`ack`](Self::ack), for those who do not ask what became of it: takes less time.
    pub fn ack_nowait(self) {
        self.tell(Answer::Ack);
    }

    /// The message is done, with every one that this stream delivered before it. Keep the earlier deliveries until now:
    /// those that were answered or dropped are not changed by it.
    pub fn ack_up_to(self) -> Settled {
        self.say(Answer::AckUpTo)
    }

    /// The message is not done: to be delivered again after the consumer's back-off.
    pub fn nak(self) -> Settled {
        self.say(Answer::Nak(None))
    }

    /// The message is not done: to be delivered again after a delay, of at most 24 h.
    pub fn nak_after(self, delay: Duration) -> Settled {
        self.say(Answer::Nak(Some(delay)))
    }

    /// The message can never be done: it is dead-lettered. The reason is kept with the dead letter, up to 255 bytes of it.
    pub fn terminate(self, reason: impl Into<String>) -> Settled {
        self.say(Answer::Terminate(reason.into()))
    }

    /// Work on the message was not begun: to be delivered again at once, and this attempt does not count.
    pub fn release(self) -> Settled {
        self.say(Answer::Release)
    }

    /// Begins the ack wait anew. Needed only by consumers without `auto_extend`, and beyond `max_hold`. That it was done
    /// is not confirmed; that it was not shows in [`lost`](Self::lost).
    ///
    /// # Errors
    /// [`Error::LeaseLost`](crate::Error::LeaseLost) if it is known to be too late.
    pub fn extend(&self) -> Result<()> {
        self.lease.link.speak(|leases| leases.extend(self.lease.id))
    }

    /// Why the message is no longer this worker's, if that is known: it is or will be delivered again, maybe to another.
    pub fn lost(&self) -> Option<crate::Error> {
        self.lease.link.with(|leases| leases.refusal(self.lease.id))
    }

    /// Answers, and asks for what becomes of it.
    pub(crate) fn say(&self, answer: Answer) -> Settled {
        let Lease { link, id, is_answered } = &self.lease;
        is_answered.store(true, Relaxed);
        link.speak(|leases| leases.answer(*id, answer, true));
        Settled { link: link.clone(), id: *id, is_known: false }
    }

    /// Answers.
    pub(crate) fn tell(&self, answer: Answer) {
        let Lease { link, id, is_answered } = &self.lease;
        is_answered.store(true, Relaxed);
        link.speak(|leases| leases.answer(*id, answer, false));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !*self.is_answered.get_mut() {
            self.link.speak(|leases| leases.dropped(self.id));
        }
    }
}

/// What becomes of an answer, which was given already: resolves once it is on the broker's stable storage, or with
/// [`Error::LeaseLost`](crate::Error::LeaseLost). May be dropped by those who do not ask.
#[derive(Debug)]
pub struct Settled {
    link: Arc<Link>,
    id: u64,
    is_known: bool,
}

impl Future for Settled {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let id = self.id;
        let settled = self.link.speak(|leases| {
            leases.answers.hurry();
            leases.poll_settled(id, cx)
        });
        self.is_known = settled.is_ready();
        settled
    }
}

impl Drop for Settled {
    fn drop(&mut self) {
        if !self.is_known {
            self.link.with(|leases| leases.ask_no_more(self.id));
        }
    }
}
