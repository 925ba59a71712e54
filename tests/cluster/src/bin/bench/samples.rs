//! Measured values, and what is said of them.

use crate::report::Met;

/// Values in ascending order; at least one.
pub struct Samples(Vec<f64>);

impl Samples {
    /// # Panics
    /// Without a value: a figure that measured nothing is a mistake here.
    pub fn new(mut values: Vec<f64>) -> Samples {
        assert!(!values.is_empty(), "a figure without a measured value");
        values.sort_by(f64::total_cmp);
        Samples(values)
    }

    /// The value that this share of all values does not exceed.
    pub fn quantile(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }

    /// The value in the middle, or half way between the two that are.
    pub fn median(&self) -> f64 {
        let count = self.0.len();
        (self.0[(count - 1) / 2] + self.0[count / 2]) / 2.0
    }

    pub fn least(&self) -> f64 {
        self.0[0]
    }

    pub fn most(&self) -> f64 {
        self.0[self.0.len() - 1]
    }
}

/// Two things measured in turns, such that what is wrong with the machine is wrong with both.
#[derive(Default)]
pub struct Pairs(Vec<(f64, f64)>);

impl Pairs {
    pub fn push(&mut self, ours: f64, other: f64) {
        self.0.push((ours, other));
    }

    pub fn ours(&self) -> Samples {
        Samples::new(self.0.iter().map(|pair| pair.0).collect())
    }

    pub fn other(&self) -> Samples {
        Samples::new(self.0.iter().map(|pair| pair.1).collect())
    }

    /// The figure: one median against the other.
    pub fn ratio(&self) -> f64 {
        self.ours().median() / self.other().median()
    }

    /// The same of each pair.
    fn ratios(&self) -> Samples {
        Samples::new(self.0.iter().map(|pair| pair.0 / pair.1).collect())
    }

    /// Between which of the pairs' ratios the true median lies, with 95 % certainty: as far from
    /// both ends as so many tosses of a coin allow. Assumes nothing of how noise is distributed.
    fn interval(&self) -> (f64, f64) {
        let Samples(ratios) = self.ratios();
        let count = ratios.len();
        // The chance of at most k heads in `count` tosses, k growing.
        let mut term = 0.5_f64.powi(count as i32);
        let (mut below, mut rank) = (term, 0);
        while below <= 0.025 && rank + 1 < count / 2 {
            rank += 1;
            term *= (count - rank + 1) as f64 / rank as f64;
            below += term;
        }
        let rank = if below > 0.025 { rank.saturating_sub(1) } else { rank };
        (ratios[rank], ratios[count - 1 - rank])
    }

    /// Whether the ratio reaches the aim, as far as the pairs can tell.
    pub fn met(&self, aim: f64) -> Met {
        let (low, high) = self.interval();
        if low < aim && aim <= high { Met::Unclear } else { Met::Is(self.ratio() >= aim) }
    }

    /// `0.991 (12345 against 12456 tps; 8 pairs: 0.990, 95 % interval 0.981 to 1.012)`
    pub fn describe(&self) -> String {
        self.describe_in("tps")
    }

    pub fn describe_in(&self, unit: &str) -> String {
        let (low, high) = self.interval();
        format!(
            "{:.3} ({:.0} against {:.0} {unit}; median of {} pairs {:.3}, \
             95 % interval {low:.3} to {high:.3})",
            self.ratio(),
            self.ours().median(),
            self.other().median(),
            self.0.len(),
            self.ratios().median(),
        )
    }
}
