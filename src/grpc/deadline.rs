use std::time::Duration;

use http::HeaderMap;

/// The longest that a caller waits, as it says so itself; `None` if it does not, or says what nobody understands.
pub(super) fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let given = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = given.split_at_checked(given.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Duration> {
        deadline(&HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), text.parse().unwrap())]))
    }

    #[test]
    fn deadlines_are_up_to_eight_digits_and_a_unit() {
        assert_eq!(of("5S"), Some(Duration::from_secs(5)));
        assert_eq!(of("250m"), Some(Duration::from_millis(250)));
        assert_eq!(of("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(
            [of("1M"), of("1000u"), of("1000000n")].map(Option::unwrap).map(|it| it.as_millis()),
            [60_000, 1, 1]
        );
        for none in ["", "S", "5", "5s", "-1S", "+1S", "123456789S", "5.5S", "5 S"] {
            assert_eq!(of(none), None, "{none}");
        }
        assert_eq!(deadline(&HeaderMap::new()), None);
    }
}
