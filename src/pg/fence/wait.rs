//! A commit that may not pass yet: it waits, interruptibly, counted out meanwhile, and looks again.

use std::sync::OnceLock;

use pgrx::pg_sys;

use crate::pg::{guc, nap};
use crate::shmem::{Shared, Verdict};
use crate::sys;

use super::{commit, refusal};

/// How long a waiting commit sleeps when nobody can say how long it takes: short against the time
/// that a lease takes to come back, and a hundred waiting backends cost some percent of a core.
const NAP_NS: u64 = 10_000_000;

/// Returns when the commit may go on, counted in; raises when it may not.
#[cold]
pub(super) fn hold_up(shared: &'static Shared, mut verdict: Verdict) {
    if !guc::fence() {
        refusal::warn_of_lifted(shared, verdict);
        return commit::pass_lifted();
    }
    let deadline_ns = sys::now_boottime_ns() + guc::fence_wait().as_nanos() as u64;
    loop {
        let from_ns = match verdict {
            Verdict::Pass { from_ns, until_ns } => return commit::pass(from_ns, until_ns),
            Verdict::Refuse => {
                commit::end();
                refusal::raise_not_primary(shared);
            }
            Verdict::Wait { from_ns } => from_ns,
        };
        commit::end();
        let now_ns = sys::now_boottime_ns();
        if now_ns >= deadline_ns {
            refusal::raise_no_lease(shared);
        }
        let until_ns = if from_ns > now_ns { from_ns } else { now_ns + NAP_NS };
        // In the callback before a commit interrupts are not held off yet.
        nap::sleep(until_ns.min(deadline_ns) - now_ns, wait_event());
        verdict = commit::look(shared.page());
    }
}

/// What pg_stat_activity shows meanwhile: Extension / PgraftFence.
fn wait_event() -> u32 {
    static EVENT: OnceLock<u32> = OnceLock::new();
    // SAFETY: the main thread of a backend; the name is copied.
    *EVENT.get_or_init(|| unsafe { pg_sys::WaitEventExtensionNew(c"PgraftFence".as_ptr()) })
}
