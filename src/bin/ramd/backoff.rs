//! Pauses between attempts, each twice as long as the one before.

use std::time::{Duration, Instant};

/// When the next attempt may be made.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    attempts: u32,
    due: Option<Instant>,
}

impl Backoff {
    /// None made yet.
    pub fn new(first: Duration, longest: Duration) -> Backoff {
        Backoff { first, longest, attempts: 0, due: None }
    }

    /// Whether an attempt may be made now.
    pub fn allows(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }

    /// One was made; also one that succeeded, since what it was good for has to be seen.
    pub fn made(&mut self, now: Instant) {
        let pause = self.first.saturating_mul(1 << self.attempts.min(20)).min(self.longest);
        self.attempts += 1;
        self.due = Some(now + pause);
    }

    /// All is well.
    pub fn reset(&mut self) {
        (self.attempts, self.due) = (0, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let (second, now) = (Duration::from_secs(1), Instant::now());
        let mut backoff = Backoff::new(second, 5 * second);
        assert!(backoff.allows(now));
        for pause in [1, 2, 4, 5, 5] {
            backoff.made(now);
            assert!(!backoff.allows(now + pause * second - second / 10), "{pause}");
            assert!(backoff.allows(now + pause * second), "{pause}");
        }
        (0..100).for_each(|_| backoff.made(now));
        assert!(backoff.allows(now + 5 * second));
        backoff.reset();
        assert!(backoff.allows(now));
    }
}
