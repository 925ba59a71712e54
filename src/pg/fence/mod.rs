//! The fence in every backend: a transaction that has written asks the page, just before it
//! commits, whether this node is the primary; nobody else, and no living worker, is needed for a
//! no. Reads are never asked about.
//!
//! - Before the commit (`XACT_EVENT_PRE_COMMIT`, `_PRE_PREPARE`, with a transaction id) it counts
//!   itself in and looks. It passes, waits for a while, or fails with SQLSTATE 25006.
//! - After it, and before the client hears of it, it looks again: what was let pass may have ended
//!   after the lease, and another primary may never have heard of it. Then the client must not be
//!   told "done": its connection is cut, which leaves open what became of the commit.
//! - `COMMIT PREPARED` has no transaction id of its own, so that a hook looks before it runs.
//!
//! Not looked at: what has no transaction id when the callback comes. That is a `NOTIFY` that comes
//! alone, a value that a sequence had logged before, `VACUUM`'s own work; and what an extension
//! that was preloaded before pgraft writes in its own callback.
//!
//! - `commit` — the commit that this process is in
//! - `wait` — a commit that may not pass yet
//! - `refusal` — in words
//! - `utility` — the hook
//! - `session` — what a connection to a deposed primary is told at its start
//! - `marker` — the file by which a server knows before its worker runs that it has a fence

mod commit;
mod marker;
mod refusal;
mod session;
mod utility;
mod wait;

pub(super) use marker::{Marker, mode_at_start};

use std::ffi::c_void;
use std::ptr;

use pgrx::pg_sys;

// Declared here and not taken from pgrx, whose binding sets a jump buffer at each call: this one
// raises no ERROR.
unsafe extern "C-unwind" {
    fn GetTopTransactionIdIfAny() -> u32;
}

/// While libraries are preloaded: all processes of the server inherit it.
pub(super) fn install() {
    // SAFETY: the postmaster's only thread; a callback that stays loaded, and no argument.
    unsafe { pg_sys::RegisterXactCallback(Some(on_event), ptr::null_mut()) };
    utility::install();
    session::install();
}

/// Something happens to this process's transaction. Not guarded, as most events are none of the
/// fence's business: what may raise is behind the guard of what it calls.
unsafe extern "C-unwind" fn on_event(event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    use pg_sys::XactEvent::*;
    match event {
        XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE if has_written() => begin(),
        XACT_EVENT_COMMIT | XACT_EVENT_PREPARE if commit::is_under_way() => end_committed(),
        XACT_EVENT_ABORT if commit::is_under_way() => commit::end(),
        // Parallel workers commit nothing: their leader does, and is asked.
        _ => {}
    }
}

fn has_written() -> bool {
    // SAFETY: reads a variable of this process, whose main thread this is.
    unsafe { GetTopTransactionIdIfAny() != 0 }
}

#[pgrx::pg_guard]
extern "C-unwind" fn begin() {
    commit::begin();
}

#[pgrx::pg_guard]
extern "C-unwind" fn end_committed() {
    commit::end_committed();
}
