//! The replicated state machine: the members, the primary and the store. `apply` is the only way to
//! change it, and depends on nothing but the state and the command, so that every node holds the
//! same.

use crate::bugs::{self, Bug};
use std::collections::{BTreeMap, BTreeSet};

use super::sessions::{Sessions, Turn};
use super::{Address, Change, Position, RequestId, Store, Switch, Uuid};
use crate::raft::{EntryId, LogIndex, NodeId};

/// One node as the cluster knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Its name for people; may be empty until it first connects.
    pub name: String,
    /// Where its Raft port is dialled.
    pub raft_address: Address,
    /// Where its Postgres listens, once known.
    pub pg_address: Option<Address>,
    /// The data directory that joined; another one has forgotten its votes and is refused.
    /// `None` until the node first connects.
    pub directory: Option<Uuid>,
    /// Of its Postgres, once known.
    pub system_identifier: Option<u64>,
    /// Whether it counts for elections and commit.
    pub voter: bool,
}

/// How many timelines are remembered: a server that is further behind than so many failovers is
/// behind every other.
pub const TIMELINES_MAX: usize = 256;

/// Whose Postgres accepts writes: the one source of truth, which nodes carry out (DESIGN §10).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Primary {
    /// Whose. It may be promoted yet, or dead by now.
    pub node: NodeId,
    /// Goes up by one each time, so that what was meant for an earlier primary is told from what is
    /// meant for this one.
    pub epoch: u64,
    /// The timeline on which it writes: a new one, or its own if it is a primary already. Postgres
    /// gives a promotion the next number that it does not know to be taken, so two servers that
    /// did not hear of each other would otherwise take the same one for different histories.
    pub timeline: u32,
}

/// What the log knows of a timeline that primaries write on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeline {
    /// The last epoch that writes on it.
    pub epoch: u64,
    /// Where it left the one before: a server that was promoted by hand may have taken the same
    /// number elsewhere. `None`: it is the first, or its promotion was not seen to be over.
    pub fork: Option<Switch>,
}

/// An operation on the state machine, as it stands in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// The first entry of every log.
    Genesis {
        /// The cluster's random name.
        cluster: Uuid,
        /// Its first members, all voters.
        members: Vec<Member>,
    },
    /// A node joins as a learner; its removal, if any, is forgotten.
    AddLearner {
        /// It.
        member: Member,
    },
    /// A learner becomes a voter.
    Promote {
        /// It.
        node: NodeId,
    },
    /// A node leaves.
    Remove {
        /// It.
        node: NodeId,
    },
    /// Name, addresses, directory or system identifier of a member became known or changed.
    /// Neither `voter` nor a directory already bound is changed by it.
    Update {
        /// The member as it is from now on.
        member: Member,
    },
    /// A change of the key/value store.
    Store {
        /// Which request it is: carried out once, however often it stands in the log.
        id: RequestId,
        /// What it does.
        change: Change,
    },
    /// A primary is named, after the one of the epoch before.
    SetPrimary {
        /// It.
        primary: Primary,
    },
    /// A promotion is over: this is what its timeline grew from.
    SetFork {
        /// The timeline that it began.
        timeline: u32,
        /// Where that left the one before.
        fork: Switch,
    },
    /// Whether nobody is promoted automatically (`pgraft_pause()`).
    SetPaused {
        /// On or off.
        paused: bool,
    },
    /// Whether every acknowledged commit is on a majority of the members: if so, a new primary is
    /// chosen by the positions of a majority.
    SetSynchronous {
        /// On or off.
        synchronous: bool,
    },
}

