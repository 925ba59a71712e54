//! Waiting with a deadline: the only way in which tests wait for anything.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::{Failure, Result};

/// Short against what is waited for, long against the cost of asking.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks again and again until the answer is `Ok(Some(_))`. When the time is over the failure says
/// what was waited for, how long, and what the last `Err` was.
pub fn wait_for<T>(
    what: &str,
    at_most: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + at_most;
    let mut last = String::new();
    loop {
        match ask() {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(failure) => last = format!(": {failure}"),
        }
        if Instant::now() >= deadline {
            let seconds = at_most.as_secs_f32();
            return Err(Failure::new(format!("waited {seconds} s in vain: {what}{last}")));
        }
        sleep(PAUSE);
    }
}
