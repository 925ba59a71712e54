//! What the page says, as plain values: the consensus thread fills them in, SQL and metrics read
//! them. Nothing shared here.

use crate::wire::PgRole;

/// Where a node stands in its life (DESIGN section 9). Never renumber: in shared memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
pub enum NodeState {
    /// `pgraft_start()` was not called, or `pgraft_stop()` was.
    #[default]
    Stopped = 0,
    /// Waits for the other first members.
    Forming = 1,
    /// Waits for a leader to add it.
    Joining = 2,
    /// Takes part.
    Member = 3,
    /// Was removed from its cluster.
    Removed = 4,
    /// Cannot run; `last_error` says why.
    Error = 5,
}

impl NodeState {
    /// Each of them.
    pub const ALL: [NodeState; 6] = [
        NodeState::Stopped,
        NodeState::Forming,
        NodeState::Joining,
        NodeState::Member,
        NodeState::Removed,
        NodeState::Error,
    ];

    /// As SQL shows it.
    pub fn name(self) -> &'static str {
        match self {
            NodeState::Stopped => "stopped",
            NodeState::Forming => "forming",
            NodeState::Joining => "joining",
            NodeState::Member => "member",
            NodeState::Removed => "removed",
            NodeState::Error => "error",
        }
    }

    pub(super) fn from_code(code: u32) -> NodeState {
        match code {
            1 => NodeState::Forming,
            2 => NodeState::Joining,
            3 => NodeState::Member,
            4 => NodeState::Removed,
            5 => NodeState::Error,
            _ => NodeState::Stopped,
        }
    }
}

/// A node's part in consensus. Never renumber: in shared memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
pub enum RoleCode {
    /// Takes no part.
    #[default]
    None = 0,
    /// Follows.
    Follower = 1,
    /// Asks for votes, or for pre-votes.
    Candidate = 2,
    /// Leads.
    Leader = 3,
    /// Receives the log, has no vote yet.
    Learner = 4,
}

impl RoleCode {
    /// As SQL shows it; `None` when the node takes no part.
    pub fn name(self) -> Option<&'static str> {
        match self {
            RoleCode::None => None,
            RoleCode::Follower => Some("follower"),
            RoleCode::Candidate => Some("candidate"),
            RoleCode::Leader => Some("leader"),
            RoleCode::Learner => Some("learner"),
        }
    }

    pub(super) fn from_code(code: u32) -> RoleCode {
        match code {
            1 => RoleCode::Follower,
            2 => RoleCode::Candidate,
            3 => RoleCode::Leader,
            4 => RoleCode::Learner,
            _ => RoleCode::None,
        }
    }
}

/// Whether this server's backends may commit what writes. Never renumber: in shared memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
pub enum FenceMode {
    /// No fence: nobody else can be primary, or the integration is off.
    #[default]
    Off = 0,
    /// Another node is the primary: commits fail at once.
    Closed = 1,
    /// Not at the moment, perhaps soon (no lease yet, a planned move under way): commits wait.
    Paused = 2,
    /// This node is the primary: commits pass from `writes_from_ns` until `writes_until_ns`.
    Open = 3,
}

impl FenceMode {
    pub(super) fn from_code(code: u32) -> FenceMode {
        match code {
            0 => FenceMode::Off,
            2 => FenceMode::Paused,
            3 => FenceMode::Open,
            _ => FenceMode::Closed,
        }
    }
}

/// What the fence of this server's backends goes by (DESIGN section 10).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fence {
    /// Whether there is a time window at all.
    pub mode: FenceMode,
    /// CLOCK_BOOTTIME; before it commits wait: the former primary's lease may still run. 0 unless
    /// `mode` is `Open`.
    pub from_ns: u64,
    /// From then on commits wait for a new lease, or fail. 0 unless `mode` is `Open`.
    pub until_ns: u64,
}

/// The numbers that change most often.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Core {
    /// Where the node stands.
    pub state: NodeState,
    /// Its part.
    pub role: RoleCode,
    /// Its term.
    pub term: u64,
    /// The leader heard of within an election timeout; 0 none.
    pub leader: u32,
    /// When the lease began, on `CLOCK_BOOTTIME`; 0: this node holds none.
    pub lease_start_ns: u64,
    /// When it ends.
    pub lease_expires_ns: u64,
    /// Leader: a quorum answers. Follower: a leader is heard.
    pub has_quorum: bool,
    /// How many members vote.
    pub voters: u32,
    /// How many of them this node reaches, itself included.
    pub reachable: u32,
    /// The end of its log.
    pub last_index: u64,
    /// What it knows to be committed.
    pub commit: u64,
    /// What it has applied.
    pub applied: u64,
    /// Whether automatic failover is paused, by what it has applied.
    pub paused: bool,
}

impl Core {
    /// Until when this node may call itself the leader; 0: it may not.
    pub fn leader_until_ns(&self) -> u64 {
        if self.role == RoleCode::Leader { self.lease_expires_ns } else { 0 }
    }

