//! The small readers: one value each, from shared memory.

use pgrx::pg_extern;

use crate::pg::shared;
use crate::shmem::{Core, Counter, NodeState, Shared};
use crate::sys;

/// Entries committed and not yet applied beyond which a node counts as falling behind.
const APPLY_LAG_MAX: u64 = 1000;

/// What the page says, if it is fresh: an old page is history.
fn fresh_core(shared: &Shared) -> Option<Core> {
    shared.page().is_fresh(sys::now_boottime_ns()).then(|| shared.page().core()).flatten()
}

#[pg_extern]
fn pgraft_get_leader() -> i64 {
    fresh_core(shared::get_or_raise()).map_or(0, |core| core.leader.into())
}

#[pg_extern]
fn pgraft_get_term() -> i64 {
    shared::get_or_raise().page().term() as i64
}

#[pg_extern]
fn pgraft_has_quorum() -> bool {
    fresh_core(shared::get_or_raise()).is_some_and(|core| core.has_quorum)
}

/// A disk that fails shows as state "error".
#[pg_extern]
fn pgraft_is_healthy() -> bool {
    let shared = shared::get_or_raise();
    let healthy = fresh_core(shared).is_some_and(|core| {
        core.state == NodeState::Member
            && core.leader != 0
            && core.has_quorum
            && core.commit.saturating_sub(core.applied) <= APPLY_LAG_MAX
    });
    let counter = if healthy { Counter::HealthChecksPassed } else { Counter::HealthChecksFailed };
    shared.page().add(counter, 1);
    healthy
}

#[pg_extern]
fn pgraft_version() -> &'static str {
    shared::get_or_raise();
    env!("CARGO_PKG_VERSION")
}
