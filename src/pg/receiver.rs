//! The WAL receiver, from shared memory: whether it runs, and whether it streams.

use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys;

/// Whether it runs, or is about to: more WAL may come.
pub(super) fn runs() -> bool {
    // SAFETY: looks at shared memory under its spinlock; a start that hangs is given up by it.
    unsafe { pg_sys::WalRcvRunning() }
}

/// The process that streams from the primary, if there is one. A receiver that cannot connect, or
/// is refused what it wants, comes and goes; one that wants what the primary's history has not,
/// stays, and waits most of the time.
pub(super) fn streams() -> Option<i32> {
    // SAFETY: made by the postmaster and mapped for good; the lock guards what is read, and nothing
    // can raise between taking and releasing it.
    unsafe {
        let receiver = pg_sys::WalRcv;
        pg_sys::SpinLockAcquire(&raw mut (*receiver).mutex);
        let (pid, ready) = ((*receiver).pid, (*receiver).ready_to_display);
        let streams = (*receiver).walRcvState == pg_sys::WalRcvState::WALRCV_STREAMING;
        pg_sys::SpinLockRelease(&raw mut (*receiver).mutex);
        (pid != 0 && ready && streams).then_some(pid)
    }
}

/// Whether this server, a standby, has come to the end of the WAL that it has on disk, at least
/// once since it started. Before that, what it has replayed says nothing about what it has.
pub(super) fn has_reached_end_of_wal() -> bool {
    static SEEN: AtomicBool = AtomicBool::new(false);
    let seen = SEEN.load(Ordering::Relaxed) || was_asked_for() || startup_waits_for_wal();
    SEEN.store(seen, Ordering::Relaxed);
    seen
}

/// The startup process asks for a receiver only when the disk has no more for it.
fn was_asked_for() -> bool {
    // SAFETY: as in `streams`.
    unsafe {
        let receiver = pg_sys::WalRcv;
        pg_sys::SpinLockAcquire(&raw mut (*receiver).mutex);
        let start = (*receiver).receiveStart;
        pg_sys::SpinLockRelease(&raw mut (*receiver).mutex);
        start != 0
    }
}

/// Only the startup process ever waits for these, and only when the disk has no more for it.
fn startup_waits_for_wal() -> bool {
    let waits = [
        pg_sys::WaitEventActivity::WAIT_EVENT_RECOVERY_WAL_STREAM,
        pg_sys::WaitEventTimeout::WAIT_EVENT_RECOVERY_RETRIEVE_RETRY_INTERVAL,
    ];
    // SAFETY: the array of all processes has a fixed length and is in shared memory for good; the
    // processes that are no backends come after those that are. Each number is read as one.
    unsafe {
        let all = &*pg_sys::ProcGlobal;
        let backends = usize::try_from(pg_sys::MaxBackends).unwrap_or(0);
        (backends..all.allProcCount as usize).any(|n| {
            let event = (&raw const (*all.allProcs.add(n)).wait_event_info).read_volatile();
            waits.contains(&event)
        })
    }
}
