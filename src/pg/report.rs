//! Failures as Postgres raises them: the only place that knows SQLSTATEs.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

use crate::cluster::{Done, Failure, FailureKind};

/// The SQLSTATE of each kind.
fn sqlstate(kind: FailureKind) -> PgSqlErrorCode {
    match kind {
        FailureKind::InvalidValue => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        FailureKind::WrongState => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        FailureKind::Duplicate => PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
        FailureKind::Unavailable => PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
        FailureKind::OutcomeUnknown => PgSqlErrorCode::ERRCODE_T_R_STATEMENT_COMPLETION_UNKNOWN,
        FailureKind::Config => PgSqlErrorCode::ERRCODE_CONFIG_FILE_ERROR,
        FailureKind::Io => PgSqlErrorCode::ERRCODE_IO_ERROR,
        FailureKind::Busy => PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
        FailureKind::Corrupt => PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        FailureKind::StoreFull => PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
    }
}

/// Ends the query with `failure` as its ERROR. Rust's destructors run on the way.
pub(super) fn raise(failure: Failure) -> ! {
    let report = ErrorReport::new(sqlstate(failure.kind), failure.message, "pgraft");
    finish(report, &failure.detail, &failure.hint)
}

/// Says what there is to say about a request carried out; its value.
pub(super) fn tell(done: Done) -> bool {
    let say = |level, code, text: String| {
        if !text.is_empty() {
            ErrorReport::new(code, text, "pgraft").report(level);
        }
    };
    say(PgLogLevel::NOTICE, PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, done.notice);
    say(PgLogLevel::WARNING, PgSqlErrorCode::ERRCODE_WARNING, done.warning);
    done.value
}

/// ERROR: the argument `name` is null.
pub(super) fn raise_null(name: &str) -> ! {
    let code = PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED;
    let report = ErrorReport::new(code, format!("argument \"{name}\" must not be null"), "pgraft");
    finish(report, "", "")
}

/// ERROR: an argument has a value that can never work.
pub(super) fn raise_invalid(message: String, detail: &str, hint: &str) -> ! {
    let code = PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE;
    finish(ErrorReport::new(code, message, "pgraft"), detail, hint)
}

/// ERROR: this server may not commit what writes.
pub(super) fn raise_fenced(message: String, detail: &str, hint: &str) -> ! {
    let code = PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION;
    finish(ErrorReport::new(code, message, "pgraft"), detail, hint)
}

/// WARNING, with a detail.
pub(super) fn warn(message: &'static str, detail: &str) {
    let report = ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, "pgraft");
    report.set_detail(detail).report(PgLogLevel::WARNING);
}

/// ERROR: there is no worker and no shared memory, and cannot be before a restart.
#[cold]
pub(super) fn raise_not_preloaded() -> ! {
    let code = PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
    let message = "pgraft must be loaded via \"shared_preload_libraries\"";
    let hint = "Add pgraft to shared_preload_libraries in postgresql.conf and restart the server.";
    finish(ErrorReport::new(code, message, "pgraft"), "", hint)
}

fn finish(mut report: ErrorReport, detail: &str, hint: &str) -> ! {
    if !detail.is_empty() {
        report = report.set_detail(detail);
    }
    if !hint.is_empty() {
        report = report.set_hint(hint);
    }
    report.report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}
