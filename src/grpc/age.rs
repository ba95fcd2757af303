use std::time::Duration;

/// Ages of connections that were opened together differ by up to this part of the age, to either side: their clients are
/// not to come back together.
const JITTER: f64 = 0.1;

/// When a connection ends. All times are counted from the moment that it was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Age {
    /// It is to be replaced from here on; `None` for never.
    old: Option<Duration>,
    /// What is under way may take so much longer.
    grace: Duration,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It takes calls, for so long at most (`None`: for ever).
    Serving(Option<Duration>),
    /// It takes no more calls, and those under way may take so long.
    Leaving(Duration),
    /// Whatever is under way is cut.
    Over,
}

impl Age {
    /// The age of one connection, of about `age` (0: it never becomes old); `random` is drawn from 0.0 to 1.0.
    pub(super) fn new(age: Duration, grace: Duration, random: f64) -> Self {
        let jitter = 1.0 - JITTER + 2.0 * JITTER * random.clamp(0.0, 1.0);
        Self { old: (!age.is_zero()).then(|| age.mul_f64(jitter)), grace }
    }

    /// Where a connection stands this long after it was accepted.
    pub(super) fn stage(self, since: Duration) -> Stage {
        let Some(old) = self.old else { return Stage::Serving(None) };
        let over = old.saturating_add(self.grace);
        if since < old {
            Stage::Serving(Some(old - since))
        } else if since < over {
            Stage::Leaving(over - since)
        } else {
            Stage::Over
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn a_connection_serves_then_leaves_then_is_over() {
        let age = Age::new(30 * MINUTE, MINUTE, 0.5);
        assert_eq!(age.stage(Duration::ZERO), Stage::Serving(Some(30 * MINUTE)));
        assert_eq!(age.stage(29 * MINUTE), Stage::Serving(Some(MINUTE)));
        assert_eq!(age.stage(30 * MINUTE), Stage::Leaving(MINUTE));
        assert_eq!(age.stage(31 * MINUTE), Stage::Over);
    }

    #[test]
    fn without_an_age_it_serves_for_ever() {
        let never = Age::new(Duration::ZERO, MINUTE, 0.9);
        assert_eq!(never.stage(Duration::MAX), Stage::Serving(None));
    }

    proptest! {
        #[test]
        fn the_age_varies_by_a_tenth_and_stages_only_go_forward(
            age in 100_u64..365 * 86_400_000,
            grace in 100_u64..365 * 86_400_000,
            random in 0.0..=1.0_f64,
            looks in prop::collection::vec(0_u64..800 * 86_400_000, 2),
        ) {
            let (wanted, grace) = (Duration::from_millis(age), Duration::from_millis(grace));
            let age = Age::new(wanted, grace, random);
            let Stage::Serving(Some(old)) = age.stage(Duration::ZERO) else { panic!("it is not young at its birth") };
            // A millisecond for what rounding takes.
            let rounding = Duration::from_millis(1);
            prop_assert!(old + rounding >= wanted.mul_f64(0.9) && old <= wanted.mul_f64(1.1) + rounding);
            // A look tells when the next stage begins, and not a moment later.
            let place = |stage| match stage {
                Stage::Serving(wait) => (0, wait),
                Stage::Leaving(wait) => (1, Some(wait)),
                Stage::Over => (2, None),
            };
            for since in &looks {
                let since = Duration::from_millis(*since);
                let (now, wait) = place(age.stage(since));
                if let Some(wait) = wait {
                    prop_assert_eq!(place(age.stage(since + wait)).0, now + 1);
                    prop_assert_eq!(place(age.stage(since + wait - Duration::from_nanos(1))).0, now);
                }
            }
            let [earlier, later] = [looks.iter().min(), looks.iter().max()].map(|at| Duration::from_millis(*at.unwrap()));
            prop_assert!(place(age.stage(earlier)).0 <= place(age.stage(later)).0);
        }
    }

    #[test]
    fn ages_lie_all_over_the_tenth() {
        let old = |random| match Age::new(100 * MINUTE, MINUTE, random).stage(Duration::ZERO) {
            Stage::Serving(Some(old)) => old,
            stage => panic!("{stage:?}"),
        };
        assert_eq!([0.0, 0.5, 1.0].map(old), [90 * MINUTE, 100 * MINUTE, 110 * MINUTE]);
    }
}
