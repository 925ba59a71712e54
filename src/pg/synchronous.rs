//! `synchronous_standby_names`: what it is, whether it may be changed, and how many of the standbys
//! that count have come how far.

use pgrx::pg_sys;

use crate::sys;

use super::{facts, shared};

/// The setting.
pub(super) const SETTING: &str = "synchronous_standby_names";
/// What must be left of the lease for a change to be begun.
const LEASE_LEFT_NS: u64 = 50_000_000;

/// As this process knows it.
pub(super) fn names() -> String {
    // SAFETY: a setting's string, replaced only by this thread's own reload.
    unsafe { facts::setting(pg_sys::SyncRepStandbyNames) }
}

/// Whether this server may change it now: never loosened by who lacks the lease. In recovery there
/// is nobody who waits; and from "nobody" every change is a tightening.
pub(super) fn may_change() -> bool {
    // SAFETY: reads a flag in shared memory.
    if unsafe { pg_sys::RecoveryInProgress() } || names().is_empty() {
        return true;
    }
    // A fence may be paused until the change is made, by who has the lease.
    let later_ns = sys::now_boottime_ns() + LEASE_LEFT_NS;
    let page = shared::get_or_raise().page();
    !page.is_fenced(later_ns) || page.is_leader(later_ns)
}

/// Whether commits wait for standbys or do not, as `wanted`, in every backend: the checkpointer has
/// taken it in and told them.
pub(super) fn in_force(wanted: bool) -> bool {
    // SAFETY: a byte in shared memory that one process writes; a moment's delay does no harm.
    let status = unsafe { (&raw const (*pg_sys::WalSndCtl).sync_standbys_status).read_volatile() };
    let defined = u32::from(status) & pg_sys::SYNC_STANDBY_DEFINED != 0;
    defined == wanted
}

/// How many standbys for whom commits wait have flushed up to `lsn`.
pub(super) fn confirmed(lsn: u64) -> usize {
    // SAFETY: the array has max_wal_senders places from the start to the end of the server, each
    // with a lock that guards what is read; nothing can raise between taking and releasing it.
    unsafe {
        let senders = (&raw mut (*pg_sys::WalSndCtl).walsnds).cast::<pg_sys::WalSnd>();
        let count = usize::try_from(pg_sys::max_wal_senders).unwrap_or(0);
        let counts = |n: &usize| {
            let sender = senders.add(*n);
            pg_sys::SpinLockAcquire(&raw mut (*sender).mutex);
            let streams = (*sender).pid != 0
                && (*sender).state == pg_sys::WalSndState::WALSNDSTATE_STREAMING
                && (*sender).sync_standby_priority > 0;
            let flushed = (*sender).flush;
            pg_sys::SpinLockRelease(&raw mut (*sender).mutex);
            streams && flushed != 0 && flushed >= lsn
        };
        (0..count).filter(counts).count()
    }
}
