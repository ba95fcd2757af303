use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use minitoolstream::types::{Clock, SystemClock, Timestamp, WallClock};

/// Clocks that stand still until a test moves them.
#[derive(Clone)]
pub(crate) struct Manual(Arc<Mutex<(Timestamp, Duration)>>);

impl Manual {
    /// The wall clock shows this many milliseconds since 1970.
    pub(crate) fn at(millis: u64) -> Self {
        Self(Arc::new(Mutex::new((Timestamp(millis), Duration::ZERO))))
    }

    /// The clock that a broker makes of it.
    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(SystemClock::over(self.clone()))
    }

    /// Lets time go by.
    pub(crate) fn advance(&self, time: Duration) {
        let mut clocks = self.0.lock().unwrap();
        *clocks = (clocks.0.after(time), clocks.1 + time);
    }

    /// Sets the wall clock, as an operator does: no time goes by.
    pub(crate) fn set_wall(&self, millis: u64) {
        self.0.lock().unwrap().0 = Timestamp(millis);
    }
}

impl WallClock for Manual {
    fn wall(&self) -> Timestamp {
        self.0.lock().unwrap().0
    }

    fn elapsed(&self) -> Duration {
        self.0.lock().unwrap().1
    }
}