/// What an applied command changed; the runtime words it for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Applied {
    /// Nothing: an empty entry, or a command that no longer fits.
    Nothing,
    /// The cluster exists.
    Formed,
    /// A learner came.
    Added(NodeId),
    /// A learner became a voter.
    Promoted(NodeId),
    /// A member left.
    Removed(NodeId),
    /// A member's record changed.
    Updated(NodeId),
    /// A request to the store had its turn.
    Stored {
        /// Which.
        id: RequestId,
        /// Whether it was done, now or when it came first; `None`: it is of a run that is over, or
        /// of no member, and changed nothing.
        outcome: Option<bool>,
    },
    /// A primary was named.
    PrimaryNamed(Primary),
    /// It became known where a timeline begins.
    ForkKnown {
        /// Which.
        timeline: u32,
        /// Where.
        fork: Switch,
    },
    /// Automatic promotion was paused or resumed.
    Paused(bool),
    /// Commits wait for a majority from now on, or no longer.
    Synchronous(bool),
}

/// The members, the primary and the store, as of `applied`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClusterState {
    /// The cluster's name; `None` before genesis.
    pub uuid: Option<Uuid>,
    /// Everyone who takes part.
    pub members: BTreeMap<NodeId, Member>,
    /// Nodes that were removed and not added again; they are told so when they knock.
    pub removed: BTreeSet<NodeId>,
    /// Whose Postgres accepts writes; `None` before the first was named.
    pub primary: Option<Primary>,
    /// Each timeline that a primary was named for: of two servers on different timelines, the one
    /// on that of the later epoch has the cluster's history. A number is never given to two
    /// promotions. The latest `TIMELINES_MAX`.
    pub timelines: BTreeMap<u32, Timeline>,
    /// Whether nobody is promoted automatically.
    pub paused: bool,
    /// Whether every acknowledged commit is on a majority of the members.
    pub synchronous: bool,
    /// The key/value store.
    pub store: Store,
    /// What the members' requests to the store came to.
    pub sessions: Sessions,
    /// The last entry applied.
    pub applied: LogIndex,
}

impl ClusterState {
    /// Applies `entry`; `command` is what it carries, `None` for an empty one. An
    /// entry applied before changes nothing, and so does a command that no longer fits: all nodes
    /// see it so, for all hold the same state.
    pub fn apply(&mut self, entry: EntryId, command: Option<Command>) -> Applied {
        if entry.index <= self.applied && !bugs::on(Bug::ApplyTwice) {
            return Applied::Nothing;
        }
        self.applied = entry.index;
        match command {
            None => Applied::Nothing,
            Some(Command::Genesis { cluster, members }) => self.form(cluster, members),
            // Before genesis there is nothing to change.
            Some(_) if self.uuid.is_none() => Applied::Nothing,
            Some(Command::AddLearner { member }) => self.add(member),
            Some(Command::Promote { node }) => self.promote(node),
            Some(Command::Remove { node }) => self.remove(node),
            Some(Command::Update { member }) => self.update(member),
            Some(Command::Store { id, change }) => self.store(entry, id, change),
            Some(Command::SetPrimary { primary }) => self.name_primary(primary),
            Some(Command::SetFork { timeline, fork }) => self.set_fork(timeline, fork),
            Some(Command::SetPaused { paused }) => {
                changed(&mut self.paused, paused, Applied::Paused(paused))
            }
            Some(Command::SetSynchronous { synchronous }) => {
                let applied = Applied::Synchronous(synchronous);
                changed(&mut self.synchronous, synchronous, applied)
            }
        }
    }

    /// The epoch of the primary named last; 0 before the first.
    pub fn epoch(&self) -> u64 {
        self.primary.map_or(0, |primary| primary.epoch)
    }

    /// The epoch that a server at `position` belongs to: 0 for one on a timeline from before the
    /// first that is remembered, `None` for one on, or past, a timeline that no primary was named
    /// for or that begins elsewhere, as it was promoted by hand.
    pub fn epoch_of(&self, position: &Position) -> Option<u64> {
        let fork_of = |timeline| self.timelines.get(&timeline).and_then(|known| known.fork);
        if position.forks().any(|(timeline, fork)| fork_of(timeline).is_some_and(|f| f != *fork)) {
            return None;
        }
        match self.timelines.first_key_value() {
            Some((first, _)) if position.timeline < *first => Some(0),
            _ => self.timelines.get(&position.timeline).map(|known| known.epoch),
        }
    }

