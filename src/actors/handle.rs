//! How callers reach a supervised actor, whichever incarnation lives.

use std::sync::Arc;

use actix::{Actor, Addr, Context, Handler, Message};
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// One life of an actor.
pub(super) struct Incarnation<A: Actor> {
    pub(super) address: Addr<A>,
    pub(super) over: CancellationToken,
}

impl<A: Actor> Clone for Incarnation<A> {
    fn clone(&self) -> Self {
        Self { address: self.address.clone(), over: self.over.clone() }
    }
}

/// The present address of a supervised actor.
pub struct Handle<A: Actor> {
    name: &'static str,
    present: watch::Receiver<Option<Incarnation<A>>>,
    alarm: Arc<Notify>,
}

/// A message that lies in a mailbox or was taken from there.
pub struct Delivered {
    to: &'static str,
    over: CancellationToken,
}

impl Delivered {
    /// Waits for the answer that the message asked for. `None`: the actor died, or was given up, without one.
    pub async fn answer<T>(self, answer: oneshot::Receiver<T>) -> Option<T> {
        tokio::select! {
            biased;
            answer = answer => answer.ok(),
            () = self.over() => None,
        }
    }

    /// Completes when the actor that got the message has died or was given up.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }

    /// The error of a message that was taken back before the actor began with it.
    pub fn not_begun(&self) -> Error {
        restarting(self.to)
    }
}

impl<A: Actor> Clone for Handle<A> {
    fn clone(&self) -> Self {
        Self { name: self.name, present: self.present.clone(), alarm: self.alarm.clone() }
    }
}

impl<A: Actor<Context = Context<A>>> Handle<A> {
    /// A handle on whichever incarnation is present; `alarm` wakes its supervisor.
    pub(super) fn new(
        name: &'static str,
        present: watch::Receiver<Option<Incarnation<A>>>,
        alarm: Arc<Notify>,
    ) -> Self {
        Self { name, present, alarm }
    }

    /// Puts a message into the mailbox. What the message asks for is answered through a channel in it: wait for that
    /// through [`Delivered::answer`], as an actor may die over it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the actor is down: the message was not delivered.
    pub fn tell<M>(&self, message: M) -> Result<Delivered>
    where
        M: Message<Result = ()> + Send + 'static,
        A: Handler<M>,
    {
        let present = self.present.borrow().clone();
        let Some(Incarnation { address, over }) = present else {
            return Err(restarting(self.name));
        };
        match address.try_send(message) {
            Ok(()) => Ok(Delivered { to: self.name, over }),
            Err(_) => {
                self.alarm.notify_one();
                Err(restarting(self.name))
            }
        }
    }

    /// Completes when an incarnation lives, or when none ever will.
    pub async fn up(&self) {
        // An error says that the supervisor has ended.
        let _ = self.present.clone().wait_for(Option::is_some).await;
    }

    /// True while an incarnation lives, as far as its supervisor knows.
    pub fn is_up(&self) -> bool {
        self.present.borrow().is_some()
    }

    /// The actor's name in logs and metrics.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

fn restarting(name: &str) -> Error {
    Error::unavailable(format!("the {name} is restarting: nothing was done, repeat the request"))
}
