//! Proposals a second through three Raft cores in one thread, and the same through three of the
//! crate `raft` (raft-rs), in turns. Part of `make bench`; `README.md` here says how both are
//! driven.
//!
//! Prints a line for each shape, `figure TAB measured TAB ratio`; what it is doing goes to stderr.

mod ours;
mod theirs;

use std::time::{Duration, Instant};

/// Three cores that hand their messages to one another in memory.
trait Cores {
    /// Three voters, the first of which leads; everything is at rest.
    fn form() -> Self;

    /// Gives the leader a command.
    fn propose(&mut self, command: Vec<u8>);

    /// Carries out all that came of it on all three, until nothing is left to do.
    fn settle(&mut self);

    /// The bytes of commands that each of the three has applied.
    fn applied_bytes(&self) -> [u64; 3];
}

/// What is proposed.
struct Shape {
    /// The length of a command.
    bytes: usize,
    /// So many at a time, then `settle`.
    at_once: usize,
    /// How it reads.
    name: &'static str,
}

const SHAPES: [Shape; 4] = [
    Shape { bytes: 64, at_once: 1, name: "64 bytes, one at a time" },
    Shape { bytes: 64, at_once: 64, name: "64 bytes, 64 at a time" },
    Shape { bytes: 512, at_once: 1, name: "512 bytes, one at a time" },
    Shape { bytes: 512, at_once: 64, name: "512 bytes, 64 at a time" },
];
/// Pairs of samples, ours and theirs; the one that goes first changes.
const PAIRS: usize = 15;
/// A sample: long enough that its ends do not count, short enough that both meet the same machine.
const SAMPLE: Duration = Duration::from_millis(100);
/// Both keep their logs in memory and none is compacted: a sample ends here at the latest.
const PROPOSALS_MAX: usize = 100_000;

fn main() {
    for shape in &SHAPES {
        let mut pairs = Vec::new();
        for number in 0..PAIRS {
            let (ours, theirs) = if number % 2 == 0 {
                let ours = sample::<ours::Three>(shape);
                (ours, sample::<theirs::Three>(shape))
            } else {
                let theirs = sample::<theirs::Three>(shape);
                (sample::<ours::Three>(shape), theirs)
            };
            eprintln!("  {}: {ours:.0} and {theirs:.0} a second", shape.name);
            pairs.push((ours, theirs));
        }
        let ours = median(pairs.iter().map(|pair| pair.0));
        let theirs = median(pairs.iter().map(|pair| pair.1));
        let ratio = median(pairs.iter().map(|pair| pair.0 / pair.1));
        println!(
            "Proposals through three cores in one thread, {}\t\
             {ours:.0}/s, {ratio:.2} times raft-rs's {theirs:.0}/s (median of {PAIRS} pairs)\t\
             {ratio}",
            shape.name
        );
    }
}

/// Proposals a second, of cores made for this.
fn sample<C: Cores>(shape: &Shape) -> f64 {
    let mut cores = C::form();
    let before = cores.applied_bytes();
    let mut proposals = 0;
    let began = Instant::now();
    while proposals < PROPOSALS_MAX && began.elapsed() < SAMPLE {
        for _ in 0..shape.at_once {
            cores.propose(vec![0x5A; shape.bytes]);
        }
        cores.settle();
        proposals += shape.at_once;
    }
    let took = began.elapsed();
    let all = (proposals * shape.bytes) as u64;
    assert_eq!(cores.applied_bytes(), before.map(|bytes| bytes + all), "not all was applied");
    proposals as f64 / took.as_secs_f64()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
