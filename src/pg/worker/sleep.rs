//! How main waits: on its latch, the wake-up socket and the postmaster's death, at once.
//!
//! What to wait for is told to the kernel once and not at each wait, as by `WaitLatchOrSocket`: a
//! busy worker waits thousands of times a second.

use std::os::fd::RawFd;
use std::sync::OnceLock;

use pgrx::pg_sys;

use crate::sys;

/// Where main sleeps.
pub(super) struct Bed(*mut pg_sys::WaitEventSet);

impl Bed {
    /// For the worker's main thread, whose socket is `fd`; kept until the process ends.
    pub(super) fn new(fd: RawFd) -> Bed {
        // SAFETY: the main thread. The set lives in TopMemoryContext, with no resource owner, and
        // is never freed; the latch and the socket are the process's own and stay until its end.
        unsafe {
            let set = pg_sys::CreateWaitEventSet(std::ptr::null_mut(), 3);
            let add = |events, fd, latch| {
                pg_sys::AddWaitEventToSet(set, events, fd, latch, std::ptr::null_mut());
            };
            add(pg_sys::WL_LATCH_SET, pg_sys::PGINVALID_SOCKET, pg_sys::MyLatch);
            add(pg_sys::WL_SOCKET_READABLE, fd, std::ptr::null_mut());
            add(pg_sys::WL_EXIT_ON_PM_DEATH, pg_sys::PGINVALID_SOCKET, std::ptr::null_mut());
            Bed(set)
        }
    }

    /// Sleeps until there is something to do, or until `until_ns`, CLOCK_BOOTTIME.
    pub(super) fn sleep(&self, until_ns: Option<u64>) {
        let ms = until_ns.map_or(-1, |until_ns| {
            until_ns.saturating_sub(sys::now_boottime_ns()).div_ceil(1_000_000) as _
        });
        let mut event = pg_sys::WaitEvent::default();
        // SAFETY: the main thread, with a set that lives as long as the process. What occurred does
        // not matter: the latch is reset before anything is looked at, so no wake-up is lost.
        unsafe {
            pg_sys::WaitEventSetWait(self.0, ms, &mut event, 1, wait_event());
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
    }
}

fn wait_event() -> u32 {
    static EVENT: OnceLock<u32> = OnceLock::new();
    // SAFETY: the worker's main thread; the name is copied.
    *EVENT.get_or_init(|| unsafe { pg_sys::WaitEventExtensionNew(c"PgraftMain".as_ptr()) })
}
