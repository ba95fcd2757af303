use crate::{Backoff, Error, Result};

/// Attempts in a row that brought nothing new.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempts {
    backoff: Backoff,
    failures: u32,
    max: u32,
}

impl Attempts {
    /// Up to `max` of them, with waits between.
    pub(crate) fn new(backoff: Backoff, max: u32) -> Self {
        Self { backoff, failures: 0, max }
    }

    /// Something new came: the count begins anew.
    pub(crate) fn progressed(&mut self) {
        self.failures = 0;
    }

    /// Notes that one failed; gives the error if there is to be no other.
    pub(crate) fn failed(&mut self, error: Error) -> Result<Error> {
        self.failures += 1;
        if error.is_transient() && self.failures < self.max { Ok(error) } else { Err(error) }
    }

    /// Waits for the next one.
    pub(crate) async fn wait(self, error: &Error) {
        self.backoff.sleep(self.failures, error.retry_after()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_bounded_and_counted_anew_after_progress() {
        let mut attempts = Attempts::new(Backoff::default(), 2);
        let broken = || Error::unavailable("broken");
        assert!(attempts.failed(broken()).is_ok());
        attempts.progressed();
        assert!(attempts.failed(broken()).is_ok());
        assert!(attempts.failed(broken()).is_err());
        attempts.progressed();
        assert!(attempts.failed(Error::NotFound("gone".into())).is_err(), "trying again does not mend it");
    }
}
