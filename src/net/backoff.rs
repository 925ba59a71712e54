//! How long to wait before dialling again. Pure: chance is handed in as a seed, time is the
//! caller's.

use std::time::Duration;

/// The first pause after a failure is at least this.
pub const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// No pause is longer.
pub const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// The second attempt after a good link broke: a dying server may close its connections a moment
/// before its port, and takes one more caller into a queue that nobody serves.
const SECOND_LOOK: Duration = Duration::from_millis(10);

/// The pauses of one peer: doubled from failure to failure, jittered so that peers that lost the
/// same server do not all return at the same instant.
#[derive(Debug)]
pub struct Backoff {
    failures: u32,
    link_broke: u32,
    state: u64,
}

impl Backoff {
    /// A fresh one.
    pub fn new(seed: u64) -> Backoff {
        Backoff { failures: 0, link_broke: 0, state: seed }
    }

    /// An attempt failed: the pause before the next.
    pub fn pause(&mut self) -> Duration {
        if self.link_broke > 0 {
            self.link_broke -= 1;
            return if self.link_broke == 1 { Duration::ZERO } else { SECOND_LOOK };
        }
        let longest = (BACKOFF_MIN * 2 * (1 << self.failures.min(8))).min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        let half = longest / 2;
        half + Duration::from_nanos(self.random() % (half.as_nanos() as u64 + 1))
    }

    /// The other side said no, which rarely changes soon: from here on the longest pauses.
    pub fn refused(&mut self) {
        self.link_broke = 0;
        self.failures = 8;
    }

    /// There is new hope: the next pause is a short one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// A link that had worked broke: look again at once, once more right after, then as always.
    pub fn link_broke(&mut self) {
        self.failures = 0;
        self.link_broke = 2;
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): enough to spread pauses.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_from_50_ms_to_2_s_and_stay() {
        for seed in 0..200 {
            let mut backoff = Backoff::new(seed);
            let pauses: Vec<Duration> = (0..40).map(|_| backoff.pause()).collect();
            assert!(pauses.iter().all(|p| (BACKOFF_MIN..=BACKOFF_MAX).contains(p)), "{pauses:?}");
            assert!(pauses[0] <= 2 * BACKOFF_MIN);
            assert!(pauses[10..].iter().all(|p| *p >= BACKOFF_MAX / 2));
        }
    }

    #[test]
    fn different_seeds_spread() {
        let pauses: std::collections::BTreeSet<_> =
            (0..100).map(|seed| Backoff::new(seed).pause()).collect();
        assert!(pauses.len() > 90);
    }

    #[test]
    fn after_a_broken_link_the_first_two_looks_are_at_once() {
        let mut backoff = Backoff::new(1);
        (0..20).for_each(|_| assert!(backoff.pause() >= BACKOFF_MIN));
        backoff.link_broke();
        assert_eq!(backoff.pause(), Duration::ZERO);
        assert_eq!(backoff.pause(), SECOND_LOOK);
        assert!((BACKOFF_MIN..=2 * BACKOFF_MIN).contains(&backoff.pause()));
    }

    #[test]
    fn a_refusal_is_not_asked_about_again_soon() {
        let mut backoff = Backoff::new(1);
        backoff.refused();
        assert!(backoff.pause() >= BACKOFF_MAX / 2);
        backoff.reset();
        assert!(backoff.pause() <= 2 * BACKOFF_MIN);
    }
}
