//! A short queue of pages between a reader of the store and a client's stream.
//!
//! The writer waits while the client has a page left to take. A client that takes nothing for the stall timeout loses
//! its pages at once, whether or not it ever looks again, and finds the reason at the end of its stream. A task watches
//! that: the writer may have ended, or wait for what other clients leave untaken.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::sync::Notify;
use tokio_stream::Stream;
use tonic::Status;

use crate::{admission::Permit, types::time};

/// Pages that wait for the client, besides the one it is taking.
const PAGES_MAX: usize = 1;

/// How often a client is looked at within the stall timeout.
const LOOKS: u32 = 4;

struct State<T> {
    /// The page that the client is taking.
    current: std::vec::IntoIter<T>,
    current_permit: Option<Permit>,
    waiting: VecDeque<(Vec<T>, Permit)>,
    /// Items taken so far.
    taken: u64,
    /// Set once: nothing more is written.
    end: Option<Option<Status>>,
    reader: Option<Waker>,
    reader_gone: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Wakes the writer that waits for room: a permit wakes one waiter, so nobody else may wait here.
    taken: Notify,
    /// Wakes whoever waits for the end of the client.
    gone: Notify,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writing end; cloning gives another hand on the same stream.
pub(super) struct Outlet<T>(Arc<Shared<T>>);

impl<T> Clone for Outlet<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The client's end.
pub(super) struct OutletStream<T>(Arc<Shared<T>>);

/// The client is gone, or lost its stream because it did not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed;

/// Makes a stream and its writing end.
pub(super) fn outlet<T: Send + 'static>(stall_timeout: Duration) -> (Outlet<T>, OutletStream<T>) {
    let state = State {
        current: Vec::new().into_iter(),
        current_permit: None,
        waiting: VecDeque::new(),
        taken: 0,
        end: None,
        reader: None,
        reader_gone: false,
    };
    let shared = Arc::new(Shared { state: Mutex::new(state), taken: Notify::new(), gone: Notify::new() });
    tokio::spawn(watch(Arc::downgrade(&shared), stall_timeout));
    (Outlet(shared.clone()), OutletStream(shared))
}

/// Ends the stream of a client that takes nothing although there is something to take.
async fn watch<T>(shared: Weak<Shared<T>>, stall_timeout: Duration) {
    let (mut taken, mut looks) = (0, 0);
    loop {
        tokio::time::sleep(stall_timeout / LOOKS).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let mut state = shared.lock();
        if state.reader_gone {
            return;
        }
        let is_still = state.taken == taken && (state.current_permit.is_some() || state.has_items());
        (taken, looks) = (state.taken, if is_still { looks + 1 } else { 0 });
        if looks == LOOKS && !state.has_items() {
            // It took all there was, and did not come back to say so.
            (state.current_permit, looks) = (None, 0);
        }
        if looks == LOOKS {
            state.end = Some(Some(Status::resource_exhausted(format!(
                "the stream was not read for {}: read faster, or ask for less at a time",
                time::show(stall_timeout)
            ))));
            state.discard();
            drop(state);
            shared.taken.notify_one();
            return;
        }
    }
}

impl<T> State<T> {
    /// True while there is something to take.
    fn has_items(&self) -> bool {
        self.current.len() > 0 || !self.waiting.is_empty()
    }

    fn discard(&mut self) {
        self.current = Vec::new().into_iter();
        self.current_permit = None;
        self.waiting.clear();
    }
}

impl<T> Outlet<T> {
    /// Waits for room and queues a page; its permit is given back when the client has taken all of it.
    ///
    /// # Errors
    /// [`Closed`] if the client is gone or stalls.
    pub(super) async fn send(&self, page: Vec<T>, permit: Permit) -> Result<(), Closed> {
        self.room().await;
        self.push(page, permit)
    }

    /// Queues a page without waiting: for a writer that asked for room before, and is the only one.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub(super) fn push(&self, page: Vec<T>, permit: Permit) -> Result<(), Closed> {
        let mut state = self.0.lock();
        if state.reader_gone || state.end.is_some() {
            return Err(Closed);
        }
        state.waiting.push_back((page, permit));
        wake(&mut state);
        Ok(())
    }

    /// Ends the stream after what is queued; `None` ends it well. The first end counts.
    pub(super) fn end(&self, status: Option<Status>) {
        let mut state = self.0.lock();
        state.end.get_or_insert(status);
        wake(&mut state);
    }

    /// Completes when the client is gone.
    pub(super) async fn closed(&self) {
        while !self.0.lock().reader_gone {
            self.0.gone.notified().await;
        }
        // Others may wait for it, too: pass it on.
        self.0.gone.notify_one();
    }

    /// Waits for room. One task at a time may wait.
    pub(super) async fn room(&self) {
        while !self.has_room() {
            self.0.taken.notified().await;
        }
    }

    /// True if a page can be queued, or nobody will ever take one.
    pub(super) fn has_room(&self) -> bool {
        let state = self.0.lock();
        state.waiting.len() < PAGES_MAX || state.reader_gone || state.end.is_some()
    }
}

