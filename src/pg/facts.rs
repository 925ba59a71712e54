//! What this server's Postgres is doing, from its shared memory alone: the worker has no database
//! connection and must touch no catalog. Main threads only.

use std::ffi::{CStr, c_char};
use std::fs;

use pgrx::pg_sys;

use crate::cluster::Position;
use crate::hand::advice::Settings;
use crate::hand::one_line;
use crate::wire::{Ask, PgRole, Report, Standing};

use super::{guc, receiver, timelines};

/// The most that an obstacle says.
const OBSTACLE_BYTES_MAX: usize = 200;
/// The line of postmaster.pid that says how far the server has come, counted from 0
/// (src/include/miscadmin.h, LOCK_FILE_LINE_PM_STATUS).
const STATUS_LINE: usize = 7;

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
    let (wal_lsn, timeline) = reach(pg_role);
    let history = timelines::history(timeline).filter(|_| pg_role == Some(PgRole::Primary));
    let fork = history.and_then(|history| history.last().copied());
    // That it is being shut down the worker says when it is its turn to end: until then, which is
    // when the last client has left if the shutdown is a smart one, the server works.
    let receiving = receiver::runs();
    Report { pg_role, wal_lsn, timeline, fork, receiving, ..Report::default() }
}

/// How far this server has come, for who chooses a primary. `frozen`: it was seen to.
pub(super) fn standing(ask: Ask, frozen: bool) -> Standing {
    let pg_role = role();
    // First: what comes in between, the position has.
    let receiving = receiver::runs();
    let position = match pg_role {
        Some(PgRole::Standby) if !receiver::has_reached_end_of_wal() => Position::default(),
        Some(_) => position(pg_role),
        None => Position::default(),
    };
    let obstacle = match pg_role {
        Some(PgRole::Standby) => obstacle(&position),
        _ => String::new(),
    };
    Standing {
        pg_role,
        position,
        system_identifier: system_identifier(),
        receiving,
        frozen: ask.freeze && frozen,
        obstacle: one_line(&obstacle, OBSTACLE_BYTES_MAX),
    }
}

/// The same for who wants it frozen, while it cannot be: why.
pub(super) fn unfrozen(ask: Ask, why: &str) -> Standing {
    let why = format!("its server cannot be kept from receiving WAL: {why}");
    Standing { obstacle: one_line(&why, OBSTACLE_BYTES_MAX), ..standing(ask, false) }
}

fn position(role: Option<PgRole>) -> Position {
    let (lsn, timeline) = reach(role);
    match timelines::history(timeline) {
        Some(history) => Position { timeline, lsn, history },
        None => Position::default(),
    }
}

/// Why this standby cannot be promoted; empty if it can.
fn obstacle(position: &Position) -> String {
    if !is_standby_by_choice() {
        return "it recovers from an archive and is no standby: there is no standby.signal".into();
    }
    if !receiver::has_reached_end_of_wal() {
        return "it still replays the WAL that it has on disk".into();
    }
    if recovery_is_paused() {
        return "its recovery is paused: run pg_wal_replay_resume()".into();
    }
    if !is_consistent() {
        return "it has not reached a consistent state yet".into();
    }
    if position.timeline == 0 {
        return "the history of its timeline cannot be read".into();
    }
    String::new()
}

/// Whether there is a standby.signal, as opposed to recovery.signal: Postgres removes it when it is
/// promoted.
fn is_standby_by_choice() -> bool {
    guc::data_directory().join("standby.signal").exists()
}

/// Whether somebody paused, or is about to pause, its recovery.
pub(super) fn recovery_is_paused() -> bool {
    // SAFETY: reads a field of shared memory under its spinlock.
    let state = unsafe { pg_sys::GetRecoveryPauseState() };
    state != pg_sys::RecoveryPauseState::RECOVERY_NOT_PAUSED
}

/// Whether a standby could be promoted as far as its WAL goes: before that Postgres would stop.
pub(super) fn is_consistent() -> bool {
    // SAFETY: a flag that the postmaster set before it forked.
    let hot_standby = unsafe { pg_sys::EnableHotStandby };
    // Without hot standby, nobody is told; Postgres says "standby" from the start on.
    !hot_standby || postmaster_status() == "ready"
}

/// Whether the postmaster is shutting down in order.
pub(super) fn is_stopping() -> bool {
    postmaster_status() == "stopping"
}

/// What the postmaster says of itself; empty: that cannot be read.
fn postmaster_status() -> String {
    let file = fs::read_to_string(guc::data_directory().join("postmaster.pid"));
    let line = file.as_deref().unwrap_or_default().lines().nth(STATUS_LINE);
    line.unwrap_or_default().trim().to_owned()
}

fn reach(role: Option<PgRole>) -> (u64, u32) {
    match role {
        Some(PgRole::Primary) => flushed(),
        _ => received_or_replayed(),
    }
}

/// On a primary: the end of what is flushed, and its timeline.
pub(super) fn flushed() -> (u64, u32) {
    let mut timeline = 0;
    // SAFETY: allowed once recovery is over, which the caller has seen, and which never comes back.
    let lsn = unsafe { pg_sys::GetFlushRecPtr(&mut timeline) };
    (lsn, timeline)
}

/// On a standby: the end of its WAL, and its timeline.
pub(super) fn received_or_replayed() -> (u64, u32) {
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

/// What failover and rewinding rest on.
pub(super) fn settings() -> Settings {
    // SAFETY: settings of this process, which only this thread reads anew; the control file's copy.
    unsafe {
        Settings {
            hot_standby: pg_sys::EnableHotStandby,
            hints_are_logged: pg_sys::wal_log_hints || pg_sys::DataChecksumsEnabled(),
            full_page_writes: pg_sys::fullPageWrites,
            wal_senders_max: pg_sys::max_wal_senders as u32,
            slots_max: pg_sys::max_replication_slots as u32,
            workers_max: pg_sys::max_worker_processes as u32,
            parallel_workers_max: pg_sys::max_parallel_workers as u32,
        }
    }
}

/// The port of Postgres.
pub(super) fn port() -> u16 {
    // SAFETY: set before the first fork, changed by none.
    unsafe { pg_sys::PostPortNumber as u16 }
}

/// A setting's string, empty if it has none.
///
/// # Safety
/// `value` must be null or the variable of a string setting, which ends with a zero.
pub(super) unsafe fn setting(value: *const c_char) -> String {
    if value.is_null() {
        return String::new();
    }
    // SAFETY: as the caller's promise.
    unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned()
}
