use std::time::Duration;

/// How long to wait before trying again: doubles with each failure, with jitter, so that clients that failed together
/// do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Longest wait after the first failure.
    pub first: Duration,
    /// Longest wait.
    pub max: Duration,
}

impl Default for Backoff {
    /// 50 ms, doubling up to 2 s.
    fn default() -> Self {
        Self { first: Duration::from_millis(50), max: Duration::from_secs(2) }
    }
}

impl Backoff {
    /// The wait after `failures` failures in a row (from 1), where `random` is drawn from 0.0 to 1.0: between half of
    /// the step and all of it.
    pub fn wait(&self, failures: u32, random: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        let step = (self.first * 2_u32.pow(doublings)).min(self.max);
        step.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    pub(crate) async fn sleep(&self, failures: u32, at_least: Option<Duration>) {
        let wait = self.wait(failures, fastrand::f64());
        tokio::time::sleep(wait.max(at_least.unwrap_or_default())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_with_jitter_up_to_the_limit() {
        let backoff = Backoff::default();
        assert_eq!(backoff.wait(1, 0.0), Duration::from_millis(25));
        assert_eq!(backoff.wait(1, 1.0), Duration::from_millis(50));
        assert_eq!(backoff.wait(3, 1.0), Duration::from_millis(200));
        assert_eq!(backoff.wait(1000, 1.0), Duration::from_secs(2));
    }
}
