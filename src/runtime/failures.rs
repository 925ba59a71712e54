//! The words of every refusal that the consensus loop gives, in PostgreSQL's message style.

use crate::cluster::{Address, Failure, FailureKind, LimitError};
use crate::raft::{NodeId, ProposeError};

/// A failure of these words; empty ones are left out when it is raised.
pub fn failure(
    kind: FailureKind,
    message: impl Into<String>,
    detail: impl Into<String>,
    hint: impl Into<String>,
) -> Failure {
    Failure { kind, message: message.into(), detail: detail.into(), hint: hint.into() }
}

pub(super) fn not_leader() -> Failure {
    failure(FailureKind::OutcomeUnknown, "this node is not the leader any more", "", "")
}

pub(super) fn busy(most: usize) -> Failure {
    failure(
        FailureKind::Busy,
        "too many pgraft requests are under way",
        format!("At most {most} may be."),
        "Try again later.",
    )
}

/// A key or a value that the store does not take; for the backend as well.
pub fn beyond_limit(error: &LimitError) -> Failure {
    let hint = match error {
        LimitError::KeyEmpty => "A key has at least one character.",
        LimitError::KeyTooLong { .. } => "See kv_max_key_bytes in pgraft.conf of the leader.",
        LimitError::ValueTooLong { .. } => {
            "See kv_max_value_bytes in pgraft.conf of the leader; larger things belong into tables."
        }
    };
    failure(FailureKind::InvalidValue, error.to_string(), "", hint)
}

pub(super) fn store_full(bytes: u64, max: u64) -> Failure {
    failure(
        FailureKind::StoreFull,
        "the key/value store is full",
        format!("It has {bytes} bytes, changes under way aside; at most {max} are allowed."),
        "Delete keys, or raise kv_max_store_bytes in pgraft.conf of all nodes.",
    )
}

pub(super) fn write_outcome_unknown(why: &str) -> Failure {
    failure(
        FailureKind::OutcomeUnknown,
        "the change of the key/value store was not confirmed in time and may still take effect",
        sentence(why),
        "Read the key before you try again.",
    )
}

pub(super) fn read_unconfirmed(unreached: &str) -> Failure {
    failure(
        FailureKind::Unavailable,
        "could not confirm with a majority that the read is up to date",
        sentence(unreached),
        "Pass consistent => false to read what this node has.",
    )
}

pub(super) fn removed(cluster_id: &str) -> Failure {
    failure(
        FailureKind::WrongState,
        format!("this node was removed from cluster \"{cluster_id}\""),
        "",
        "Run pgraft_add_node() on a member to add it again.",
    )
}

pub(super) fn not_a_member(trouble: &str) -> Failure {
    failure(
        FailureKind::WrongState,
        "this node is not a member of the cluster",
        sentence(trouble),
        "See pgraft_status() for what it waits for.",
    )
}

pub(super) fn unformed(trouble: &str) -> Failure {
    failure(
        FailureKind::Unavailable,
        "the cluster is not formed yet",
        sentence(trouble),
        "Start pgraft on all servers of raft_peer_addresses.",
    )
}

pub(super) fn no_leader(cluster_id: &str, unreached: &str) -> Failure {
    failure(
        FailureKind::Unavailable,
        format!("could not reach a leader of cluster \"{cluster_id}\""),
        format!("Nothing was changed; {unreached}."),
        "Check that a majority of the members runs and that their Raft ports can be reached.",
    )
}

pub(super) fn outcome_unknown(unreached: &str) -> Failure {
    failure(
        FailureKind::OutcomeUnknown,
        "the request was not confirmed in time and may still take effect",
        sentence(unreached),
        "Look at pgraft_get_nodes() before you try again; asking twice does no harm.",
    )
}

pub(super) fn not_taken_over(to: NodeId) -> Failure {
    failure(
        FailureKind::Unavailable,
        format!("node {to} did not take over within an election timeout"),
        "",
        "See pgraft_status() for who leads now, and the log of that node.",
    )
}

pub(super) fn id_taken(node: NodeId, address: &Address) -> Failure {
    failure(
        FailureKind::Duplicate,
        format!("node {node} is already a member of the cluster, at {address}"),
        "",
        format!("Choose another node id, or remove it first: SELECT pgraft_remove_node({node});"),
    )
}

pub(super) fn address_taken(address: &Address, by: NodeId) -> Failure {
    failure(
        FailureKind::Duplicate,
        format!("address {address} belongs to node {by} already"),
        "",
        "Each node needs a Raft address of its own.",
    )
}

pub(super) fn too_many_members(most: usize) -> Failure {
    failure(
        FailureKind::WrongState,
        format!("a cluster has at most {most} members"),
        "",
        "Remove one first, with pgraft_remove_node().",
    )
}

pub(super) fn would_lose_quorum(node: NodeId, alive: usize, left: usize) -> Failure {
    failure(
        FailureKind::WrongState,
        format!("removing node {node} would leave the cluster without a quorum"),
        format!("Of the {left} voters left, {alive} can be reached."),
        format!("Bring the others back first, or insist: SELECT pgraft_remove_node({node}, true);"),
    )
}

pub(super) fn unknown_node(node: NodeId) -> Failure {
    failure(
        FailureKind::InvalidValue,
        format!("node {node} is not a member of the cluster"),
        "",
        "SELECT node_id FROM pgraft_get_nodes() lists the members.",
    )
}

pub(super) fn not_a_voter(node: NodeId) -> Failure {
    failure(
        FailureKind::WrongState,
        format!("node {node} is a learner and cannot lead"),
        "",
        "It becomes a voter by itself once it has caught up.",
    )
}

pub(super) fn is_the_primary(node: NodeId) -> Failure {
    failure(
        FailureKind::WrongState,
        format!("node {node} is the primary"),
        "Without it, what it committed and no standby has received yet would be lost.",
        "Move the primary's role first, with pgraft_transfer_leadership(), or insist: \
         pgraft_remove_node(node, true).",
    )
}

pub(super) fn no_primary_to_move(primary: NodeId, trouble: &str) -> Failure {
    failure(
        FailureKind::WrongState,
        format!("cannot move the primary's role away from node {primary}, which does not lead"),
        sentence(trouble),
        "Automatic failover, if it is on and not paused, chooses the next primary.",
    )
}

pub(super) fn does_not_stream(node: NodeId) -> Failure {
    failure(
        FailureKind::WrongState,
        format!("the server of node {node} does not receive WAL from this one"),
        "",
        "Choose a standby that streams, or see pgraft_status() on that node for what hinders it.",
    )
}

pub(super) fn not_alive(node: NodeId) -> Failure {
    failure(
        FailureKind::WrongState,
        format!("node {node} cannot be reached"),
        "",
        "Choose a member that pgraft_get_nodes() shows as reachable.",
    )
}

pub(super) fn forced_too_soon(timeout_ms: u32) -> Failure {
    failure(
        FailureKind::WrongState,
        "an election was forced a moment ago",
        "",
        format!("Wait {timeout_ms} ms (raft_election_timeout_ms) before the next."),
    )
}

pub(super) fn refused(error: &ProposeError) -> Failure {
    failure(FailureKind::WrongState, error.to_string(), "", "")
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), chars.as_str()),
        None => String::new(),
    }
}