    /// Where the primary's history left `timeline` for good, as far as that is known: a server
    /// there that has more cannot follow.
    pub fn end_of(&self, timeline: u32) -> Option<u64> {
        let fork_of = |timeline| self.timelines.get(&timeline).and_then(|known| known.fork);
        let mut fork = fork_of(self.primary?.timeline)?;
        while fork.timeline > timeline {
            fork = fork_of(fork.timeline)?;
        }
        (fork.timeline == timeline).then_some(fork.ends)
    }

    fn name_primary(&mut self, primary: Primary) -> Applied {
        let later = primary.epoch == self.epoch() + 1;
        if !later || !self.members.contains_key(&primary.node) {
            return Applied::Nothing;
        }
        self.primary = Some(primary);
        let epoch = primary.epoch;
        let known = self.timelines.entry(primary.timeline);
        known.or_insert(Timeline { epoch, fork: None }).epoch = epoch;
        if self.timelines.len() > TIMELINES_MAX {
            self.timelines.pop_first();
        }
        Applied::PrimaryNamed(primary)
    }

    fn set_fork(&mut self, timeline: u32, fork: Switch) -> Applied {
        match self.timelines.get_mut(&timeline) {
            Some(Timeline { fork: unknown @ None, .. }) => {
                *unknown = Some(fork);
                Applied::ForkKnown { timeline, fork }
            }
            _ => Applied::Nothing,
        }
    }

    fn form(&mut self, cluster: Uuid, members: Vec<Member>) -> Applied {
        if self.uuid.is_some() {
            return Applied::Nothing;
        }
        self.uuid = Some(cluster);
        let voters =
            members.into_iter().map(|member| (member.id, Member { voter: true, ..member }));
        self.members = voters.collect();
        Applied::Formed
    }

    fn add(&mut self, member: Member) -> Applied {
        let id = member.id;
        if self.members.contains_key(&id) {
            return Applied::Nothing;
        }
        self.removed.remove(&id);
        self.members.insert(id, Member { voter: false, ..member });
        Applied::Added(id)
    }

    fn promote(&mut self, node: NodeId) -> Applied {
        match self.members.get_mut(&node) {
            Some(member) if !member.voter => {
                member.voter = true;
                Applied::Promoted(node)
            }
            _ => Applied::Nothing,
        }
    }

    fn remove(&mut self, node: NodeId) -> Applied {
        if self.members.remove(&node).is_none() {
            return Applied::Nothing;
        }
        self.removed.insert(node);
        self.sessions.close(node);
        Applied::Removed(node)
    }

    fn update(&mut self, member: Member) -> Applied {
        let Some(known) = self.members.get_mut(&member.id) else {
            return Applied::Nothing;
        };
        let directory = known.directory.or(member.directory);
        let updated = Member { directory, voter: known.voter, ..member };
        if *known == updated {
            return Applied::Nothing;
        }
        *known = updated;
        Applied::Updated(known.id)
    }

    fn store(&mut self, entry: EntryId, id: RequestId, change: Change) -> Applied {
        let directory = self.members.get(&id.node).and_then(|member| member.directory);
        if directory != Some(id.directory) {
            return Applied::Stored { id, outcome: None };
        }
        let outcome = match self.sessions.turn(&id) {
            Turn::New => {
                let done = self.store.change(entry, change);
                self.sessions.remember(&id, done);
                Some(done)
            }
            Turn::Done(done) => Some(done),
            Turn::Over => None,
        };
        Applied::Stored { id, outcome }
    }
}

/// Sets `value`; what that means, if it was another.
fn changed(value: &mut bool, to: bool, applied: Applied) -> Applied {
    if std::mem::replace(value, to) == to { Applied::Nothing } else { applied }
}
