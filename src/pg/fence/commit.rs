//! The commit that this process is in: counted in on the page from before its look at the fence
//! until it has ended, so that a planned move can wait for it. Main threads only, each with its own
//! process: the statics are this process's.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

use crate::pg::shared;
use crate::shmem::{StatusPage, Verdict};
use crate::sys;

use super::wait;

/// Whether this process has counted itself in and not yet out.
static COUNTED_IN: AtomicBool = AtomicBool::new(false);
/// While it has: when what let it pass began, and ends, on CLOCK_BOOTTIME.
static FROM_NS: AtomicU64 = AtomicU64::new(0);
static UNTIL_NS: AtomicU64 = AtomicU64::new(u64::MAX);
/// In `FROM_NS`: a superuser lifted the fence, and answers for it.
const LIFTED: u64 = u64::MAX;

/// Whether a commit has begun here and not ended.
#[inline]
pub(super) fn is_under_way() -> bool {
    COUNTED_IN.load(Ordering::Relaxed)
}

/// A commit begins: returns when it may go on, or raises why not.
pub(super) fn begin() {
    // Without shared memory there is no fence; COMMIT PREPARED was asked about already.
    let Some(shared) = shared::get().filter(|_| !is_under_way()) else { return };
    match look(shared.page()) {
        Verdict::Pass { from_ns, until_ns } => pass(from_ns, until_ns),
        verdict => wait::hold_up(shared, verdict),
    }
}

/// Counts this process in, then looks.
pub(super) fn look(page: &StatusPage) -> Verdict {
    end_at_exit();
    page.count_in();
    COUNTED_IN.store(true, Ordering::Relaxed);
    page.may_commit(sys::now_boottime_ns())
}

/// It may go on.
pub(super) fn pass(from_ns: u64, until_ns: u64) {
    FROM_NS.store(from_ns, Ordering::Relaxed);
    UNTIL_NS.store(until_ns, Ordering::Relaxed);
}

/// It may go on whatever the page says.
pub(super) fn pass_lifted() {
    pass(LIFTED, u64::MAX);
}

/// The commit has ended, in whatever way. Once for each that began.
pub(super) fn end() {
    if COUNTED_IN.swap(false, Ordering::Relaxed)
        && let Some(shared) = shared::get()
    {
        shared.page().count_out();
    }
}

/// It is committed, and its client does not know yet. Must not raise.
pub(super) fn end_committed() {
    if ended_too_late() {
        cut_off_client();
    }
    end();
}

/// The second look. The clock comes first: what the page says after it, of a later time, holds for
/// that time, too.
fn ended_too_late() -> bool {
    let from_ns = FROM_NS.load(Ordering::Relaxed);
    let until_ns = UNTIL_NS.load(Ordering::Relaxed);
    if from_ns == LIFTED {
        return false;
    }
    let now_ns = sys::now_boottime_ns();
    let passed = Verdict::Pass { from_ns, until_ns };
    let passes = |page: &StatusPage| page.fence().still_passes(now_ns, passed);
    !shared::get().is_some_and(|shared| passes(shared.page()))
}

/// The client gets no answer to its commit, so that it knows that it does not know. An ERROR would
/// be wrong, and raised here end in a PANIC: the transaction is committed.
#[cold]
fn cut_off_client() {
    let socket = client_socket();
    if let Some(socket) = socket {
        // SAFETY: a descriptor that stays open until the process ends. That the call fails means
        // that the connection is gone, which is as good.
        unsafe { libc::shutdown(socket, libc::SHUT_RDWR) };
    }
    let code = PgSqlErrorCode::ERRCODE_T_R_STATEMENT_COMPLETION_UNKNOWN;
    let message = match socket {
        Some(_) => "pgraft: closed a client's connection in place of reporting its commit",
        None => "pgraft: a commit ended too late",
    };
    let detail = "This node's lease as primary ended before the commit did. The transaction is \
                  committed here; a new primary may never have got it.";
    ErrorReport::new(code, message, "pgraft").set_detail(detail).report(PgLogLevel::LOG);
}

/// The client's socket, if there is a client.
fn client_socket() -> Option<pg_sys::pgsocket> {
    // SAFETY: this process's own; null, or a Port that lives until the process ends. pgrx has not
    // what is in it; in all releases that pgraft builds for it begins with the socket.
    unsafe { pg_sys::MyProcPort.cast::<pg_sys::pgsocket>().as_ref().copied() }
}

/// A process that ends while it commits, or waits to, is counted out.
fn end_at_exit() {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: a guarded function that stays loaded; once for each process, of the few that
        // Postgres has room for.
        unsafe { pg_sys::before_shmem_exit(Some(at_exit), pg_sys::Datum::from(0)) };
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn at_exit(_code: i32, _arg: pg_sys::Datum) {
    end();
}
