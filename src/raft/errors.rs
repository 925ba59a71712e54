//! What can be wrong with what a `Node` is given. An `Err` means that nothing changed.

use std::fmt;

use super::config::{ELECTION_TICKS_MAX, INFLIGHT_MAX, MEMBERS_MAX, TICK_MS_MAX};
use super::types::{EntryId, LogIndex, NodeId, Term};

/// Why no `Node` can be made of a configuration and a restored state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConfigError {
    /// `tick_ms` is out of range.
    TickOutOfRange {
        /// `tick_ms`.
        tick_ms: u32,
    },
    /// `heartbeat_ticks` is zero.
    HeartbeatZero,
    /// A heartbeat would not fit into an election timeout.
    ElectionTooShort {
        /// `election_timeout_ticks`.
        election: u32,
        /// `heartbeat_ticks`.
        heartbeat: u32,
    },
    /// `election_timeout_ticks` is above its limit.
    ElectionTooLong {
        /// `election_timeout_ticks`.
        election: u32,
    },
    /// `append_bytes_max` is zero.
    AppendBytesZero,
    /// `inflight_max` is out of range.
    InflightOutOfRange {
        /// `inflight_max`.
        inflight: usize,
    },
    /// `proposals_bytes_max` has no room for one append.
    ProposalsTooSmall {
        /// `proposals_bytes_max`.
        proposals: usize,
        /// `append_bytes_max`.
        append: usize,
    },
    /// The restored log is not 1, 2, 3, … with terms that never fall.
    LogBroken {
        /// The position at which something else was expected.
        index: LogIndex,
        /// What stands there.
        found: EntryId,
    },
    /// The restored log and snapshot do not fit together: entries between them are missing, or the
    /// log has another entry where the snapshot ends.
    SnapshotApart {
        /// What the snapshot stands for; zero without one.
        snapshot: EntryId,
        /// What the log begins behind.
        base: EntryId,
        /// The log's last entry.
        last: EntryId,
    },
    /// The restored snapshot describes itself in a way that no node writes.
    SnapshotInvalid {
        /// What it stands for.
        last: EntryId,
    },
    /// The restored term is older than the restored log: the hard state was lost, and a vote with
    /// it.
    TermBehindLog {
        /// The restored term.
        term: Term,
        /// The last restored entry.
        last: EntryId,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::TickOutOfRange { tick_ms } => {
                write!(f, "tick_ms must be from 1 to {TICK_MS_MAX}, not {tick_ms}")
            }
            ConfigError::HeartbeatZero => f.write_str("heartbeat_ticks must be at least 1"),
            ConfigError::ElectionTooShort { election, heartbeat } => write!(
                f,
                "election_timeout_ticks must be more than heartbeat_ticks ({heartbeat}), \
                 not {election}"
            ),
            ConfigError::ElectionTooLong { election } => write!(
                f,
                "election_timeout_ticks must be at most {ELECTION_TICKS_MAX}, not {election}"
            ),
            ConfigError::AppendBytesZero => f.write_str("append_bytes_max must be at least 1"),
            ConfigError::InflightOutOfRange { inflight } => {
                write!(f, "inflight_max must be from 1 to {INFLIGHT_MAX}, not {inflight}")
            }
            ConfigError::ProposalsTooSmall { proposals, append } => write!(
                f,
                "proposals_bytes_max must be at least append_bytes_max ({append}), not {proposals}"
            ),
            ConfigError::LogBroken { index, found } => write!(
                f,
                "restored log has entry {} of term {} where entry {} was expected",
                found.index.0, found.term.0, index.0
            ),
            ConfigError::SnapshotApart { snapshot, base, last } => write!(
                f,
                "restored log, from behind entry {} of term {} to entry {} of term {}, does not \
                 fit the snapshot at entry {} of term {}",
                base.index.0,
                base.term.0,
                last.index.0,
                last.term.0,
                snapshot.index.0,
                snapshot.term.0
            ),
            ConfigError::SnapshotInvalid { last } => write!(
                f,
                "restored snapshot at entry {} of term {} is not valid",
                last.index.0, last.term.0
            ),
            ConfigError::TermBehindLog { term, last } => write!(
                f,
                "restored term {} is older than term {} of the last log entry",
                term.0, last.term.0
            ),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Why a `Node` does not do what it was asked to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProposeError {
    /// Only a leader can.
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// This node leads already.
    AlreadyLeader,
    /// Another membership change is not committed yet (dissertation §4.1).
    ChangeInProgress,
    /// The leader has committed nothing in its own term yet, so membership must not change.
    NoCommitInTerm,
    /// Leadership is being handed over.
    Transferring,
    /// The command does not fit into one append.
    TooLarge {
        /// The command's length.
        bytes: usize,
        /// The longest allowed.
        bytes_max: usize,
    },
    /// Too much is uncommitted, or too many reads wait; ask again later.
    Overloaded,
    /// No such node among the members.
    UnknownNode(NodeId),
    /// Already what it was to become.
    AlreadyMember(NodeId),
    /// The learner lacks too much of the log to count as a voter.
    NotCaughtUp(NodeId),
    /// A cluster cannot lose its last voter.
    LastVoter(NodeId),
    /// Only a voter that may vote can lead.
    NotVoter(NodeId),
    /// The cluster has as many members as it can.
    TooManyMembers,
    /// The log is not empty, so this is not a new cluster.
    NotEmpty,
    /// The genesis entry is not (term 1, index 1) with a membership that has this node in it.
    InvalidGenesis,
}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProposeError::NotLeader { leader: Some(leader) } => {
                write!(f, "this node is not the leader, node {leader} is")
            }
            ProposeError::NotLeader { leader: None } => f.write_str("no leader is known"),
            ProposeError::AlreadyLeader => f.write_str("this node already leads"),
            ProposeError::ChangeInProgress => {
                f.write_str("another membership change is in progress")
            }
            ProposeError::NoCommitInTerm => {
                f.write_str("the leader has not committed an entry in its own term yet")
            }
            ProposeError::Transferring => f.write_str("leadership is being transferred"),
            ProposeError::TooLarge { bytes, bytes_max } => {
                write!(f, "command of {bytes} bytes is longer than {bytes_max} bytes")
            }
            ProposeError::Overloaded => f.write_str("too many requests are in progress"),
            ProposeError::UnknownNode(node) => write!(f, "node {node} is not a member"),
            ProposeError::AlreadyMember(node) => write!(f, "node {node} is already a member"),
            ProposeError::NotCaughtUp(node) => {
                write!(f, "node {node} has not caught up with the log yet")
            }
            ProposeError::LastVoter(node) => {
                write!(f, "node {node} is the last voter and cannot be removed")
            }
            ProposeError::NotVoter(node) => write!(f, "node {node} may not lead"),
            ProposeError::TooManyMembers => {
                write!(f, "a cluster cannot have more than {MEMBERS_MAX} members")
            }
            ProposeError::NotEmpty => f.write_str("the log is not empty"),
            ProposeError::InvalidGenesis => f.write_str("the genesis entry is not valid"),
        }
    }
}

impl std::error::Error for ProposeError {}
