//! What this server's Postgres is doing, from its shared memory alone: the worker has no database
//! connection and must touch no catalog. Main threads only.

use pgrx::pg_sys;

use std::ffi::c_char;

use crate::cluster::Position;
use crate::wire::{PgRole, Report, Standing};

use super::{guc, timelines};

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
    Report {
        pg_role,
        wal_lsn,
        timeline,
        receiving: pg_role == Some(PgRole::Standby) && is_receiving(),
        stopping: is_stopping(),
        ..Report::default()
    }
}

/// Whether the WAL receiver streams, or is about to.
pub(super) fn is_receiving() -> bool {
    // SAFETY: reads shared memory under its spinlock.
    unsafe { pg_sys::WalRcvStreaming() }
}

/// Whether the postmaster is shutting down: it says so in postmaster.pid (miscadmin.h,
/// LOCK_FILE_LINE_PM_STATUS), and to nobody else.
fn is_stopping() -> bool {
    let text = std::fs::read_to_string(guc::data_directory().join("postmaster.pid"));
    text.is_ok_and(|text| text.lines().nth(7).is_some_and(|line| line.trim() == "stopping"))
}

/// How far this server has come, for a leader that seeks a primary.
pub(super) fn standing(frozen: bool) -> Standing {
    let Report { pg_role, wal_lsn, timeline, receiving, .. } = report();
    let position = match timelines::history(timeline) {
        Some(history) => Position { timeline, lsn: wal_lsn, history },
        None => Position::default(),
    };
    Standing {
        pg_role,
        position,
        system_identifier: system_identifier(),
        receiving,
        frozen,
        obstacle: obstacle().filter(|_| pg_role == Some(PgRole::Standby)).unwrap_or_default(),
    }
}

/// Why this standby cannot be promoted.
pub(super) fn obstacle() -> Option<String> {
    // SAFETY: reads shared memory under its spinlock.
    let pause = unsafe { pg_sys::GetRecoveryPauseState() };
    (pause != pg_sys::RecoveryPauseState::RECOVERY_NOT_PAUSED)
        .then(|| "recovery is paused".to_owned())
}

unsafe extern "C-unwind" {
    /// src/include/replication/message.h; pgrx has no binding of it.
    fn LogLogicalMessage(
        prefix: *const c_char,
        message: *const c_char,
        size: usize,
        transactional: bool,
        flush: bool,
    ) -> u64;
}

/// On a primary: flushes all WAL that was written, commits that did not wait for their flush
/// included; the end of it. A message of no content marks the place, and is what is flushed to.
pub(super) fn flush_all() -> u64 {
    // SAFETY: the main thread, on a server that is not in recovery; no transaction is needed for a
    // message that belongs to none. An ERROR becomes a panic at this boundary.
    unsafe {
        pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
            LogLogicalMessage(c"pgraft".as_ptr(), c"".as_ptr(), 0, false, true)
        })
    }
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
