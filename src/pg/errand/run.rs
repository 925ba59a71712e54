//! The errand's own process: a transaction for each thing to do, and an outcome in words. It ends
//! with status 0 or 1, whatever happens; any other would restart the whole server.

use std::ffi::{CStr, CString, c_int};
use std::panic::AssertUnwindSafe;
use std::ptr;

use pgrx::pg_sys;
use pgrx::pg_sys::PgTryBuilder;
use pgrx::pg_sys::panic::CaughtError;

use crate::hand::errand::{Op, decode};
use crate::hand::one_line;
use crate::pg::{shared, synchronous};

/// The most that an error's message adds to the outcome.
const ERROR_BYTES_MAX: usize = 200;
/// How long the startup process is waited for: it takes in a reload within a millisecond, unless a
/// single WAL record takes longer. Other processes that do not answer would be waited for, too.
const SETTLE_MS_MAX: c_int = 300;
/// utils/timeout.h, the same in 17 and 18; pgrx has no binding.
const STATEMENT_TIMEOUT: c_int = 3;

unsafe extern "C-unwind" {
    fn enable_timeout_after(id: c_int, delay_ms: c_int);
    fn disable_timeout(id: c_int, keep_indicator: bool);
}

/// Where the postmaster's new child begins.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
#[doc(hidden)]
pub extern "C-unwind" fn pgraft_errand_main(arg: pg_sys::Datum) {
    // SAFETY: the first calls of a background worker that asked for a database connection; no name
    // means shared catalogs only, as the superuser that initdb made.
    unsafe {
        pg_sys::BackgroundWorkerUnblockSignals();
        pg_sys::BackgroundWorkerInitializeConnection(ptr::null(), ptr::null(), 0);
    }
    let serial = arg.value() as u64;
    let area = &shared::worker_area().errand;
    let Some(ops) = area.take(serial).as_deref().and_then(decode) else { return };
    let wrong: Vec<String> = ops.iter().filter_map(|op| attempt(op).err()).collect();
    area.finish(serial, &wrong.join("; "));
    shared::worker_area().wake_worker();
}

/// Does one thing, in a transaction of its own.
fn attempt(op: &Op) -> Result<(), String> {
    let outcome = PgTryBuilder::new(AssertUnwindSafe(|| {
        // SAFETY: the main thread of a process with a database connection and no transaction.
        unsafe { pg_sys::StartTransactionCommand() };
        let outcome = carry_out(op);
        // SAFETY: the transaction begun above.
        unsafe { pg_sys::CommitTransactionCommand() };
        outcome
    }))
    .catch_others(|error| Err(in_words(op, &error)))
    .execute();
    if outcome.is_err() {
        // SAFETY: after an error, as in PostgresMain: what the transaction held is released, the
        // timeout, and the slot, which is not the transaction's. After a commit, with what `op` has
        // to say about a refusal, there is nothing to release.
        unsafe {
            disable_timeout(STATEMENT_TIMEOUT, false);
            pg_sys::AbortCurrentTransaction();
            if !pg_sys::MyReplicationSlot.is_null() {
                pg_sys::ReplicationSlotRelease();
            }
        }
    }
    outcome
}

fn in_words(op: &Op, error: &CaughtError) -> String {
    if *op == Op::Settle {
        return "a process of this server does not take in its settings".to_owned();
    }
    let (CaughtError::PostgresError(report)
    | CaughtError::ErrorReport(report)
    | CaughtError::RustPanic { ereport: report, .. }) = error;
    one_line(report.message(), ERROR_BYTES_MAX)
}

fn carry_out(op: &Op) -> Result<(), String> {
    match op {
        Op::Set { name, value } => set(name, value),
        Op::Reload => {
            // SAFETY: the postmaster is there, or this process would not run on.
            unsafe { libc::kill(pg_sys::PostmasterPid, libc::SIGHUP) };
            Ok(())
        }
        Op::Settle => settle(),
        Op::MakeSlot { name, reserve } => make_slot(name, *reserve),
        Op::DropSlot { name } => drop_slot(name),
    }
}

