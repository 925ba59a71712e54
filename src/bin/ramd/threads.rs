//! The only place where ramd starts threads. One that panics ends the process: half a daemon would
//! look alive and do nothing, and whoever started it starts it again.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::Builder;

/// None of them recurses.
const STACK_BYTES: usize = 512 << 10;

/// Starts a thread of this name; at most 15 characters of it show up in `ps -L`.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let label = name.to_owned();
    let thread = Builder::new().name(label.clone()).stack_size(STACK_BYTES);
    let guarded = move || {
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            log::error!("thread \"{label}\" panicked, ramd ends");
            std::process::exit(crate::EXIT_PANIC);
        }
    };
    thread.spawn(guarded).map(drop)
}
