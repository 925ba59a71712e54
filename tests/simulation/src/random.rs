//! Chance: one generator, and everything drawn from it.

use pgraft::storage::testing;

/// SplitMix64 with the draws that a simulation wants.
#[derive(Clone, Debug)]
pub struct Random(testing::Random);

impl Random {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Random {
        let mut random = testing::Random::new(seed ^ 0x5167_a1f7_0bd1_c0de);
        // Neighbouring seeds start apart.
        let start = random.number();
        Random(testing::Random::new(start))
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.number()
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.0.below(bound) }
    }

    /// A number from `from` to `to`, both possible.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    /// True so many times in a million.
    pub fn chance(&mut self, ppm: u64) -> bool {
        ppm > 0 && self.below(1_000_000) < ppm
    }

    /// True every second time.
    pub fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    /// A number from `from` to `to`, small ones as likely as large ones: each doubling of the size
    /// has the same chance.
    pub fn scaled(&mut self, from: u64, to: u64) -> u64 {
        let (low, high) = ((from + 1).ilog2(), (to + 1).ilog2());
        let bits = self.between(u64::from(low), u64::from(high)) as u32;
        let bottom = ((1u64 << bits) - 1).max(from);
        let top = ((1u64 << (bits + 1)) - 2).min(to);
        self.between(bottom, top.max(bottom))
    }

    /// One of `choices`, which has some.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// An index into `weights` by their size; `None` if all are 0.
    pub fn weighted(&mut self, weights: &[u64]) -> Option<usize> {
        let mut at = self.below(weights.iter().sum());
        weights.iter().position(|&weight| {
            let found = at < weight;
            at = at.saturating_sub(weight);
            found
        })
    }
}
