//! Threads for actors to live on.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use actix::{Arbiter, ArbiterHandle, System};
use tokio::sync::oneshot;

/// Where incarnations of an actor live.
#[derive(Clone)]
pub enum Threads {
    /// A thread for each incarnation.
    Own(ThreadMaker),
    /// One of a few shared threads.
    Shared(Arc<ThreadPool>),
}

/// Makes threads for actors, from any thread: only those of an actix system can make them, so its first one does.
#[derive(Clone)]
pub struct ThreadMaker(ArbiterHandle);

impl ThreadMaker {
    /// Makes threads of the system that the calling thread belongs to.
    pub fn of_this_system() -> Self {
        Self(System::current().arbiter().clone())
    }

    /// A new thread; `None` while the system shuts down.
    pub(super) async fn make(&self) -> Option<ArbiterHandle> {
        let (made, thread) = oneshot::channel();
        self.0.spawn_fn(move || drop(made.send(Arbiter::new().handle())));
        thread.await.ok()
    }
}

/// Threads that several actors share. One that hangs is replaced for those that come after.
pub struct ThreadPool {
    maker: ThreadMaker,
    threads: Mutex<Vec<(u64, ArbiterHandle)>>,
    next: AtomicU64,
}

/// A thread: its index in the pool, how often the one there was replaced, and the way to it.
pub(super) struct Place {
    index: usize,
    generation: u64,
    pub(super) thread: ArbiterHandle,
}

impl Place {
    /// A thread outside of any pool.
    pub(super) fn apart(thread: ArbiterHandle) -> Self {
        Self { index: 0, generation: 0, thread }
    }
}

impl ThreadPool {
    /// Starts `count` threads.
    pub async fn new(maker: ThreadMaker, count: usize) -> Self {
        let mut threads = Vec::new();
        for _ in 0..count.max(1) {
            threads.extend(maker.make().await.map(|thread| (0, thread)));
        }
        Self { maker, threads: Mutex::new(threads), next: AtomicU64::new(0) }
    }

    pub(super) fn pick(&self) -> Option<Place> {
        let threads = self.lock();
        let turn = usize::try_from(self.next.fetch_add(1, Ordering::Relaxed)).unwrap_or(0);
        let index = turn.checked_rem(threads.len())?;
        let (generation, thread) = threads[index].clone();
        Some(Place { index, generation, thread })
    }

    /// True if there is another thread in this place by now.
    pub(super) fn has_replaced(&self, place: &Place) -> bool {
        self.lock()[place.index].0 != place.generation
    }

    /// Puts a new thread in the place of one that is blocked or has ended, unless another actor that was there already
    /// did; `false` if the system is shutting down.
    pub(super) async fn replace(&self, blocked: &Place) -> bool {
        let Some(fresh) = self.maker.make().await else {
            return false;
        };
        let mut threads = self.lock();
        let (generation, thread) = &mut threads[blocked.index];
        let unused = if *generation == blocked.generation {
            *generation += 1;
            std::mem::replace(thread, fresh)
        } else {
            fresh
        };
        // Should a blocked thread wake, it finds that it is to end.
        unused.stop();
        true
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(u64, ArbiterHandle)>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
