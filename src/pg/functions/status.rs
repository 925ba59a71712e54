//! `pgraft_status()`: this node's own view, in one row.

use pgrx::iter::TableIterator;
use pgrx::{name, pg_extern};

use crate::pg::{facts, shared};
use crate::shmem::{NodeState, Shared, View};
use crate::sys;

use super::nodes::role_name;

#[pg_extern]
#[allow(clippy::type_complexity, reason = "pgrx wants the columns spelt out in the signature")]
fn pgraft_status() -> TableIterator<
    'static,
    (
        name!(node_id, Option<i32>),
        name!(node_name, Option<String>),
        name!(cluster_id, Option<String>),
        name!(state, &'static str),
        name!(role, Option<&'static str>),
        name!(current_term, i64),
        name!(leader_id, Option<i64>),
        name!(leader_address, Option<String>),
        name!(has_quorum, bool),
        name!(voters, i32),
        name!(reachable, Option<i32>),
        name!(last_log_index, i64),
        name!(commit_index, i64),
        name!(applied_index, i64),
        name!(pg_role, Option<&'static str>),
        name!(primary_id, Option<i64>),
        name!(fenced, bool),
        name!(worker_pid, Option<i32>),
        name!(worker_age_ms, Option<i64>),
        name!(last_error, Option<String>),
        name!(debug, bool),
    ),
> {
    let shared = shared::get_or_raise();
    let page = shared.page();
    let age_ns = page.heartbeat_age_ns(sys::now_boottime_ns());
    let Seen { view, fresh, last_error } = look(shared, age_ns);
    TableIterator::once((
        Some(view.node_id as i32).filter(|id| *id != 0),
        known(view.node_name),
        known(view.cluster_id),
        view.state.name(),
        view.role.name().filter(|_| fresh),
        view.term as i64,
        Some(i64::from(view.leader)).filter(|id| fresh && *id != 0),
        known(view.leader_address).filter(|_| fresh),
        fresh && view.has_quorum,
        view.voters as i32,
        Some(view.reachable as i32).filter(|_| fresh),
        view.last_index as i64,
        view.commit as i64,
        view.applied as i64,
        // Asked here and now: it needs no worker to be known.
        facts::role().map(role_name),
        Some(i64::from(page.primary_id())).filter(|id| *id != 0),
        page.is_fenced(sys::now_boottime_ns()),
        page.worker_pid(),
        age_ns.map(|ns| (ns / 1_000_000) as i64),
        known(last_error),
        page.debug(),
    ))
}

struct Seen {
    view: View,
    /// Whether what changes by itself (role, leader, quorum) can be believed.
    fresh: bool,
    last_error: String,
}

fn look(shared: &Shared, age_ns: Option<u64>) -> Seen {
    let page = shared.page();
    let fresh = page.is_fresh(sys::now_boottime_ns());
    let mut view = page.view().unwrap_or_default();
    let running = !matches!(view.state, NodeState::Stopped | NodeState::Error);
    let mut errors = Vec::new();
    match (page.worker_pid(), age_ns) {
        (None, _) => errors.push("the pgraft worker is not running".to_owned()),
        (Some(_), Some(ns)) if running && !fresh => {
            errors.push(format!("no sign of life of pgraft for {} ms", ns / 1_000_000));
        }
        _ => {}
    }
    errors.push(std::mem::take(&mut view.last_error));
    errors.push(shared::worker_area().segment_note.get());
    errors.push(shared::worker_area().metrics_note.get());
    errors.retain(|error| !error.is_empty());
    Seen { view, fresh, last_error: errors.join("; ") }
}

fn known(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}
