//! Errands: what the worker's main thread has done by a worker of its own, which lives for one
//! errand and, unlike main, may run a transaction: `ALTER SYSTEM`, replication slots.
//!
//! One at a time. Main writes it into shared memory and registers the worker; that says what came of
//! it in the same place and wakes main.

use std::ffi::CString;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::{PgTryBuilder, pg_sys};

use crate::hand::errand::{ERRAND_BYTES_MAX, Op, decode, encode};
use crate::hand::one_line;

use super::shared;

/// Of what came of it, in words.
const OUTCOME_BYTES_MAX: usize = 256;
/// What takes longer was lost: the postmaster had no place for it, or it hangs.
pub(super) const ERRAND_MAX: Duration = Duration::from_secs(10);

/// Where an errand lies, in shared memory. Main writes it while no errand runs, the errand's worker
/// while one does.
#[repr(C)]
pub(super) struct ErrandArea {
    /// 0: none, or main has seen the end; 1: to be done; 2: done; 3: failed.
    state: AtomicU32,
    /// Goes up with each, so that a late worker does not do the next one's.
    number: AtomicU32,
    ops_len: AtomicUsize,
    ops: [AtomicU8; ERRAND_BYTES_MAX],
    outcome_len: AtomicUsize,
    outcome: [AtomicU8; OUTCOME_BYTES_MAX],
}

const NONE: u32 = 0;
const TO_DO: u32 = 1;
const DONE: u32 = 2;
const FAILED: u32 = 3;

impl ErrandArea {
    /// Main sends someone to do `ops`. `Err`: why not.
    pub(super) fn send(&self, ops: &[Op]) -> Result<(), String> {
        let bytes = encode(ops).ok_or("a setting is too long")?;
        store(&self.ops, &self.ops_len, &bytes);
        let number = self.number.load(Ordering::Relaxed).wrapping_add(1);
        self.number.store(number, Ordering::Relaxed);
        self.state.store(TO_DO, Ordering::Release);
        let sent = BackgroundWorkerBuilder::new("pgraft errand")
            .set_library("pgraft")
            .set_function("pgraft_errand_main")
            .set_argument(Some(pg_sys::Datum::from(number as usize)))
            .enable_spi_access()
            .set_start_time(BgWorkerStartTime::ConsistentState)
            .set_restart_time(None)
            .load_dynamic();
        if sent.is_err() {
            self.forget();
            return Err("no background worker is free: raise max_worker_processes".to_owned());
        }
        Ok(())
    }

    /// What came of it; `None`: it is not over.
    pub(super) fn outcome(&self) -> Option<Result<(), String>> {
        match self.state.load(Ordering::Acquire) {
            DONE => Some(Ok(())),
            FAILED => {
                let bytes = load(&self.outcome, &self.outcome_len);
                Some(Err(String::from_utf8_lossy(&bytes).into_owned()))
            }
            _ => None,
        }
    }

    /// Main has seen what came of it, or gives it up.
    pub(super) fn forget(&self) {
        self.state.store(NONE, Ordering::Release);
    }

    fn is_current(&self, number: u32) -> bool {
        self.number.load(Ordering::Relaxed) == number && self.state.load(Ordering::Acquire) == TO_DO
    }

    fn end(&self, number: u32, outcome: Result<(), String>) {
        if !self.is_current(number) {
            return;
        }
        let state = match &outcome {
            Ok(()) => DONE,
            Err(why) => {
                store(
                    &self.outcome,
                    &self.outcome_len,
                    one_line(why, OUTCOME_BYTES_MAX).as_bytes(),
                );
                FAILED
            }
        };
        self.state.store(state, Ordering::Release);
        shared::worker_area().wake_worker();
    }
}

fn store(to: &[AtomicU8], len: &AtomicUsize, bytes: &[u8]) {
    for (to, byte) in to.iter().zip(bytes) {
        to.store(*byte, Ordering::Relaxed);
    }
    len.store(bytes.len().min(to.len()), Ordering::Relaxed);
}

fn load(from: &[AtomicU8], len: &AtomicUsize) -> Vec<u8> {
    let len = len.load(Ordering::Relaxed).min(from.len());
    from[..len].iter().map(|byte| byte.load(Ordering::Relaxed)).collect()
}

