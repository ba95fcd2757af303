//! Moments, and clocks to read them from.

use std::{
    fmt,
    sync::Mutex,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This moment plus `duration`, in whole milliseconds; stays at the far end instead of wrapping.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// This moment as RFC 3339 has it, in UTC and milliseconds.
    pub fn to_rfc3339(self) -> String {
        // The formatter knows years up to 9999.
        let millis = self.0.min(253_402_300_799_999);
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis)).to_string()
    }

    /// Time from `earlier` to this moment; zero if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

/// A duration as people write it and settings take it: in the largest unit that needs no fraction.
pub fn show(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    match units.iter().find(|(_, unit)| millis != 0 && millis.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", millis / unit),
        None => format!("{millis}ms"),
    }
}

/// Where the broker gets the time: never goes backwards while the process lives.
pub trait Clock: Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Timestamp;
}

/// A source of wall-clock time, which an operator or NTP may set in either direction.
pub trait WallClock: Send + Sync + 'static {
    /// What the wall clock shows.
    fn wall(&self) -> Timestamp;
    /// Time since some fixed moment, unaffected by changes of the wall clock.
    fn elapsed(&self) -> Duration;
}

/// A [`Clock`] over a wall clock: follows it forwards, and goes on by the monotonic clock while the wall clock lies
/// behind. So a clock set backwards neither stops time (leases and TTLs go on) nor repeats it.
pub struct SystemClock<W = MachineClock> {
    wall: W,
    last: Mutex<(Timestamp, Duration)>,
}

/// The clocks of this machine.
pub struct MachineClock(Instant);

impl SystemClock {
    /// The clock of this machine.
    pub fn new() -> Self {
        Self::over(MachineClock(Instant::now()))
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl<W: WallClock> SystemClock<W> {
    /// A clock over the given wall clock.
    pub fn over(wall: W) -> Self {
        let last = Mutex::new((wall.wall(), wall.elapsed()));
        Self { wall, last }
    }
}

impl<W: WallClock> Clock for SystemClock<W> {
    fn now(&self) -> Timestamp {
        let (wall, elapsed) = (self.wall.wall(), self.wall.elapsed());
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let steady = last.0.after(elapsed.saturating_sub(last.1));
        if wall > steady {
            *last = (wall, elapsed);
            return wall;
        }
        // The anchor stays, so that fractions of a millisecond are not lost from call to call.
        steady
    }
}

impl WallClock for MachineClock {
    fn wall(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::default().after(since_epoch)
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    struct Manual(Mutex<(u64, u64)>);

    impl WallClock for Arc<Manual> {
        fn wall(&self) -> Timestamp {
            Timestamp(self.0.lock().unwrap().0)
        }
        fn elapsed(&self) -> Duration {
            Duration::from_millis(self.0.lock().unwrap().1)
        }
    }

    #[test]
    fn durations_are_shown_as_they_are_written() {
        for text in ["0ms", "1ms", "1500ms", "30s", "90s", "2m", "24d", "25h", "365d"] {
            assert_eq!(show(humantime::parse_duration(text).unwrap()), text);
        }
    }

    #[test]
    fn time_goes_on_when_the_wall_clock_is_set_backwards() {
        let manual = Arc::new(Manual(Mutex::new((10_000, 0))));
        let clock = SystemClock::over(manual.clone());
        *manual.0.lock().unwrap() = (10_500, 500);
        assert_eq!(clock.now(), Timestamp(10_500));
        *manual.0.lock().unwrap() = (2_000, 800);
        assert_eq!(clock.now(), Timestamp(10_800));
        *manual.0.lock().unwrap() = (2_400, 1_200);
        assert_eq!(clock.now(), Timestamp(11_200));
        *manual.0.lock().unwrap() = (20_000, 1_300);
        assert_eq!(clock.now(), Timestamp(20_000), "forwards is followed");
    }
}
