use std::time::Duration;

/// The delay before a message is delivered again that was refused in its `attempt`-th delivery (1 for the first): that
/// entry of the list, or the last, shortened by up to half. `seed` decides by how much, so that what was refused together
/// does not come back together ("equal jitter", AWS Architecture Blog, 2015).
pub(super) fn delay(list: &[Duration], attempt: u32, seed: u64) -> Duration {
    let index = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX).min(list.len().saturating_sub(1));
    let Some(full) = list.get(index) else {
        return Duration::ZERO;
    };
    let millis = u64::try_from(full.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(millis - mix(seed) % (millis / 2 + 1))
}

/// Spreads a seed over all bits (the finaliser of splitmix64, Steele et al. 2014).
fn mix(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_follow_the_list_and_stay_within_half_of_it() {
        let list = [Duration::from_millis(100), Duration::from_secs(1)];
        for seed in 0..1000 {
            assert!((50..=100).contains(&delay(&list, 1, seed).as_millis()));
            assert!((500..=1000).contains(&delay(&list, 2, seed).as_millis()));
            assert!((500..=1000).contains(&delay(&list, 9, seed).as_millis()));
        }
        let spread: std::collections::BTreeSet<_> = (0..1000).map(|seed| delay(&list, 2, seed)).collect();
        assert!(spread.len() > 300, "{} different delays", spread.len());
    }

    #[test]
    fn extremes_do_not_overflow() {
        assert_eq!(delay(&[], 1, 7), Duration::ZERO);
        assert_eq!(delay(&[Duration::ZERO], u32::MAX, 7), Duration::ZERO);
        assert!(delay(&[Duration::MAX], 0, 7) > Duration::from_secs(1 << 40));
    }
}
