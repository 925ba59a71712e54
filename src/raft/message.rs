//! What nodes say to one another about consensus. Plain values; `wire` turns them into bytes.
//!
//! The sender is not part of a message: the connection knows it.

use super::types::{Entry, EntryId, LogIndex, NodeId, SnapshotMeta, Term};

/// One message. `term` is the sender's term, except in a pre-vote and a granted answer to one,
/// where it is the term the candidate would campaign in (dissertation §9.6).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// See above.
    pub term: Term,
    /// What is said.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// Raft §5.2; with `pre_vote`, dissertation §9.6.
    RequestVote {
        /// The candidate's last entry (Raft §5.4.1).
        last: EntryId,
        /// Only asks whether it could win; changes no term and no vote.
        pre_vote: bool,
        /// The campaign was asked for by the leader: the voter's lease does not refuse it
        /// (dissertation §4.2.3).
        transfer: bool,
    },
    /// The answer to `RequestVote`.
    VoteAnswer {
        /// Whether the vote is given.
        granted: bool,
        /// Whether it answers a pre-vote.
        pre_vote: bool,
        /// For how long, going by what the voter promised, the former leader's lease may still
        /// run: the winner waits for it before it takes up its own.
        lease_left_ms: u32,
    },
    /// Raft §5.3. Empty `entries` make it a probe or a heartbeat.
    AppendEntries {
        /// The entry before the first of `entries`.
        prev: EntryId,
        /// The entries, consecutive, the first at `prev.index + 1`.
        entries: Vec<Entry>,
        /// The leader's commit index.
        commit: LogIndex,
        /// The leader's heartbeat round, echoed in the answer: see `Node::confirmed_round`.
        round: u64,
    },
    /// The answer to `AppendEntries`.
    AppendAnswer {
        /// The round echoed.
        round: u64,
        /// As in `HeartbeatAnswer`.
        promise_ms: u32,
        /// What became of the entries.
        result: AppendResult,
    },
    /// The leader's sign of life where nothing is to be replicated.
    Heartbeat {
        /// The smaller of the leader's commit index and the follower's known match.
        commit: LogIndex,
        /// As in `AppendEntries`.
        round: u64,
    },
    /// The answer to `Heartbeat`.
    HeartbeatAnswer {
        /// The round echoed.
        round: u64,
        /// For how long from now on the sender votes for nobody else: its shortest election
        /// timeout (dissertation §6.4.1). In the answer, because timeouts may differ and change.
        promise_ms: u32,
    },
    /// The leader hands over: campaign at once (dissertation §3.10).
    TimeoutNow,
    /// A follower asks the leader for a linearizable read position (dissertation §6.4).
    ReadIndex {
        /// The asker's number for the read.
        token: u64,
    },
    /// The answer: reads at or after `index` are linearizable.
    ReadIndexAnswer {
        /// The asker's number.
        token: u64,
        /// The position; `None` when the leader cannot serve it (it lost its quorum).
        index: Option<LogIndex>,
    },
    /// A piece of the snapshot for a follower that lacks what the leader dropped (Raft §7).
    InstallSnapshot {
        /// Of which snapshot.
        snapshot: SnapshotMeta,
        /// Where in it the piece begins.
        offset: u64,
        /// The piece, at most `SNAPSHOT_CHUNK_BYTES`. Raft leaves it empty; whoever sends the
        /// message reads it from the stored snapshot.
        data: Vec<u8>,
        /// As in `AppendEntries`.
        round: u64,
    },
    /// The answer to `InstallSnapshot`.
    SnapshotAnswer {
        /// The round echoed.
        round: u64,
        /// As in `HeartbeatAnswer`.
        promise_ms: u32,
        /// Which snapshot: the last entry it stands for.
        last: EntryId,
        /// How much of it is here: the next piece begins there. All of it: it is installed and
        /// durable, or the log holds all of it without.
        received: u64,
    },
}

/// What a follower made of an `AppendEntries`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendResult {
    /// Its log equals the leader's up to here, durably.
    Accepted {
        /// The last position known equal.
        matched: LogIndex,
    },
    /// It has no entry `prev`; the leader looks further back.
    Rejected {
        /// The refused `prev.index`.
        prev: LogIndex,
        /// The follower's latest entry that may match: of a term at most `prev.term`, at an
        /// index at most `prev.index`. One round trip a term, not an entry (Raft §5.3, end).
        hint: EntryId,
    },
}

/// A message and where it goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// The receiver.
    pub to: NodeId,
    /// The message.
    pub message: Message,
}