/// Where the postmaster's new child begins. It ends with status 0 whatever happens: an ERROR is
/// caught, told and gone.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
#[doc(hidden)]
pub extern "C-unwind" fn pgraft_errand_main(number: pg_sys::Datum) {
    let (area, number) = (shared::errand_area(), number.value() as u32);
    // SAFETY: the process's first acts, on its main thread: signals as a background worker has
    // them by default, and a session without a database.
    unsafe {
        pg_sys::BackgroundWorkerUnblockSignals();
        pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0);
    }
    if !area.is_current(number) {
        return;
    }
    let Some(ops) = decode(&load(&area.ops, &area.ops_len)) else {
        return area.end(number, Err("the errand cannot be read".to_owned()));
    };
    let outcome = PgTryBuilder::new(|| {
        // SAFETY: a session that is in no transaction; an ERROR leaves through the builder, and
        // the process ends without another one.
        unsafe { pg_sys::StartTransactionCommand() };
        for op in &ops {
            carry_out(op)?;
        }
        // SAFETY: as above.
        unsafe { pg_sys::CommitTransactionCommand() };
        Ok(())
    })
    .catch_others(|error| {
        use pg_sys::panic::CaughtError::*;
        Err(match error {
            PostgresError(report) | ErrorReport(report) => report.message().to_owned(),
            RustPanic { ereport, .. } => ereport.message().to_owned(),
        })
    })
    .execute();
    if let Err(why) = &outcome {
        log_failure(why);
    }
    area.end(number, outcome);
}

fn log_failure(why: &str) {
    pgrx::ereport!(
        pgrx::PgLogLevel::LOG,
        pgrx::PgSqlErrorCode::ERRCODE_WARNING,
        format!("pgraft: an errand failed: {why}")
    );
}

fn carry_out(op: &Op) -> Result<(), String> {
    let text = |text: &str| CString::new(text).map_err(|error| error.to_string());
    match op {
        Op::Set { name, value } => {
            // Setting names are ours, and the value is quoted as SQL wants it.
            let quoted = value.replace('\'', "''");
            let sql = text(&format!("ALTER SYSTEM SET {name} = '{quoted}'"))?;
            // SAFETY: in a transaction; the parser returns a list of one RawStmt, of the one kind
            // that such a text is, in this transaction's memory.
            unsafe {
                let parsed =
                    pg_sys::raw_parser(sql.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
                let raw = (*(*parsed).elements).ptr_value.cast::<pg_sys::RawStmt>();
                pg_sys::AlterSystemSetConfigFile((*raw).stmt.cast());
            }
        }
        Op::Reload => {
            // SAFETY: the postmaster is this process's parent.
            unsafe { libc::kill(pg_sys::PostmasterPid, libc::SIGHUP) };
        }
        Op::MakeSlot { name, reserve } => make_slot(&text(name)?, *reserve),
        Op::DropSlot { name } => {
            // SAFETY: in a transaction, on the main thread, holding no slot.
            unsafe { pg_sys::ReplicationSlotDrop(text(name)?.as_ptr(), true) };
        }
    }
    Ok(())
}

fn make_slot(name: &std::ffi::CStr, reserve: bool) {
    // SAFETY: in a transaction, on the main thread, holding no slot; each is released again, or by
    // the end of the process.
    unsafe {
        if pg_sys::SearchNamedReplicationSlot(name.as_ptr(), true).is_null() {
            let kind = pg_sys::ReplicationSlotPersistency::RS_PERSISTENT;
            pg_sys::ReplicationSlotCreate(name.as_ptr(), false, kind, false, false, false);
        } else if reserve {
            #[cfg(feature = "pg17")]
            pg_sys::ReplicationSlotAcquire(name.as_ptr(), true);
            #[cfg(feature = "pg18")]
            pg_sys::ReplicationSlotAcquire(name.as_ptr(), true, true);
        } else {
            return;
        }
        if reserve {
            pg_sys::ReplicationSlotReserveWal();
        }
        pg_sys::ReplicationSlotMarkDirty();
        pg_sys::ReplicationSlotSave();
        pg_sys::ReplicationSlotRelease();
    }
}