    /// These, and the rest of `rest`.
    pub fn into_view(self, rest: View) -> View {
        View {
            state: self.state,
            role: self.role,
            term: self.term,
            leader: self.leader,
            lease_start_ns: self.lease_start_ns,
            lease_expires_ns: self.lease_expires_ns,
            has_quorum: self.has_quorum,
            voters: self.voters,
            reachable: self.reachable,
            last_index: self.last_index,
            commit: self.commit,
            applied: self.applied,
            paused: self.paused,
            ..rest
        }
    }
}

/// Everything that `pgraft_status()`, `pgraft_get_nodes()` and the metrics show.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// Where the node stands.
    pub state: NodeState,
    /// Its part.
    pub role: RoleCode,
    /// Its term.
    pub term: u64,
    /// The leader heard of within an election timeout; 0 none.
    pub leader: u32,
    /// Its Raft address; empty when unknown.
    pub leader_address: String,
    /// When this node's lease began; 0: it holds none.
    pub lease_start_ns: u64,
    /// When it ends.
    pub lease_expires_ns: u64,
    /// Leader: a quorum answers. Follower: a leader is heard.
    pub has_quorum: bool,
    /// How many members vote.
    pub voters: u32,
    /// How many of them this node reaches, itself included.
    pub reachable: u32,
    /// The end of its log.
    pub last_index: u64,
    /// What it knows to be committed.
    pub commit: u64,
    /// What it has applied.
    pub applied: u64,
    /// Whether automatic failover is paused, by what it has applied.
    pub paused: bool,
    /// What is wrong, in words; empty when nothing is. Cut after 511 bytes.
    pub last_error: String,
    /// This node; 0 when not even the configuration is known.
    pub node_id: u32,
    /// Its name.
    pub node_name: String,
    /// `raft_cluster_id`.
    pub cluster_id: String,
    /// What its Postgres is.
    pub pg_role: Option<PgRole>,
    /// Its position; 0 unknown.
    pub wal_lsn: u64,
    /// Who takes part, by id. The page has room for the first `MEMBERS_MAX`.
    pub members: Vec<MemberView>,
}

impl View {
    /// The part that changes most often.
    pub fn core(&self) -> Core {
        Core {
            state: self.state,
            role: self.role,
            term: self.term,
            leader: self.leader,
            lease_start_ns: self.lease_start_ns,
            lease_expires_ns: self.lease_expires_ns,
            has_quorum: self.has_quorum,
            voters: self.voters,
            reachable: self.reachable,
            last_index: self.last_index,
            commit: self.commit,
            applied: self.applied,
            paused: self.paused,
        }
    }
}

/// One member of the applied membership, as this node sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemberView {
    /// Its id.
    pub id: u32,
    /// Its name; may be empty.
    pub name: String,
    /// The host where its Raft port is dialled.
    pub address: String,
    /// That port.
    pub port: u16,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it answers; `None` when this node cannot know.
    pub reachable: Option<bool>,
    /// When it was last heard, in microseconds since 1970.
    pub last_contact_unix_us: Option<i64>,
    /// The end of what its log is known to share with the leader's; only the leader knows.
    pub matched: Option<u64>,
    /// Where its Postgres listens; empty when unknown.
    pub pg_address: String,
    /// What its Postgres is.
    pub pg_role: Option<PgRole>,
    /// Its position; 0 unknown.
    pub wal_lsn: u64,
    /// The link to it.
    pub counters: PeerCounters,
}

/// What went over the link to one peer since the worker began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PeerCounters {
    /// Packets sent to it.
    pub messages_sent: u64,
    /// Packets received from it.
    pub messages_received: u64,
    /// Bytes sent to it.
    pub bytes_sent: u64,
    /// Bytes received from it.
    pub bytes_received: u64,
    /// Connections to or from it that ended with an error.
    pub errors: u64,
    /// Packets that found its queue full.
    pub dropped: u64,
    /// Times that a connection to it was made.
    pub connects: u64,
    /// The latest round trip, in microseconds; 0 unknown.
    pub round_trip_us: u64,
}

impl PeerCounters {
    /// In the order that shared memory has them.
    pub(super) fn to_array(self) -> [u64; 8] {
        [
            self.messages_sent,
            self.messages_received,
            self.bytes_sent,
            self.bytes_received,
            self.errors,
            self.dropped,
            self.connects,
            self.round_trip_us,
        ]
    }

    pub(super) fn from_array(values: [u64; 8]) -> PeerCounters {
        let [
            messages_sent,
            messages_received,
            bytes_sent,
            bytes_received,
            errors,
            dropped,
            connects,
            round_trip_us,
        ] = values;
        PeerCounters {
            messages_sent,
            messages_received,
            bytes_sent,
            bytes_received,
            errors,
            dropped,
            connects,
            round_trip_us,
        }
    }
}