/// ALTER SYSTEM SET, by its own code: its lock, its checks, its way of replacing the file.
fn set(name: &str, value: &str) -> Result<(), String> {
    if name == synchronous::SETTING && !synchronous::may_change() {
        return Err(format!("{name} is left as it is: this node's lease is about to end"));
    }
    let value = value.replace('\\', "\\\\").replace('\'', "''");
    let sql = c_string(&format!("ALTER SYSTEM SET {name} TO E'{value}'"))?;
    // SAFETY: within a transaction, in whose memory the parse tree lives. One statement of this
    // form gives a list of one RawStmt around an AlterSystemStmt.
    unsafe {
        let list = pg_sys::raw_parser(sql.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        let raw = (*(*list).elements).ptr_value.cast::<pg_sys::RawStmt>();
        pg_sys::AlterSystemSetConfigFile((*raw).stmt.cast());
    }
    Ok(())
}

/// When it returns, the startup process goes by the configuration as it was before the call: it
/// will start no WAL receiver by a former one. It takes in a reload and a barrier at the same
/// place, the reload first; but its look at the one may come just before our signal, so that only
/// the second barrier proves it.
fn settle() -> Result<(), String> {
    if let Some(pid) = startup_process() {
        // SAFETY: a plain call. Were the process gone by now and its pid used again within this
        // instant, that would be by a child of the same user's, at worst reloading in vain.
        unsafe { libc::kill(pid, libc::SIGHUP) };
    }
    // SAFETY: this process handles timeouts and interrupts, as it has a database connection; the
    // timeout raises an ERROR out of the wait, after which `attempt` sees to it that it is off.
    unsafe {
        enable_timeout_after(STATEMENT_TIMEOUT, SETTLE_MS_MAX);
        for _ in 0..2 {
            let barrier = pg_sys::ProcSignalBarrierType::PROCSIGNAL_BARRIER_SMGRRELEASE;
            let generation = pg_sys::EmitProcSignalBarrier(barrier);
            // It sleeps on a latch of its own, which the barrier's signal does not set.
            pg_sys::WakeupRecovery();
            pg_sys::WaitForProcSignalBarrier(generation);
        }
        disable_timeout(STATEMENT_TIMEOUT, false);
    }
    Ok(())
}

fn startup_process() -> Option<i32> {
    // SAFETY: copies the shared status array into this process's memory; an index in its range
    // gives an entry that lives until the transaction ends, or null.
    unsafe {
        (1..=pg_sys::pgstat_fetch_stat_numbackends()).find_map(|n| {
            let entry = pg_sys::pgstat_get_local_beentry_by_index(n).as_ref()?;
            let status = &entry.backendStatus;
            let is_it = status.st_backendType == pg_sys::BackendType::B_STARTUP;
            (is_it && status.st_procpid > 0).then_some(status.st_procpid)
        })
    }
}

fn make_slot(name: &str, reserve: bool) -> Result<(), String> {
    let c_name = c_string(name)?;
    let name = c_name.as_ptr();
    // SAFETY: the calls that pg_create_physical_replication_slot() makes, in its order; a slot that
    // this process has acquired stays where it is until it is released.
    unsafe {
        match find_slot(&c_name) {
            Found::None => {
                let persistent = pg_sys::ReplicationSlotPersistency::RS_PERSISTENT;
                pg_sys::ReplicationSlotCreate(name, false, persistent, false, false, false);
            }
            Found::Idle => {
                #[cfg(feature = "pg17")]
                pg_sys::ReplicationSlotAcquire(name, true);
                #[cfg(feature = "pg18")]
                pg_sys::ReplicationSlotAcquire(name, true, false);
            }
            // Its standby says what it needs.
            Found::InUse => return Ok(()),
            Found::Logical => return Err(format!("slot {} is a logical one", text(&c_name))),
        }
        if reserve && (*pg_sys::MyReplicationSlot).data.restart_lsn == 0 {
            pg_sys::ReplicationSlotReserveWal();
            pg_sys::ReplicationSlotMarkDirty();
            pg_sys::ReplicationSlotSave();
        }
        pg_sys::ReplicationSlotRelease();
    }
    Ok(())
}

fn drop_slot(name: &str) -> Result<(), String> {
    let name = c_string(name)?;
    match find_slot(&name) {
        // SAFETY: no slot is acquired; one that somebody takes meanwhile raises an ERROR.
        Found::Idle => unsafe { pg_sys::ReplicationSlotDrop(name.as_ptr(), true) },
        Found::None | Found::InUse | Found::Logical => {}
    }
    Ok(())
}

enum Found {
    None,
    Logical,
    InUse,
    Idle,
}

fn find_slot(name: &CStr) -> Found {
    // SAFETY: takes and releases the lock of the array; the slot is in shared memory for good, and
    // what is read of it after that may be history: who acts on it acquires it.
    unsafe {
        match pg_sys::SearchNamedReplicationSlot(name.as_ptr(), true).as_ref() {
            None => Found::None,
            Some(slot) if slot.data.database != pg_sys::InvalidOid => Found::Logical,
            Some(slot) if slot.active_pid != 0 => Found::InUse,
            Some(_) => Found::Idle,
        }
    }
}

fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| "a zero byte in a text".to_owned())
}

fn text(name: &CStr) -> String {
    name.to_string_lossy().into_owned()
}
