//! From the `log` crate to the server's log. Threads queue their records; main writes them.

use crossbeam_channel::Receiver;
use log::{Level, LevelFilter};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

use crate::runtime::logger::{self, Logger, Record, Sinks};
use crate::runtime::wake::Waker;
use crate::shmem::LogRing;

/// Records that wait for main, which drains them at each wake-up: a burst's worth.
const RECORDS_MAX: usize = 1024;

/// Makes this process log through pgraft's logger. Main calls it once.
pub(super) fn install(ring: LogRing, waker: Waker) -> (&'static Logger, Receiver<Record>) {
    let (sender, records) = crossbeam_channel::bounded(RECORDS_MAX);
    let queue = move |record| {
        let queued = sender.try_send(record).is_ok();
        waker.wake();
        queued
    };
    let sinks = Sinks { ring, queue: Box::new(queue), direct: Box::new(|record| write(&record)) };
    (logger::install(sinks, LevelFilter::Info), records)
}

/// Writes a record to the server's log. Main only.
///
/// At LOG and WARNING, which `log_min_messages` lets through by default: whether debug lines are
/// wanted, pgraft has decided already. Never at ERROR, which would end the worker.
pub(super) fn write(record: &Record) {
    let (level, code, mark) = match record.level {
        Level::Error => (PgLogLevel::WARNING, PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "error: "),
        Level::Warn => (PgLogLevel::WARNING, PgSqlErrorCode::ERRCODE_WARNING, ""),
        Level::Info => (PgLogLevel::LOG, PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, ""),
        Level::Debug | Level::Trace => {
            (PgLogLevel::LOG, PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, "debug: ")
        }
    };
    ErrorReport::new(code, format!("pgraft: {mark}{}", record.text), "pgraft").report(level);
}
