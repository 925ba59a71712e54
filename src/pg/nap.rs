//! How a backend waits: on its latch, for a bounded time, and so that a user may interrupt it.

use pgrx::{check_for_interrupts, pg_sys};

/// Sleeps that long, or until someone sets this backend's latch; raises if the query is to be
/// cancelled or the backend to end. `wait_event` is what pg_stat_activity shows meanwhile.
pub(super) fn sleep(ns: u64, wait_event: u32) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // Rounded up, or the last millisecond would be spent spinning.
    let ms = ns.div_ceil(1_000_000);
    // SAFETY: the main thread of a process that has a PGPROC, waiting on its own latch.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, ms as _, wait_event);
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    check_for_interrupts!();
}
