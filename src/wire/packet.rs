//! What travels between two nodes: the handshake's frames, then packets.

use std::collections::BTreeSet;

use crate::cluster::{Address, Answer, Position, Request, Switch, Uuid};
use crate::raft::{Entry, LogIndex, Message, NodeId, Term};

/// The oldest protocol version this build understands.
pub const PROTOCOL_OLDEST: u16 = 1;
/// The newest protocol version this build understands.
pub const PROTOCOL_NEWEST: u16 = 1;
/// The longest frame after the handshake; longer ones are refused before any allocation.
pub const FRAME_BYTES_MAX: u32 = 16 << 20;
/// The longest frame before the handshake is done.
pub const HANDSHAKE_BYTES_MAX: u32 = 4 << 10;

/// Who a node is, as it introduces itself: the first frame each way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The oldest version it understands.
    pub oldest: u16,
    /// The newest version it understands.
    pub newest: u16,
    /// `raft_cluster_id`.
    pub cluster_id: String,
    /// The formed cluster it belongs to.
    pub cluster: Option<Uuid>,
    /// How far into the log it knows the cluster's members: of two that disagree about them, who
    /// knows more is right.
    pub members_at: LogIndex,
    /// Its id.
    pub node: NodeId,
    /// Its data directory.
    pub directory: Uuid,
    /// `node_name`.
    pub name: String,
    /// `raft_advertise_address`, if set.
    pub raft_address: Option<Address>,
    /// The port it listens on: with the host it is reached at, its default address.
    pub raft_port: u16,
    /// The port its Postgres listens on, on the same host; 0 unknown.
    pub pg_port: u16,
    /// Of its Postgres, if known.
    pub system_identifier: Option<u64>,
    /// The address under which the dialler reached the listener; absent in the answer.
    pub dialled: Option<Address>,
    /// The authentication method asked for; 0 is none, the only one in version 1.
    pub auth_method: u8,
    /// The place for a challenge; zero in version 1.
    pub challenge: [u8; 16],
}

/// The listener's answer to a `Hello`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HelloAnswer {
    /// Come in; this is who I am.
    Accepted(Hello),
    /// No, and why.
    Refused(Refusal),
}

/// Why a handshake is refused. Never renumber: on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Refusal {
    /// No common protocol version.
    Version = 1,
    /// Another `raft_cluster_id`.
    ClusterId = 2,
    /// The same `raft_cluster_id`, but a cluster formed apart from this one.
    ClusterUuid = 3,
    /// The node id is the listener's own, or that of another live node.
    DuplicateNode = 4,
    /// The data directory is not the one that joined: it has forgotten its votes.
    WrongDirectory = 5,
    /// The node was removed from the cluster.
    Removed = 6,
    /// Too many connections.
    Full = 7,
    /// The dialler reached itself; tolerated silently.
    Oneself = 8,
    /// An authentication method this build does not know.
    Auth = 9,
}

impl Refusal {
    /// Whether it stands until an operator changes something.
    pub fn is_final(self) -> bool {
        !matches!(self, Refusal::Full | Refusal::Oneself)
    }
}

/// What is said after the handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Packet {
    /// Consensus.
    Raft(Message),
    /// How the sender's Postgres is doing; also the sign of life of an idle link, once a second.
    Report(Report),
    /// A request for the leader to carry out.
    Forward {
        /// The sender's number for it; the answer names it.
        request_id: u64,
        /// What is asked.
        request: Request,
    },
    /// The answer to a `Forward`.
    Answer {
        /// Its number.
        request_id: u64,
        /// The log index at which the change is committed; 0 if none was needed.
        index: u64,
        /// The outcome.
        answer: Answer,
    },
    /// While forming: whom the sender sees, itself included.
    Forming {
        /// Their ids; complete only if `complete`.
        nodes: BTreeSet<NodeId>,
        /// Whether every configured peer is connected.
        complete: bool,
        /// Set in the answer of a node that belongs to a formed cluster.
        cluster: Option<Uuid>,
    },
    /// The first entry of the log, to a node that is named in it and has none.
    Genesis(Entry),
    /// The leader wants to know how far the receiver's Postgres has come.
    AskStanding(Ask),
    /// The answer to `AskStanding`.
    Standing {
        /// What was asked.
        ask: Ask,
        /// The answer.
        standing: Standing,
    },
}

/// A leader's question for a server's standing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Ask {
    /// The leader's term: a question of an older one is void.
    pub term: Term,
    /// Its number in that term.
    pub round: u64,
    /// The primary's epoch that ends with it, if that is lost.
    pub epoch: u64,
    /// Whether the receiver must first stop receiving WAL, and begin again only for the primary
    /// that comes of it: so that nothing more is acknowledged with its help that its answer does
    /// not count.
    pub freeze: bool,
}

/// How far a server has come, as it says when it is asked: after the primary was lost.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// What it is; `None`: it is starting, or recovers from a crash.
    pub pg_role: Option<PgRole>,
    /// Its WAL.
    pub position: Position,
    /// Of its database cluster.
    pub system_identifier: u64,
    /// Whether its WAL receiver runs: more may come.
    pub receiving: bool,
    /// Whether it was frozen before it answered, as asked.
    pub frozen: bool,
    /// Why it cannot be promoted, or frozen as asked, in words; empty if it can.
    pub obstacle: String,
}

/// A node's Postgres, as it reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Whether it is primary or standby; `None` before its first look.
    pub pg_role: Option<PgRole>,
    /// The flush position on a primary, the larger of received and replayed on a standby; 0
    /// unknown.
    pub wal_lsn: u64,
    /// The timeline of that position; 0 unknown.
    pub timeline: u32,
    /// Of a primary: where that timeline left the one before; `None`: it is the first, or unknown.
    pub fork: Option<Switch>,
    /// Whether its WAL receiver runs.
    pub receiving: bool,
    /// Whether its postmaster is shutting down, and has told the worker to end.
    pub stopping: bool,
    /// The log index of the membership for which `synchronous_standby_names` is in force; 0: none.
    pub names_at: LogIndex,
    /// Of a primary in synchronous mode: the log index of the membership for which
    /// `synchronous_standby_names` is in force and by which all before is confirmed. 0: none.
    pub synchronous_at: LogIndex,
}

/// What a Postgres is. Never renumber: on the wire and in shared memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PgRole {
    /// Accepts writes.
    Primary = 1,
    /// In recovery.
    Standby = 2,
}
