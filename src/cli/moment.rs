use std::time::{Duration, SystemTime};

/// Reads a time, of UTC: `2025-01-31T12:00:00Z`, `2025-01-31 12:00:00` or `2025-01-31`.
pub(super) fn at(text: &str) -> Result<SystemTime, String> {
    let midnight = format!("{text}T00:00:00Z");
    let time = humantime::parse_rfc3339_weak(text).or_else(|_| humantime::parse_rfc3339_weak(&midnight));
    time.map_err(|_| format!("'{text}' is no time: give one such as 2025-01-31T12:00:00Z"))
}

/// Reads a time, or how long ago it was.
pub(super) fn since(text: &str) -> Result<SystemTime, String> {
    match humantime::parse_duration(text) {
        Ok(ago) => Ok(SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)),
        Err(_) => at(text).map_err(|error| format!("{error}, or how long ago it was, such as 2h")),
    }
}

/// The moment after a delay.
pub(super) fn after(delay: Duration) -> anyhow::Result<SystemTime> {
    let at = SystemTime::now().checked_add(delay);
    at.ok_or_else(|| anyhow::anyhow!("a delay of {} has no end: give a shorter one", humantime::format_duration(delay)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_and_without_their_parts() {
        let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_738_324_800);
        for text in ["2025-01-31T12:00:00Z", "2025-01-31 12:00:00", "2025-01-31T12:00:00.000Z"] {
            assert_eq!(at(text), Ok(noon), "{text}");
        }
        assert_eq!(at("2025-01-31"), Ok(noon - Duration::from_secs(12 * 3600)));
        assert_eq!(since("2025-01-31 12:00:00"), Ok(noon));
        assert!(since("1h").is_ok_and(|time| time < SystemTime::now()));
        assert!(at("1h").is_err_and(|error| error.contains("give one such as")));
        assert!(since("noon").is_err_and(|error| error.contains("how long ago")));
        assert!(after(Duration::MAX).is_err());
    }
}
