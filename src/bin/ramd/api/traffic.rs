//! What was asked of the API, counted: for `/metrics`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Upper bounds in seconds; above the last there is only "more".
pub const BOUNDS: [f64; 10] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1.0, 10.0];

/// How long answers took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    /// How many took at most as long as each bound, and longer than the one before.
    pub buckets: [u64; BOUNDS.len() + 1],
    /// All of them together, in seconds.
    pub sum: f64,
}

/// Requests by path and by status. Paths are those that are served: what clients invent must not
/// fill the memory.
#[derive(Debug, Default)]
pub struct Traffic(Mutex<Counted>);

/// See [`Traffic`].
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// How many, by path and status.
    pub requests: BTreeMap<(&'static str, u16), u64>,
    /// How long they took, by path.
    pub times: BTreeMap<&'static str, Times>,
}

impl Traffic {
    /// One more.
    pub fn count(&self, path: &'static str, status: u16, took: Duration) {
        let seconds = took.as_secs_f64();
        let mut counted = self.lock();
        *counted.requests.entry((path, status)).or_default() += 1;
        let times = counted.times.entry(path).or_default();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        times.buckets[bucket] += 1;
        times.sum += seconds;
    }

    /// All so far.
    pub fn counted(&self) -> Counted {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