fn wake<T>(state: &mut State<T>) {
    if let Some(reader) = state.reader.take() {
        reader.wake();
    }
}

impl<T: Unpin> Stream for OutletStream<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.lock();
        loop {
            if let Some(item) = state.current.next() {
                state.taken += 1;
                return Poll::Ready(Some(Ok(item)));
            }
            state.current_permit = None;
            if let Some((page, permit)) = state.waiting.pop_front() {
                state.current = page.into_iter();
                state.current_permit = Some(permit);
                self.0.taken.notify_one();
                continue;
            }
            return match state.end.as_mut() {
                Some(status) => Poll::Ready(status.take().map(Err)),
                None => {
                    state.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
    }
}

impl<T> Drop for OutletStream<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.reader_gone = true;
        state.discard();
        drop(state);
        self.0.taken.notify_one();
        self.0.gone.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;
    use crate::{admission::Admission, config::Config};

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_reads_is_dropped_with_a_reason() {
        let (outlet, mut stream) = outlet(Duration::from_secs(30));
        assert_eq!(outlet.send(vec![1, 2], Permit::default()).await, Ok(()));
        assert_eq!(outlet.send(vec![3], Permit::default()).await, Err(Closed), "after the stall timeout");
        let status = stream.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert!(status.message().contains("not read for 30s"), "{}", status.message());
        assert!(stream.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_reads_keeps_no_permit_when_its_writer_has_ended() {
        let config = Config::load(None, |name| (name == "LIMITS_SUBSCRIPTIONS").then(|| "1".into())).unwrap();
        let admission = Admission::new(&config);
        let (outlet, _stream) = outlet(Duration::from_secs(30));
        outlet.send(vec![1], admission.subscription().unwrap()).await.unwrap();
        outlet.end(None);
        drop(outlet);
        assert!(admission.subscription().is_err());
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(admission.subscription().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_is_not_dropped() {
        let (outlet, mut stream) = outlet(Duration::from_secs(30));
        outlet.send((1..=10).collect(), Permit::default()).await.unwrap();
        for item in 1..=10 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            assert_eq!(stream.next().await.unwrap().unwrap(), item);
        }
        // Nor is one that has nothing to take.
        tokio::time::sleep(Duration::from_secs(300)).await;
        outlet.send(vec![11], Permit::default()).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), 11);
    }

    #[tokio::test]
    async fn pages_arrive_in_order_and_end_well() {
        let (outlet, stream) = outlet(Duration::from_secs(30));
        let writer = tokio::spawn(async move {
            for page in [vec![1, 2], vec![], vec![3], vec![4, 5]] {
                outlet.send(page, Permit::default()).await.unwrap();
            }
            outlet.end(None);
        });
        let items: Vec<i32> = stream.map(Result::unwrap).collect().await;
        assert_eq!(items, [1, 2, 3, 4, 5]);
        writer.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_end_takes_no_turn_of_the_writer() {
        let (outlet, mut stream) = outlet(Duration::from_secs(30));
        let waiting = tokio::spawn({
            let outlet = outlet.clone();
            async move { outlet.closed().await }
        });
        let writer = tokio::spawn(async move {
            for page in 1..=100 {
                outlet.send(vec![page], Permit::default()).await.unwrap();
            }
        });
        for page in 1..=100 {
            // The writer fills the queue and waits before each page is taken.
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(stream.next().await.unwrap().unwrap(), page);
        }
        writer.await.unwrap();
        drop(stream);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn the_writer_learns_that_the_client_is_gone() {
        let (outlet, stream) = outlet(Duration::from_secs(30));
        outlet.send(vec![1], Permit::default()).await.unwrap();
        drop(stream);
        outlet.closed().await;
        assert_eq!(outlet.send(vec![2], Permit::default()).await, Err(Closed));
    }
}
