//! Makes sure that all that was committed on this primary is on its disk.

use std::ffi::{CStr, c_char};

use pgrx::pg_sys;

use crate::pg::facts;
use crate::wire::PgRole;

unsafe extern "C-unwind" {
    /// replication/message.h; pgrx has no binding.
    fn LogLogicalMessage(
        prefix: *const c_char,
        message: *const c_char,
        size: usize,
        transactional: bool,
        flush: bool,
    ) -> u64;
}

const PREFIX: &CStr = c"pgraft";

/// The end of the WAL, flushed. It writes a record of its own, which no transaction, table or
/// database knows of: asynchronous commits are flushed with it. `None`: this is no primary.
pub(super) fn flush() -> Option<u64> {
    if facts::role() != Some(PgRole::Primary) {
        return None;
    }
    // SAFETY: both functions exist with these arguments in 17 and 18. Recovery is over, so this
    // process may write WAL; it needs no transaction for a message that is not transactional. WAL
    // that cannot be written is a PANIC, as in any process; an ERROR becomes a panic at the
    // boundary, which the binding has around it like pgrx' own.
    let end = unsafe {
        let end = pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
            LogLogicalMessage(PREFIX.as_ptr(), PREFIX.as_ptr(), 0, false, true)
        });
        pg_sys::XLogFlush(end);
        end
    };
    Some(end)
}
