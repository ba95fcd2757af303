use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// Tenths of a retry that are saved up at most.
const CAPACITY: u32 = 1000;

/// What one retry costs; each request that succeeds earns one.
const COST: u32 = 10;

/// Pauses before the first retry: usually, and when the server asks for fewer requests.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_SLOW_DOWN: Duration = Duration::from_millis(200);

/// No pause is longer.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Limits the retries of all requests together: a hundred at once, and then one for each ten that succeed. An outage so is
/// not met with many times the usual load.
pub(super) struct Budget(AtomicU32);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicU32::new(CAPACITY))
    }
}

impl Budget {
    /// Takes a retry out, unless there is none.
    pub(super) fn take(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| saved.checked_sub(COST)).is_ok()
    }

    /// Saves up after a success.
    pub(super) fn earn(&self) {
        let more = |saved: u32| (saved < CAPACITY).then_some(saved + 1);
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }
}

/// Pause after the attempt of this number, from 1 on: it doubles, and half of it is chance. `chance` is in `0.0..1.0`.
pub(super) fn pause(attempt: u32, slow_down: bool, asked: Option<Duration>, chance: f64) -> Duration {
    let first = if slow_down { PAUSE_SLOW_DOWN } else { PAUSE };
    let full = first.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(PAUSE_MAX);
    let pause = full.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0);
    pause.max(asked.unwrap_or_default().min(PAUSE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_run_out_and_are_earned_again() {
        let budget = Budget::default();
        assert_eq!((0..200).filter(|_| budget.take()).count(), 100);
        (0..9).for_each(|_| budget.earn());
        assert!(!budget.take());
        budget.earn();
        assert!(budget.take());
        (0..5000).for_each(|_| budget.earn());
        assert_eq!((0..200).filter(|_| budget.take()).count(), 100, "no more than that is saved");
    }

    #[test]
    fn pauses_double_within_their_limits() {
        let millis = |attempt, slow_down, chance| pause(attempt, slow_down, None, chance).as_millis();
        assert_eq!((millis(1, false, 0.0), millis(1, false, 1.0)), (25, 50));
        assert_eq!((millis(3, false, 1.0), millis(3, true, 1.0)), (200, 800));
        assert_eq!(pause(u32::MAX, true, None, 1.0), PAUSE_MAX);
        assert_eq!(pause(1, false, Some(Duration::from_secs(2)), 1.0), Duration::from_secs(2));
        assert_eq!(pause(1, false, Some(Duration::from_secs(3600)), 1.0), PAUSE_MAX);
    }
}
