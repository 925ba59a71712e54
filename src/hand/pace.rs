//! When something that failed is tried again. Pure: time is the caller's.

use std::time::Duration;

/// The pause after the first failure; each further one doubles it.
pub const PAUSE_MIN: Duration = Duration::from_millis(250);
/// No pause is longer.
pub const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The next attempt. Times are nanoseconds of `CLOCK_BOOTTIME`.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    failures: u32,
    due_ns: u64,
}

impl Pace {
    /// An attempt failed.
    pub fn failed(&mut self, now_ns: u64) {
        let pause = (PAUSE_MIN * (1 << self.failures.min(8))).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        self.due_ns = now_ns + pause.as_nanos() as u64;
    }

    /// An attempt could not even be made, and to find that out costs nothing.
    pub fn hindered(&mut self, now_ns: u64) {
        self.failures = self.failures.max(1);
        self.due_ns = now_ns + PAUSE_MIN.as_nanos() as u64;
    }

    /// An attempt succeeded, or something else is wanted now.
    pub fn reset(&mut self) {
        *self = Pace::default();
    }

    /// Whether an attempt may be made.
    pub fn allows(&self, now_ns: u64) -> bool {
        now_ns >= self.due_ns
    }

    /// When the next may be made, if one failed.
    pub fn due_ns(&self) -> Option<u64> {
        (self.failures > 0).then_some(self.due_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_seconds() {
        let mut pace = Pace::default();
        assert!(pace.allows(0) && pace.due_ns().is_none());
        let pauses: Vec<u64> = (0..7)
            .map(|_| {
                pace.failed(0);
                pace.due_ns().unwrap() / 1_000_000
            })
            .collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 5000, 5000]);
        assert!(!pace.allows(4_999_999_999) && pace.allows(5_000_000_000));
        pace.hindered(0);
        assert!(!pace.allows(249_999_999) && pace.allows(250_000_000));
        pace.reset();
        assert!(pace.allows(0));
    }
}
