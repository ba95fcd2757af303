use std::{
    collections::HashMap,
    num::NonZero,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{Mutex as Turnstile, OwnedMutexGuard, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    error::{Error, Result},
    types::UploadId,
};

/// How long one who continues an upload waits for the other to leave.
const LEAVE_MAX: Duration = Duration::from_secs(10);

/// Who uploads what, in this process: one at a time, the last one wins.
#[derive(Debug)]
pub struct Uploaders {
    seats: Mutex<HashMap<UploadId, Arc<Seat>>>,
    /// Pieces that may be hashed and written at a time: others of the broker want the processors and the disk, too.
    pub(super) pieces: Semaphore,
}

impl Default for Uploaders {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self { seats: Mutex::default(), pieces: Semaphore::new((processors / 2).max(1)) }
    }
}

#[derive(Debug)]
struct Seat {
    turn: Arc<Turnstile<()>>,
    /// Ends who holds the turn.
    leave: Mutex<CancellationToken>,
}

/// The right to write an upload.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Cancelled when another one wants to go on.
    pub(crate) leave: CancellationToken,
    _held: OwnedMutexGuard<()>,
}

impl Uploaders {
    /// Takes the turn, after whoever has it was asked to leave and did.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if that takes too long.
    pub(crate) async fn enter(&self, id: &UploadId) -> Result<Turn> {
        let leave = CancellationToken::new();
        let seat = {
            let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
            // Seats that nobody has or waits for.
            seats.retain(|_, seat| Arc::strong_count(&seat.turn) > 1);
            let seat = seats.entry(id.clone()).or_insert_with(|| {
                Arc::new(Seat { turn: Arc::default(), leave: Mutex::new(CancellationToken::new()) })
            });
            let mut present = seat.leave.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *present, leave.clone()).cancel();
            seat.turn.clone()
        };
        let held = tokio::time::timeout(LEAVE_MAX, seat.lock_owned()).await;
        let held = held.map_err(|_| Error::unavailable(format!("upload '{id}' is still being written: try again")))?;
        if leave.is_cancelled() {
            return Err(overtaken(id));
        }
        Ok(Turn { leave, _held: held })
    }
}

/// What one who had to leave is told.
pub(super) fn overtaken(id: &UploadId) -> Error {
    Error::Precondition(format!("upload '{id}' is continued or aborted by somebody else"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_one_wins_and_waits_for_the_one_before() {
        let (uploaders, id) = (Arc::new(Uploaders::default()), UploadId::parse("upload_id", "a").unwrap());
        let first = uploaders.enter(&id).await.unwrap();
        let enter = || {
            tokio::spawn({
                let (uploaders, id) = (uploaders.clone(), id.clone());
                async move { uploaders.enter(&id).await }
            })
        };
        let second = enter();
        first.leave.cancelled().await;
        let third = enter();
        tokio::task::yield_now().await;
        drop(first);
        let (second, third) = (second.await.unwrap(), third.await.unwrap().unwrap());
        assert!(second.is_err(), "it was overtaken before its turn came");
        assert!(!third.leave.is_cancelled());
        drop(third);
        assert!(uploaders.enter(&UploadId::parse("upload_id", "b").unwrap()).await.is_ok());
        assert_eq!(uploaders.seats.lock().unwrap().len(), 1, "left seats are cleared");
    }
}
