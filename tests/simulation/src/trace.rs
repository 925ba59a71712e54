//! What happened: a hash of all of it, and on demand the lines for people.

use std::cell::Cell;

/// A running hash; equal runs have equal ones.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: u64,
    /// Steps so far.
    pub steps: u64,
    /// Whether lines are printed.
    pub aloud: bool,
}

impl Trace {
    /// Nothing happened yet.
    pub fn new(aloud: bool) -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, steps: 0, aloud }
    }

    /// Mixes numbers in.
    pub fn mix(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.hash = (self.hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }

    /// The hash of everything so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Prints a line, if lines are printed.
    pub fn line(&self, now_ns: u64, line: impl FnOnce() -> String) {
        if self.aloud {
            println!("{} {}", seconds(now_ns), line());
        }
    }
}

/// "12.345678", in seconds.
pub fn seconds(ns: u64) -> String {
    format!("{:4}.{:06}", ns / 1_000_000_000, ns % 1_000_000_000 / 1000)
}

thread_local! {
    /// Who is running and when, for the lines that the production code logs.
    static RUNNING: Cell<(u32, u64)> = const { Cell::new((0, 0)) };
}

/// From here on log lines are those of `node`.
pub fn running(node: u32, now_ns: u64) {
    RUNNING.set((node, now_ns));
}

struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        let (node, now) = RUNNING.get();
        println!("{} n{node} {}: {}", seconds(now), record.level(), record.args());
    }
    fn flush(&self) {}
}

/// Prints what the production code logs, too.
pub fn print_logs() {
    if log::set_logger(&Lines).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }
}
