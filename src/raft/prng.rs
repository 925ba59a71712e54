//! Chance, handed in: the same seed gives the same timeouts. Not for secrets.

/// SplitMix64 (Steele, Lea, Flood 2014): one word of state, any seed is good.
#[derive(Clone, Debug)]
pub(super) struct Prng(u64);

impl Prng {
    pub(super) fn new(seed: u64) -> Prng {
        Prng(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; zero if that is zero. The bias of the multiplication (2^-32) does
    /// not matter to a timeout.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        (((self.next() >> 32) * u64::from(bound)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_cover_the_range_and_repeat_with_the_seed() {
        let mut a = Prng::new(7);
        let mut b = Prng::new(7);
        let mut seen = [false; 10];
        for _ in 0..1000 {
            let draw = a.below(10);
            assert_eq!(draw, b.below(10));
            seen[draw as usize] = true;
        }
        assert_eq!(seen, [true; 10]);
        assert_eq!(a.below(0), 0);
    }
}
