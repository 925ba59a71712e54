//! When a node that should run, and could not, tries again. Pure: time is the caller's.

use std::time::Duration;

/// The pause after the first failure; each further one doubles it.
pub const RETRY_MIN: Duration = Duration::from_secs(1);
/// No pause is longer. A node that ran for so long before it failed begins with the shortest again.
pub const RETRY_MAX: Duration = Duration::from_secs(30);

/// The attempts to come. Times are nanoseconds of `CLOCK_BOOTTIME`.
#[derive(Clone, Debug, Default)]
pub struct Retry {
    /// In a row.
    failures: u32,
    /// When the node began to run, the last time that it did.
    ran_from_ns: u64,
    due_ns: Option<u64>,
}

impl Retry {
    /// The node does not run, although it should: the pause before the next attempt.
    pub fn failed(&mut self, now_ns: u64) -> Duration {
        // Running: this ends it. Between two attempts the one before is still due.
        let ran_ns =
            if self.due_ns.is_none() { now_ns.saturating_sub(self.ran_from_ns) } else { 0 };
        if ran_ns >= RETRY_MAX.as_nanos() as u64 {
            self.failures = 0;
        }
        let pause = (RETRY_MIN * (1 << self.failures.min(8))).min(RETRY_MAX);
        self.failures = self.failures.saturating_add(1);
        self.due_ns = Some(now_ns + pause.as_nanos() as u64);
        pause
    }

    /// The node runs.
    pub fn runs(&mut self, now_ns: u64) {
        self.ran_from_ns = now_ns;
        self.due_ns = None;
    }

    /// The node is not to run, or only a person can help it.
    pub fn give_up(&mut self) {
        *self = Retry::default();
    }

    /// When the next attempt is due; `None`: there will be none.
    pub fn due_ns(&self) -> Option<u64> {
        self.due_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    /// The pauses of so many failures, each attempt made when it is due, in seconds.
    fn pauses(retry: &mut Retry, count: usize, mut now_ns: u64) -> Vec<u64> {
        let mut pauses = Vec::new();
        for _ in 0..count {
            pauses.push(retry.failed(now_ns).as_secs());
            assert_eq!(retry.due_ns(), Some(now_ns + pauses[pauses.len() - 1] * SECOND_NS));
            now_ns = retry.due_ns().unwrap();
        }
        pauses
    }

    #[test]
    fn attempts_become_rarer_and_never_end() {
        let mut retry = Retry::default();
        assert_eq!(retry.due_ns(), None);
        assert_eq!(pauses(&mut retry, 8, 77 * SECOND_NS), [1, 2, 4, 8, 16, 30, 30, 30]);
        retry.failures = u32::MAX;
        assert_eq!(pauses(&mut retry, 1, 0), [30]);
    }

    #[test]
    fn only_a_node_that_ran_for_long_begins_anew() {
        let mut retry = Retry::default();
        assert_eq!(pauses(&mut retry, 3, SECOND_NS), [1, 2, 4]);
        // It runs, and fails at once: the disk is as full as before.
        retry.runs(100 * SECOND_NS);
        assert_eq!(retry.due_ns(), None);
        assert_eq!(retry.failed(101 * SECOND_NS).as_secs(), 8);
        retry.runs(200 * SECOND_NS);
        assert_eq!(retry.failed(229 * SECOND_NS).as_secs(), 16);
        retry.runs(300 * SECOND_NS);
        assert_eq!(retry.failed(330 * SECOND_NS).as_secs(), 1);
    }

    #[test]
    fn who_gives_up_does_not_try_again() {
        let mut retry = Retry::default();
        assert_eq!(pauses(&mut retry, 2, 0), [1, 2]);
        retry.give_up();
        assert_eq!(retry.due_ns(), None);
        assert_eq!(pauses(&mut retry, 1, 0), [1]);
    }
}
