//! What a `Node` wants done, in the order in which it must be done.

use super::message::Outgoing;
use super::types::{Entry, EntryId, HardState, LogIndex, NodeId, SnapshotMeta, Term};

/// The work that came of the steps since the last one. The caller, in this order:
///
/// 1. sends `messages`: they promise nothing (a leader's appends go out beside its own fsync,
///    dissertation §10.2.1);
/// 2. makes durable: first `snapshot` with `hard_state`, after which the stored log is empty and
///    begins behind the snapshot; then `hard_state` and `entries`; where the first of `entries` is
///    at or before the end of the stored log, what is stored from there on is replaced;
/// 3. sends [`Ready::promises`]: votes and acks leave only now;
/// 4. replaces the state machine by `snapshot`; applies `committed`, answers `reads`, logs `notes`;
/// 5. calls `Node::advance`.
#[derive(Debug, Default)]
pub struct Ready {
    /// Messages that may go before anything is stored.
    pub messages: Vec<Outgoing>,
    /// To be stored if present. `None`: unchanged.
    pub hard_state: Option<HardState>,
    /// Whether 2. must reach the disk before 3. (a moved commit index alone need not).
    pub must_sync: bool,
    /// A snapshot from the leader, whole, its checksum verified; `hard_state` comes with it.
    pub snapshot: Option<(SnapshotMeta, Vec<u8>)>,
    /// To be appended.
    pub entries: Vec<Entry>,
    /// To be applied to the state machine, in order, once each since this `Node` was made.
    pub committed: Vec<Entry>,
    /// Reads that may be answered once what they name is applied.
    pub reads: Vec<ReadReady>,
    /// What the operator may want to know.
    pub notes: Vec<Note>,
    /// Only [`Ready::promises`] gives them out.
    pub(super) promises: Vec<Outgoing>,
}

/// Proof that a `Ready`'s hard state and entries are durable. Whoever makes one vouches for it.
#[derive(Debug)]
pub struct Durable(());

impl Durable {
    /// Says that the storage holds everything the `Ready` at hand asked for, fsync included.
    pub fn attest() -> Durable {
        Durable(())
    }
}

impl Ready {
    /// The messages that promise what was just stored: votes, acks.
    pub fn promises(&mut self, _stored: &Durable) -> Vec<Outgoing> {
        std::mem::take(&mut self.promises)
    }
}

/// A linearizable read's position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadReady {
    /// The number given to `Node::read_index`.
    pub token: u64,
    /// The state machine must have applied this; `None`: the read failed, ask again.
    pub index: Option<LogIndex>,
}

/// Something the operator may want to read in the log; the runtime words it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Note {
    /// A (pre-)campaign began.
    Campaign {
        /// The term campaigned for.
        term: Term,
        /// Whether it only asks.
        pre_vote: bool,
    },
    /// This node leads from now on.
    BecameLeader {
        /// Its term.
        term: Term,
        /// For how long the former leader's lease may still run; 0 after a handover.
        old_lease_left_ms: u32,
    },
    /// A leader made itself known.
    FollowsLeader {
        /// Its term.
        term: Term,
        /// Who.
        leader: NodeId,
    },
    /// This leader no longer leads.
    SteppedDown {
        /// The term it steps into.
        term: Term,
        /// In words, lower case: "lost contact with a quorum", "saw term 7", "removed".
        why: &'static str,
    },
    /// A vote or pre-vote was refused.
    VoteRefused {
        /// The candidate.
        candidate: NodeId,
        /// Its term.
        term: Term,
        /// In words: "already voted", "its log is behind", "a leader is alive", …
        why: &'static str,
    },
    /// A member lost entries it had acknowledged: its disk was restored or lies.
    ForgotEntries {
        /// The member.
        node: NodeId,
        /// What it had acknowledged.
        acknowledged: LogIndex,
        /// What it has now, at most.
        holds: LogIndex,
    },
    /// This leader dropped what a follower needs next, and sends it a snapshot.
    SendsSnapshot {
        /// The follower.
        to: NodeId,
        /// What the snapshot stands for.
        last: EntryId,
    },
    /// A follower has all of the snapshot that it was sent.
    SentSnapshot {
        /// The follower.
        to: NodeId,
        /// What the snapshot stands for.
        last: EntryId,
    },
    /// What a leader sent is not the snapshot that it announced; it is asked for it again.
    DamagedSnapshot {
        /// The leader.
        leader: NodeId,
        /// What the snapshot was to stand for.
        last: EntryId,
    },
    /// A leader contradicts what is committed here: one of the two logs is not what it was.
    Contradiction {
        /// The leader.
        leader: NodeId,
        /// The committed position it contradicts.
        index: LogIndex,
    },
}
