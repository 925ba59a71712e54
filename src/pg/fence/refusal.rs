//! Why a commit may not go on, in words: as an ERROR, or as the WARNING of one that goes on all the
//! same.

use std::ffi::CStr;

use crate::pg::report;
use crate::shmem::{FenceMode, NodeState, Shared, Verdict, View};
use crate::sys;

const ELSEWHERE: &str = "Connect with target_session_attrs=read-write and all servers as hosts. If \
                         this server is to be used outside its cluster, see docs/failover.md.";
const AGAIN: &str = "Try again.";
const OUTSIDE: &str = "If this server is to be used outside its cluster, set \
                       postgresql_integration_enabled = false in pgraft.conf and reload, or, as \
                       superuser, SET pgraft.fence = off.";

/// ERROR: the commit belongs elsewhere.
pub(super) fn raise_not_primary(shared: &Shared) -> ! {
    let (who, detail) = primary(shared);
    report::raise_fenced(format!("cannot commit: {who}"), &detail, ELSEWHERE)
}

/// For a statement that failed because the session only reads: who is the primary, and what to do.
pub(super) fn elsewhere(shared: &Shared) -> (String, &'static CStr) {
    if shared.page().fence().mode != FenceMode::Closed {
        let detail = "This session began while the server was not the primary, and only reads.";
        return (detail.to_owned(), c"Connect anew.");
    }
    let (who, detail) = primary(shared);
    let hint = c"Connect anew, with target_session_attrs=read-write and all servers as hosts.";
    (format!("This session began on a deposed primary: {who}. {detail}"), hint)
}

/// ERROR: the commit has waited long enough.
pub(super) fn raise_no_lease(shared: &Shared) -> ! {
    let (detail, hint) = no_lease(shared);
    let message = "cannot commit: this node holds no lease as primary".to_owned();
    report::raise_fenced(message, &detail, &hint)
}

/// WARNING: `pgraft.fence` is off, and there would have been an ERROR, or a wait.
pub(super) fn warn_of_lifted(shared: &Shared, verdict: Verdict) {
    let detail = match verdict {
        Verdict::Refuse => {
            let (who, detail) = primary(shared);
            format!("In fact {who}. {detail}")
        }
        _ => no_lease(shared).0,
    };
    let message = "committing although this node may not be the primary: pgraft.fence is off";
    report::warn(message, detail.trim_end());
}

/// Who is the primary, and where.
fn primary(shared: &Shared) -> (String, String) {
    let id = shared.page().primary_id();
    if id == 0 || id == shared.page().node_id() {
        return ("this node is not the primary".to_owned(), String::new());
    }
    let members = shared.page().view().unwrap_or_default().members;
    let detail = members.iter().find(|member| member.id == id).map(|member| {
        let address = match member.pg_address.is_empty() {
            true => "at an unknown address".to_owned(),
            false => format!("at {}", member.pg_address),
        };
        format!("Its name is \"{}\", its server listens {address}.", member.name)
    });
    (format!("node {id} is the primary"), detail.unwrap_or_default())
}

/// Why this node has no lease, as far as it shows, and what to do.
fn no_lease(shared: &Shared) -> (String, String) {
    let page = shared.page();
    let view = page.view().unwrap_or_default();
    if page.worker_pid().is_none() {
        return ("The pgraft worker is not running.".to_owned(), format!("{AGAIN} {OUTSIDE}"));
    }
    let stopped = "Consensus is not running on this node";
    match view.state {
        NodeState::Stopped => {
            let hint = format!("Run SELECT pgraft_start(). {OUTSIDE}");
            return (format!("{stopped}."), hint);
        }
        NodeState::Error => {
            return (format!("{stopped}: {}.", view.last_error), OUTSIDE.to_owned());
        }
        NodeState::Removed => {
            let detail = "This node was removed from its cluster.".to_owned();
            return (detail, OUTSIDE.to_owned());
        }
        NodeState::Forming | NodeState::Joining | NodeState::Member => {}
    }
    (trouble_of_member(shared, &view), AGAIN.to_owned())
}

fn trouble_of_member(shared: &Shared, view: &View) -> String {
    let page = shared.page();
    let now_ns = sys::now_boottime_ns();
    let primary_id = page.primary_id();
    if !page.is_fresh(now_ns) {
        return match page.heartbeat_age_ns(now_ns) {
            Some(ns) => format!("pgraft has given no sign of life for {} ms.", ns / 1_000_000),
            None => "pgraft has just begun to run on this node.".to_owned(),
        };
    }
    if view.state != NodeState::Member {
        return "This node is not a member of its cluster yet.".to_owned();
    }
    if !view.has_quorum {
        return "Too few members of the cluster are reached.".to_owned();
    }
    match primary_id {
        0 => "No node has been made the primary yet.".to_owned(),
        id if id == view.node_id => "The primary is being moved, or leads no more.".to_owned(),
        id => format!("Node {id} is the primary by the last decision that is known here."),
    }
}
