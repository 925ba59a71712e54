//! A machine's clock: it runs at its own rate.

/// CLOCK_BOOTTIME of one machine as a function of the world's time, both in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What it shows at the beginning of the world.
    pub offset_ns: u64,
    /// How fast it runs: a million is as fast as the world.
    pub rate_ppm: u64,
}

impl Clock {
    /// What it shows at `world_ns`.
    pub fn local_ns(&self, world_ns: u64) -> u64 {
        let ran = u128::from(world_ns) * u128::from(self.rate_ppm) / 1_000_000;
        self.offset_ns + ran as u64
    }

    /// The world's time when it shows `local_ns`; the beginning if it was before that.
    pub fn world_ns(&self, local_ns: u64) -> u64 {
        self.span_ns(local_ns.saturating_sub(self.offset_ns))
    }

    /// How long the world needs for what this clock takes for `local_ns`.
    pub fn span_ns(&self, local_ns: u64) -> u64 {
        (u128::from(local_ns) * 1_000_000 / u128::from(self.rate_ppm)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_shows_can_be_turned_back() {
        let clock = Clock { offset_ns: 500, rate_ppm: 1_050_000 };
        assert_eq!(clock.local_ns(0), 500);
        assert_eq!(clock.local_ns(1_000_000), 1_050_500);
        assert_eq!(clock.world_ns(1_050_500), 1_000_000);
        assert_eq!(clock.world_ns(3), 0);
    }
}
