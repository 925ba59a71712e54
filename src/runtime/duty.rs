//! What this node's Postgres is to be, as the log and the leader have it: the consensus thread says
//! so, the worker's main thread makes it so, again and again until it is. Plain values.

use std::collections::BTreeSet;

use crate::cluster::Address;
use crate::raft::{LogIndex, NodeId};

/// What this node's Postgres is to be. Nobody but the log decides; whoever carries it out may be
/// interrupted at any point and begin again.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Duty {
    /// The primary's epoch that this follows from.
    pub epoch: u64,
    /// What it is to do.
    pub task: Task,
    /// The other members: each has a physical slot here, so that it can stream from here.
    pub slots: BTreeSet<NodeId>,
    /// Whom commits wait for; `None`: this may not be changed now.
    pub synchronous: Option<Synchronous>,
}

/// What a server is to do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Task {
    /// As it is: nothing is known that asks for a change.
    #[default]
    Nothing,
    /// To be the primary: if it is a standby, to be promoted, onto exactly this timeline.
    BePrimary {
        /// Its number.
        timeline: u32,
    },
    /// To be a standby of that node's server.
    Follow {
        /// Whose.
        node: NodeId,
        /// Where it listens.
        address: Address,
    },
    /// To receive no WAL: it said how far it has come, and a new primary is being chosen.
    Freeze,
}

/// What `synchronous_standby_names` is to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Synchronous {
    /// How many of `standbys` a commit waits for; 0: for none.
    pub needed: u32,
    /// The members, this node aside.
    pub standbys: BTreeSet<NodeId>,
    /// Where in the log that membership stands.
    pub members_at: LogIndex,
}
