use std::sync::{Arc, Mutex, PoisonError};

use actix::Message;

/// Something that its sender and its receiver hold, and that goes to the one who takes it first.
///
/// So a sender can take back what an actor that hung left lying in its mailbox, and be sure that it will not be carried
/// out when that actor wakes.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Parcel<T: 'static>(Arc<Mutex<Option<T>>>);

impl<T> Parcel<T> {
    /// A parcel that nobody has taken.
    pub fn new(content: T) -> Self {
        Self(Arc::new(Mutex::new(Some(content))))
    }

    /// The content, unless the other side was faster.
    pub fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Looks at the content, if nobody has taken it.
    pub fn look<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(look)
    }
}

impl<T> Clone for Parcel<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
