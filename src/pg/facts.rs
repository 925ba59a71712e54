//! What this server's Postgres is doing, from its shared memory alone: the worker has no database
//! connection and must touch no catalog. Main threads only.

use pgrx::pg_sys;

use crate::wire::{PgRole, Report};

/// The role; `None` while Postgres recovers from a crash and cannot say yet.
pub(super) fn role() -> Option<PgRole> {
    // SAFETY: both read one field of shared memory, under its spinlock.
    let (recovering, state) = unsafe { (pg_sys::RecoveryInProgress(), pg_sys::GetRecoveryState()) };
    match (recovering, state) {
        (false, _) => Some(PgRole::Primary),
        (true, pg_sys::RecoveryState::RECOVERY_STATE_CRASH) => None,
        (true, _) => Some(PgRole::Standby),
    }
}

/// The role and how far the WAL reaches: on a primary what is flushed, on a standby the farther of
/// received and replayed.
pub(super) fn report() -> Report {
    let pg_role = role();
    let (wal_lsn, timeline) = match pg_role {
        Some(PgRole::Primary) => flushed(),
        _ => received_or_replayed(),
    };
    Report { pg_role, wal_lsn, timeline, ..Report::default() }
}

fn flushed() -> (u64, u32) {
    let mut timeline = 0;
    // SAFETY: allowed once recovery is over, which the caller has seen, and which never comes back.
    let lsn = unsafe { pg_sys::GetFlushRecPtr(&mut timeline) };
    (lsn, timeline)
}

fn received_or_replayed() -> (u64, u32) {
    let (mut received_timeline, mut replayed_timeline) = (0, 0);
    // SAFETY: both copy from shared memory under a spinlock, at any time; a null pointer says that
    // the start of the latest chunk is not wanted.
    let (received, replayed) = unsafe {
        (
            pg_sys::GetWalRcvFlushRecPtr(std::ptr::null_mut(), &mut received_timeline),
            pg_sys::GetXLogReplayRecPtr(&mut replayed_timeline),
        )
    };
    // The receiver's position is that of its last run, which may be on an older timeline.
    if received_timeline >= replayed_timeline && received > replayed {
        (received, received_timeline)
    } else {
        (replayed, replayed_timeline)
    }
}

/// The system identifier; standbys share their primary's.
pub(super) fn system_identifier() -> u64 {
    // SAFETY: reads the control file's copy in shared memory, which is there from the start.
    unsafe { pg_sys::GetSystemIdentifier() }
}

/// The port of Postgres.
pub(super) fn port() -> u16 {
    // SAFETY: set before the first fork, changed by none.
    unsafe { pg_sys::PostPortNumber as u16 }
}
