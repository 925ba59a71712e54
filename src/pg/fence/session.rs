//! A client that looks for a server that takes writes asks whether it is in recovery and whether
//! `default_transaction_read_only` is off (libpq's `target_session_attrs`). A deposed primary is
//! not in recovery. So it says by that setting, in each connection that begins there, that it only
//! reads; and when a statement fails for it, which server does not.

use std::ffi::{CString, c_int, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};

use crate::pg::shared;
use crate::shmem::FenceMode;

use super::refusal;

/// Its number in C.
const ERROR: c_int = PgLogLevel::ERROR as c_int;

type AuthenticationHook = Option<unsafe extern "C-unwind" fn(*mut c_void, c_int)>;

unsafe extern "C-unwind" {
    /// libpq/auth.h; pgrx has no binding. Called when it is known who connects, before the settings
    /// of the session are reported to the client.
    static mut ClientAuthentication_hook: AuthenticationHook;
}

static mut PREVIOUS_AUTHENTICATION: AuthenticationHook = None;
static mut PREVIOUS_LOG: pg_sys::emit_log_hook_type = None;

/// Whether this session began on a server that is not the primary and not in recovery.
static READS_ONLY: AtomicBool = AtomicBool::new(false);
/// What the latest error points to.
static DETAIL: Mutex<Option<CString>> = Mutex::new(None);

/// While libraries are preloaded.
pub(super) fn install() {
    // SAFETY: the postmaster's only thread, and nobody calls the hooks yet.
    unsafe {
        PREVIOUS_AUTHENTICATION = ClientAuthentication_hook;
        ClientAuthentication_hook = Some(on_authentication);
        PREVIOUS_LOG = pg_sys::emit_log_hook;
        pg_sys::emit_log_hook = Some(on_log);
    }
}

/// The hook. Not guarded, as `process_utility` is not.
unsafe extern "C-unwind" fn on_authentication(port: *mut c_void, status: c_int) {
    // SAFETY: written before any process was forked; called as Postgres called this.
    unsafe {
        if let Some(previous) = PREVIOUS_AUTHENTICATION {
            previous(port, status);
        }
    }
    if status == pg_sys::STATUS_OK as c_int {
        begin_session();
    }
}

#[pgrx::pg_guard]
extern "C-unwind" fn begin_session() {
    let closed = |shared: &&crate::shmem::Shared| shared.page().fence().mode == FenceMode::Closed;
    if shared::get().filter(closed).is_none() {
        return;
    }
    // SAFETY: the first reads a flag in shared memory: a standby says so by itself, and may become
    // the primary while the session lasts. The other sets a boolean that has no hooks of its own,
    // with the rank of what the client asked for at its start, which comes later and counts.
    unsafe {
        if pg_sys::RecoveryInProgress() {
            return;
        }
        pg_sys::SetConfigOption(
            c"default_transaction_read_only".as_ptr(),
            c"on".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_CLIENT,
        );
    }
    READS_ONLY.store(true, Ordering::Relaxed);
}

/// The hook: a message is about to be logged, and then sent to the client. Not guarded, and raises
/// nothing.
unsafe extern "C-unwind" fn on_log(edata: *mut pg_sys::ErrorData) {
    // SAFETY: Postgres' own message, which is there until it was sent; as in `on_authentication`.
    unsafe {
        let refused = PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION as c_int;
        let refuses = (*edata).sqlerrcode == refused && (*edata).elevel == ERROR;
        // An ERROR's texts go with their memory context. Of any other message Postgres frees each
        // by itself, which these must not be.
        let ours = READS_ONLY.load(Ordering::Relaxed) && refuses;
        if ours && (*edata).detail.is_null() && (*edata).hint.is_null() {
            point_elsewhere(&mut *edata);
        }
        if let Some(previous) = PREVIOUS_LOG {
            previous(edata);
        }
    }
}

/// Says who is the primary. The text is this process's until the next one replaces it, by when the
/// message was sent.
fn point_elsewhere(edata: &mut pg_sys::ErrorData) {
    let Some((detail, hint)) = shared::get().map(refusal::elsewhere) else { return };
    let (Ok(detail), Ok(mut kept)) = (CString::new(detail), DETAIL.lock()) else { return };
    let detail = kept.insert(detail);
    edata.detail = detail.as_ptr().cast_mut();
    edata.hint = hint.as_ptr().cast_mut();
}
