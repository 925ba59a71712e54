//! The only `thread::spawn`: a name, every signal blocked, a panic reported.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::sys;

/// Reports a thread's panic: its name and what it said.
pub type OnPanic = Arc<dyn Fn(String) + Send + Sync>;

/// Threads started together that end together.
#[derive(Clone)]
pub struct Threads {
    running: Arc<Mutex<Vec<JoinHandle<()>>>>,
    on_panic: OnPanic,
}

/// The stack of a thread: none of them recurses, and the worker should stay small.
const STACK_BYTES: usize = 512 << 10;

impl Threads {
    /// None yet.
    pub fn new(on_panic: OnPanic) -> Threads {
        Threads { running: Arc::default(), on_panic }
    }

    /// Starts `body` as thread `name` (15 characters show up in `ps -L`).
    ///
    /// Signals are blocked by the parent around the spawn, so that no handler of Postgres can ever
    /// run on the new thread.
    pub fn spawn(&self, name: String, body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        let on_panic = self.on_panic.clone();
        let label = name.clone();
        let blocked = sys::block_all_signals()?;
        let spawned = Builder::new().name(name).stack_size(STACK_BYTES).spawn(move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
                on_panic(format!("thread \"{label}\" panicked: {}", panic_text(&*panic)));
            }
        });
        drop(blocked);
        let mut running = self.running.lock().unwrap_or_else(|e| e.into_inner());
        running.retain(|thread| !thread.is_finished());
        running.push(spawned?);
        Ok(())
    }

    /// Waits until all have ended or `limit` is over; how many have not. They are left behind: the
    /// process ends soon after.
    pub fn join(&self, limit: Duration) -> usize {
        let deadline = Instant::now() + limit;
        loop {
            let mut running = self.running.lock().unwrap_or_else(|e| e.into_inner());
            running.retain(|thread| !thread.is_finished());
            let left = running.len();
            drop(running);
            if left == 0 || Instant::now() >= deadline {
                return left;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_panic_is_reported_by_name_and_the_others_go_on() {
        let (report, reports) = mpsc::channel();
        let threads = Threads::new(Arc::new(move |text| report.send(text).unwrap()));
        let (release, wait) = mpsc::channel::<()>();
        threads.spawn("steady".into(), Box::new(move || _ = wait.recv())).unwrap();
        threads.spawn("hasty".into(), Box::new(|| panic!("at the {}", "disco"))).unwrap();
        assert_eq!(reports.recv().unwrap(), "thread \"hasty\" panicked: at the disco");
        assert_eq!(threads.join(Duration::from_millis(20)), 1);
        drop(release);
        assert_eq!(threads.join(Duration::from_secs(10)), 0);
    }
}
