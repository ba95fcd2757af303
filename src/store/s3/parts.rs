//! What is known of the parts of one object while they travel.

use std::sync::Arc;

use tokio::sync::watch;

use crate::error::{Error, Result};

/// Shared by the writer, its parts under way, and whoever waits for them.
pub(super) struct Parts(watch::Sender<State>);

#[derive(Default)]
struct State {
    /// By part; `None` while it is under way.
    etags: Vec<Option<String>>,
    /// Parts from the first on that are there.
    whole: usize,
    pending: usize,
    /// The first failure: no part counts any more.
    failure: Option<Error>,
}

/// A part under way. It has failed if this goes without a word.
pub(super) struct Ticket {
    parts: Arc<Parts>,
    index: usize,
    is_settled: bool,
}

/// Waits for parts, whatever becomes of their writer.
pub(super) struct Waiter(watch::Receiver<State>);

impl Parts {
    /// With the tags of the parts that are there.
    pub(super) fn new(etags: Vec<String>) -> Arc<Self> {
        let state = State { whole: etags.len(), etags: etags.into_iter().map(Some).collect(), ..State::default() };
        Arc::new(Self(watch::Sender::new(state)))
    }

    /// Parts begun and there.
    pub(super) fn count(&self) -> usize {
        self.0.borrow().etags.len()
    }

    /// Begins the next part.
    pub(super) fn begin(self: &Arc<Self>) -> Ticket {
        let mut index = 0;
        self.0.send_modify(|state| {
            index = state.etags.len();
            state.etags.push(None);
            state.pending += 1;
        });
        Ticket { parts: self.clone(), index, is_settled: false }
    }

    pub(super) fn waiter(&self) -> Waiter {
        Waiter(self.0.subscribe())
    }
}

impl Ticket {
    /// Counts from 1.
    pub(super) fn number(&self) -> u32 {
        u32::try_from(self.index + 1).unwrap_or(u32::MAX)
    }

    pub(super) fn settle(mut self, outcome: Result<String>) {
        self.end(outcome);
    }

    fn end(&mut self, outcome: Result<String>) {
        self.is_settled = true;
        self.parts.0.send_modify(|state| {
            state.pending -= 1;
            match outcome {
                Ok(etag) => state.etags[self.index] = Some(etag),
                Err(error) => state.failure = state.failure.take().or(Some(error)),
            }
            while state.etags.get(state.whole).is_some_and(Option::is_some) {
                state.whole += 1;
            }
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_settled {
            self.end(Err(Error::unavailable("a part of an upload was given up: go on from what was stored")));
        }
    }
}

impl Waiter {
    /// Waits until at most `max` parts are under way.
    pub(super) async fn at_most(&mut self, max: usize) -> Result<()> {
        self.until(|state| state.pending <= max).await.map(drop)
    }

    /// Waits for the first `count` parts; gives their tags.
    pub(super) async fn etags(&mut self, count: usize) -> Result<Vec<String>> {
        let state = self.until(|state| state.whole >= count).await?;
        Ok(state.etags.iter().take(count).flatten().cloned().collect())
    }

    async fn until(&mut self, mut is_so: impl FnMut(&State) -> bool) -> Result<watch::Ref<'_, State>> {
        let state = self.0.wait_for(|state| state.failure.is_some() || is_so(state)).await;
        let state = state.map_err(|_| Error::unavailable("the upload was given up: go on from what was stored"))?;
        match &state.failure {
            Some(error) => Err(error.clone()),
            None => Ok(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_is_whole_from_the_first_part_counts() {
        let parts = Parts::new(vec!["0".into()]);
        let (first, second) = (parts.begin(), parts.begin());
        assert_eq!((first.number(), second.number(), parts.count()), (2, 3, 3));
        second.settle(Ok("2".into()));
        assert_eq!(parts.waiter().etags(1).await.unwrap(), ["0"]);
        parts.waiter().at_most(1).await.unwrap();
        let mut waiter = parts.waiter();
        let waiting = tokio::spawn(async move { waiter.etags(3).await });
        first.settle(Ok("1".into()));
        assert_eq!(waiting.await.unwrap().unwrap(), ["0", "1", "2"]);
    }

    #[tokio::test]
    async fn a_part_that_is_given_up_fails_all() {
        let parts = Parts::new(Vec::new());
        drop(parts.begin());
        assert!(parts.waiter().etags(0).await.is_err());
        let waiter = parts.waiter();
        drop(parts);
        let mut waiter = waiter;
        assert!(waiter.at_most(0).await.is_err());
    }
}
