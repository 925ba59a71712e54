//! The vocabulary of Raft: small values with a meaning each, so that a term cannot be passed for an
//! index. Plain data; nothing here acts.

use std::collections::BTreeSet;
use std::fmt;

/// A server of the cluster, 1 to 2^31 - 1 (it must fit SQL's `int`). Zero is never a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(u32);

impl NodeId {
    /// The node id `value`, or `None` outside 1 to 2^31 - 1.
    pub const fn new(value: i64) -> Option<NodeId> {
        if value >= 1 && value <= i32::MAX as i64 { Some(NodeId(value as u32)) } else { None }
    }

    /// The number itself.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An election period; at most one leader each (Raft §5.1). Zero is before the first election.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Term(pub u64);

/// A position in the log, counted from 1; zero is before the first entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LogIndex(pub u64);

impl LogIndex {
    /// The position after this one.
    pub const fn next(self) -> LogIndex {
        LogIndex(self.0 + 1)
    }

    /// The position before this one; of the first, zero.
    pub const fn prev(self) -> LogIndex {
        LogIndex(self.0.saturating_sub(1))
    }
}

/// Names one entry: two logs that hold the same `EntryId` are equal up to it (Raft §5.3).
///
/// Ordered by term, then index, which is the "more up-to-date" of Raft §5.4.1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct EntryId {
    /// The term in which a leader created the entry.
    pub term: Term,
    /// Its position.
    pub index: LogIndex,
}

/// Who takes part in consensus.
///
/// Invariant: `voters` and `learners` are disjoint.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Membership {
    /// They elect and they count for commit.
    pub voters: BTreeSet<NodeId>,
    /// They receive the log and count for nothing yet (dissertation §4.2.1).
    pub learners: BTreeSet<NodeId>,
}

impl Membership {
    /// Whether `node` takes part, as voter or learner.
    pub fn contains(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }
}

/// One step of a membership; one at a time (dissertation §4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MembershipChange {
    /// A new node starts to receive the log.
    AddLearner(NodeId),
    /// A learner that caught up becomes a voter.
    Promote(NodeId),
    /// A voter or learner leaves.
    Remove(NodeId),
}

/// What an entry carries. `command` bytes mean nothing to Raft.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Payload {
    /// The entry a new leader commits to learn what is committed (Raft §8).
    Empty,
    /// An operation on the replicated state machine.
    Command(Vec<u8>),
    /// The whole membership from this entry on, used as soon as it is appended
    /// (dissertation §4.1), and the operation that goes with it.
    Membership {
        /// Who takes part from here on.
        membership: Membership,
        /// The operation on the state machine.
        command: Vec<u8>,
    },
}

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its name.
    pub id: EntryId,
    /// What it carries.
    pub payload: Payload,
}

/// What a node must remember over a crash besides its log (Raft figure 2, "persistent state").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    /// The latest term seen.
    pub term: Term,
    /// Who got this node's vote in `term`.
    pub vote: Option<NodeId>,
    /// A position known to be committed; a hint, may lag, saves time after a restart.
    pub commit: LogIndex,
}

/// The largest snapshot there can be, 256 MiB: what a node must have room for twice, in memory and
/// on disk. The state machine's own limits stay far below it.
pub const SNAPSHOT_BYTES_MAX: u64 = 256 << 20;

/// The most bytes of a snapshot in one message: so few that a heartbeat behind them is not late.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;

/// Describes a snapshot of the state machine, which stands for the log up to `last` (Raft §7).
///
/// Every node's snapshot at one `last` is the same, byte for byte.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotMeta {
    /// The last entry that the snapshot has in it.
    pub last: EntryId,
    /// The membership in force at `last`.
    pub membership: Membership,
    /// How many bytes the snapshot's data has, 1 to `SNAPSHOT_BYTES_MAX`.
    pub bytes: u64,
    /// The crc32c of the data.
    pub checksum: u32,
}
