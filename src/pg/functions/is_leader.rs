//! `pgraft_is_leader()`: asked before every write by some clients, so it does as little as
//! `pg_is_in_recovery()` does. Written against Postgres' version 1 calling convention itself:
//! pgrx's wrapper prepares for errors that cannot happen here.

use pgrx::pg_sys;

use crate::pg::{report, shared};

/// Tells Postgres how to call `pgraft_is_leader`.
#[unsafe(no_mangle)]
#[doc(hidden)]
pub extern "C" fn pg_finfo_pgraft_is_leader() -> &'static pg_sys::Pg_finfo_record {
    const VERSION_1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &VERSION_1
}

/// Two loads of shared memory on a follower; on a leader three more and one look at the clock.
///
/// # Safety
/// To be called by Postgres. It does not look at its argument.
#[unsafe(no_mangle)]
#[doc(hidden)]
pub unsafe extern "C-unwind" fn pgraft_is_leader(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    match shared::get() {
        Some(shared) => pg_sys::Datum::from(shared.page().is_leader_now()),
        // SAFETY: passed on as it came.
        None => unsafe { not_preloaded(fcinfo) },
    }
}

#[cold]
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn not_preloaded(_fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    report::raise_not_preloaded()
}
