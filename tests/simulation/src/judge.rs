//! What must hold, checked at every step. Each check costs only what is new since the last one.
//!
//! The names of the checks stand before the colon of what they panic with; docs/testing.md lists
//! them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use pgraft::cluster::{ClusterState, Command, Uuid};
use pgraft::raft::{
    AppendResult, Body, Entry, EntryId, LogIndex, Membership, Message, Node, NodeId, Payload,
    RoleKind, SnapshotMeta, Term,
};
use pgraft::storage::Recovered;
use pgraft::wire;

use crate::hands::Save;

/// States of the state machine that are kept to compare others with.
const STATES_MAX: usize = 512;

/// What a disk must hold: everything whose write was reported done.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The term.
    pub term: Term,
    /// The vote in it.
    pub vote: Option<NodeId>,
    /// The names of the entries, from index 1.
    pub log: Vec<EntryId>,
    /// Whether an entry of it says, or said, that this directory takes part.
    pub named: bool,
}

impl Memory {
    fn holds(&self, id: EntryId) -> bool {
        id.index.0 == 0 || self.log.get(id.index.0 as usize - 1) == Some(&id)
    }

    fn is(&self, other: &Memory) -> bool {
        (self.term, self.vote, &self.log) == (other.term, other.vote, &other.log)
    }

    fn summary(&self) -> String {
        let end = &self.log[self.log.len().saturating_sub(5)..];
        format!("{:?}, vote {:?}, {} entries up to {end:?}", self.term, self.vote, self.log.len())
    }

    fn last(&self) -> u64 {
        self.log.len() as u64
    }

    /// After a write.
    pub fn take(&mut self, save: &Save, own: (NodeId, Uuid)) {
        self.take_snapshot(save);
        if let Some(hard_state) = &save.hard_state {
            (self.term, self.vote) = (hard_state.term, hard_state.vote);
        }
        for entry in &save.entries {
            self.log.truncate(entry.id.index.prev().0 as usize);
            self.log.push(entry.id);
            self.named |= names(entry, own);
        }
    }

    /// A snapshot takes the place of a log that does not contain its last entry.
    fn take_snapshot(&mut self, save: &Save) {
        if let Some(meta) = &save.snapshot {
            if !self.holds(meta.last) {
                self.log.clone_from(&save.stands_for);
                if self.term < meta.last.term {
                    // A crash before the log begins anew: the snapshot's term is all there is of
                    // the newer ones. No vote was stored in it.
                    (self.term, self.vote) = (meta.last.term, None);
                }
            }
            self.named |= save.named;
        }
    }

    /// What was read back from a disk.
    fn of(recovered: &Recovered, stands_for: &[EntryId], own: (NodeId, Uuid)) -> Memory {
        let entries = recovered.entries.iter().map(|entry| entry.id);
        Memory {
            term: recovered.hard_state.term,
            vote: recovered.hard_state.vote,
            log: stands_for.iter().copied().chain(entries).collect(),
            named: recovered.entries.iter().any(|entry| names(entry, own)),
        }
    }
}

/// Whether `entry` records that this directory takes part as this node.
fn names(entry: &Entry, (node, directory): (NodeId, Uuid)) -> bool {
    let bytes = match &entry.payload {
        Payload::Empty => return false,
        Payload::Command(bytes) => bytes,
        Payload::Membership { command, .. } => command,
    };
    let own =
        |member: &pgraft::cluster::Member| member.id == node && member.directory == Some(directory);
    match wire::decode_command(bytes) {
        Ok(Command::Genesis { members, .. }) => members.iter().any(own),
        Ok(Command::AddLearner { member } | Command::Update { member }) => own(&member),
        _ => false,
    }
}

/// What was seen of a node at the last look.
#[derive(Clone, Debug, Default)]
struct Seen {
    leads: Option<Term>,
    last: EntryId,
    commit: LogIndex,
    applied: LogIndex,
    memberships: [Membership; 2],
}

/// The judge. It sees everything at once, as no node can.
#[derive(Debug, Default)]
pub struct Judge {
    /// Who led each term.
    leaders: BTreeMap<Term, NodeId>,
    /// The entries that change the membership.
    changes: BTreeSet<EntryId>,
    /// Every entry that was ever stored: a checksum of it, and what stands before it.
    entries: HashMap<EntryId, (u32, EntryId)>,
    /// Entries, with their checksums, whose write was begun and not known to be done when the
    /// server ended.
    begun: BTreeSet<(EntryId, u32)>,
    /// What is committed, from index 1.
    committed: Vec<EntryId>,
    /// What was committed of the membership, by where it stands.
    memberships: BTreeMap<LogIndex, Membership>,
    /// How long the snapshots are that were sent.
    lengths: BTreeMap<LogIndex, u64>,
    /// Who got whose vote.
    votes: HashMap<(NodeId, Term), NodeId>,
    /// State machines by what they have applied.
    states: BTreeMap<LogIndex, ClusterState>,
    /// Until when each node believes its lease, in the world's time.
    leases: BTreeMap<NodeId, u64>,
    /// What directories held that are no more: what they had acknowledged stays acknowledged.
    graves: BTreeMap<NodeId, Vec<Vec<EntryId>>>,
    seen: BTreeMap<NodeId, Seen>,
    /// How many checks were made.
    pub checks: u64,
}

/// Says what was broken, and ends the run.
fn broken(check: &str, what: String) -> ! {
    panic!("{check}: {what}")
}

macro_rules! check {
    ($judge:ident, $holds:expr, $name:literal, $($what:tt)*) => {
        $judge.checks += 1;
        if !$holds {
            broken($name, format!($($what)*));
        }
    };
}

/// A place in the world where something is looked at.
pub struct Place<'a> {
    /// Which node.
    pub node: NodeId,
    /// The directory it has now.
    pub directory: Uuid,
    /// Now.
    pub now_ns: u64,
    /// What its disk must hold.
    pub memory: &'a Memory,
    /// It is no voter any more: it hands over to the best there is.
    pub leaving: bool,
}

impl Judge {
    /// How much is committed.
    pub fn committed(&self) -> u64 {
        self.committed.len() as u64
    }

    /// How many terms had a leader.
    pub fn terms(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// A write returned.
    pub fn saved(&mut self, node: NodeId, before: &Memory, save: &Save) {
        let Some(first) = save.entries.first() else { return };
        let prev_index = first.id.index.prev();
        check!(
            self,
            prev_index.0 <= before.last(),
            "log matching",
            "node {node} stores {:?} behind {} entries",
            first.id,
            before.last()
        );
        for index in first.id.index.0..=before.last().min(self.committed()) {
            let (held, committed) =
                (before.log[index as usize - 1], self.committed[index as usize - 1]);
            let new = save.entries.get((index - first.id.index.0) as usize).map(|entry| entry.id);
            check!(
                self,
                held != committed || new == Some(committed),
                "committed entries stay",
                "node {node} replaces {held:?}, which is committed, by {new:?}"
            );
        }
        let mut prev = match prev_index.0 {
            0 => EntryId::default(),
            index => before.log[index as usize - 1],
        };
        for entry in &save.entries {
            let known = (checksum(entry), prev);
            let first = *self.entries.entry(entry.id).or_insert(known);
            check!(
                self,
                first == known,
                "log matching",
                "node {node} stores another {:?} than is known: {known:?}, not {first:?}",
                entry.id
            );
            prev = entry.id;
            if matches!(entry.payload, Payload::Membership { .. }) {
                self.changed(node, before, save, entry.id);
            }
        }
    }

    /// A change of the membership is stored.
    fn changed(&mut self, node: NodeId, before: &Memory, save: &Save, change: EntryId) {
        self.changes.insert(change);
        // What this node knows to be committed may be news to the judge.
        let told = save.hard_state.map_or(LogIndex(0), |hard_state| hard_state.commit);
        let committed = LogIndex(self.committed()).max(told);
        let own = before.log.iter().take(change.index.0 as usize - 1).copied();
        let stored =
            own.take_while(|id| save.entries.first().is_none_or(|e| id.index < e.id.index));
        let log: Vec<EntryId> = stored
            .chain(save.entries.iter().map(|entry| entry.id))
            .filter(|id| id.index <= change.index)
            .collect();
        let open =
            log.iter().filter(|id| id.index > committed && self.changes.contains(id)).count();
        check!(
            self,
            open <= 1,
            "one membership change at a time",
            "node {node} stores {change:?}, and another one is not committed either"
        );
        let leads = self.leaders.get(&change.term) == Some(&node);
        let began = log.iter().any(|id| id.term == change.term && id.index <= committed);
        check!(
            self,
            !leads || began,
            "no membership change before a commit in the own term",
            "node {node} stores {change:?}"
        );
    }

    /// What `meta` stands for, which must be what is committed.
    pub fn stands_for(&mut self, meta: &SnapshotMeta) -> Vec<EntryId> {
        self.snapshot(meta.last.index, meta);
        self.committed[..meta.last.index.0 as usize].to_vec()
    }

    /// A snapshot is stored somewhere.
    pub fn snapshot(&mut self, by: impl std::fmt::Debug, meta: &SnapshotMeta) {
        let committed = self.committed.get(meta.last.index.0 as usize - 1).copied();
        check!(
            self,
            committed == Some(meta.last),
            "a snapshot stands for what is committed",
            "{by:?} stores one up to {:?}, and {committed:?} is",
            meta.last
        );
        let known = self.memberships.range(..=meta.last.index).next_back();
        check!(
            self,
            known.is_some_and(|(_, membership)| *membership == meta.membership),
            "a snapshot has its membership",
            "{by:?} stores one up to {:?} with {:?}, not {known:?}",
            meta.last,
            meta.membership
        );
    }

    /// What was found on a disk.
    pub fn found(&mut self, recovered: &Recovered, own: (NodeId, Uuid)) -> Memory {
        let mut named = false;
        if let Some((meta, data)) = &recovered.snapshot {
            self.snapshot(own.0, meta);
            let state = wire::decode_state(data).expect("what was encoded");
            let member = state.members.get(&own.0);
            named = member.is_some_and(|member| member.directory == Some(own.1));
        }
        let base = recovered.base;
        let stands_for = &self.committed[..base.index.0 as usize];
        check!(
            self,
            base.index.0 == 0 || stands_for.last() == Some(&base),
            "a snapshot stands for what is committed",
            "the log of node {} begins behind {base:?}",
            own.0
        );
        let found = Memory::of(recovered, stands_for, own);
        Memory { named: found.named || named, ..found }
    }

    /// What is read back is what was written, and not only by its name.
    pub fn read_back<'a>(
        &mut self,
        node: NodeId,
        found: &[Entry],
        begun: impl Iterator<Item = &'a Save>,
    ) {
        let begun = begun.flat_map(|save| &save.entries);
        self.begun.extend(begun.map(|entry| (entry.id, checksum(entry))));
        for entry in found {
            let (id, own) = (entry.id, checksum(entry));
            let known = self.entries.get(&id).is_some_and(|(checksum, _)| *checksum == own);
            let written = known || self.begun.contains(&(id, own));
            check!(
                self,
                written,
                "what was written is read back",
                "node {node} finds another {:?} on its disk than was written",
                entry.id
            );
        }
    }

    /// A server starts and has read its disk. `begun`: writes that may or may not have got there.
    pub fn recovered(
        &mut self,
        own: (NodeId, Uuid),
        memory: &Memory,
        begun: impl Iterator<Item = Save>,
        found: &Memory,
    ) {
        let mut allowed = memory.clone();
        let mut known = allowed.is(found);
        for save in begun {
            // First the snapshot, then the log that begins behind it.
            allowed.take_snapshot(&save);
            known |= allowed.is(found);
            allowed.take(&save, own);
            known |= allowed.is(found);
        }
        check!(
            self,
            known,
            "what was durable is found again",
            "node {} finds {} on its disk, which must hold {}",
            own.0,
            found.summary(),
            memory.summary()
        );
        self.seen.remove(&own.0);
    }

    /// A directory is gone for good.
    pub fn wiped(&mut self, node: NodeId, memory: &Memory) {
        self.graves.entry(node).or_default().push(memory.log.clone());
        self.seen.remove(&node);
    }

    /// A packet of consensus leaves.
    pub fn sent(&mut self, at: &Place<'_>, to: NodeId, message: &Message, holds: &Holds<'_>) {
        let (node, term, memory) = (at.node, message.term, at.memory);
        match &message.body {
            Body::AppendEntries { .. } | Body::Heartbeat { .. } => self.leads(node, term),
            Body::InstallSnapshot { snapshot, .. } => {
                self.leads(node, term);
                self.lengths.insert(snapshot.last.index, snapshot.bytes);
            }
            Body::AppendAnswer { result: AppendResult::Accepted { matched }, .. } => {
                // A leader of a newer term may have replaced it before it was stored: the disk is
                // then as it would be, had it been stored in between.
                check!(
                    self,
                    memory.term > term || memory.term == term && memory.last() >= matched.0,
                    "durable before acknowledged",
                    "node {node} acknowledges {matched:?} in {term:?} and holds {} in {:?}",
                    memory.last(),
                    memory.term
                );
            }
            Body::SnapshotAnswer { last, received, .. } => {
                // Nothing but its length says that all of it is there.
                let whole = *received > 0 && self.lengths.get(&last.index) == Some(received);
                check!(
                    self,
                    !whole || memory.last() >= last.index.0,
                    "durable before acknowledged",
                    "node {node} acknowledges the snapshot up to {last:?} and holds {} entries",
                    memory.last()
                );
            }
            Body::VoteAnswer { granted: true, pre_vote: false, .. } => {
                self.voted(at, term, to);
                self.lets_go(at);
            }
            Body::RequestVote { pre_vote: false, .. } => self.voted(at, term, node),
            Body::TimeoutNow => {
                self.lets_go(at);
                let last = memory.log.last().copied().unwrap_or_default();
                check!(
                    self,
                    at.leaving || holds(to, last) || self.buried(to, last),
                    "a handover waits for the log",
                    "node {node} tells {to} to lead, which does not hold {last:?}"
                );
            }
            _ => {}
        }
    }

    /// What a leader says is committed is.
    pub fn told(&mut self, node: NodeId, raft: &Node, message: &Message, holds: &Holds<'_>) {
        if let Body::AppendEntries { commit, .. } | Body::Heartbeat { commit, .. } = message.body {
            self.commits(node, raft, commit, holds);
        }
    }

    fn leads(&mut self, node: NodeId, term: Term) {
        let leader = *self.leaders.entry(term).or_insert(node);
        check!(
            self,
            leader == node,
            "election safety",
            "nodes {leader} and {node} both lead in {term:?}"
        );
    }

    fn voted(&mut self, at: &Place<'_>, term: Term, candidate: NodeId) {
        let (node, memory) = (at.node, at.memory);
        check!(
            self,
            memory.named,
            "a wiped member never votes",
            "node {node} votes for {candidate} in {term:?}, and its directory {} is in no entry of \
             its log",
            at.directory
        );
        // In a newer term it can never again vote in this one.
        check!(
            self,
            memory.term > term || (memory.term, memory.vote) == (term, Some(candidate)),
            "durable before voted",
            "node {node} votes for {candidate} in {term:?}, its disk says {:?} in {:?}",
            memory.vote,
            memory.term
        );
        let vote = *self.votes.entry((node, term)).or_insert(candidate);
        check!(
            self,
            vote == candidate,
            "one vote a term",
            "node {node} votes for {vote} and for {candidate} in {term:?}"
        );
    }

    /// By now its own lease must have ended for every reader.
    fn lets_go(&mut self, at: &Place<'_>) {
        let until = self.leases.get(&at.node).copied().unwrap_or(0);
        check!(
            self,
            until <= at.now_ns,
            "a lease ends before another may lead",
            "node {} shows one for another {} ns",
            at.node,
            until - at.now_ns
        );
    }

    /// A page changed: until when its reader takes the node for the leader, 0 for not at all.
    pub fn lease(&mut self, node: NodeId, now_ns: u64, until_ns: u64) {
        self.leases.insert(node, until_ns);
        if until_ns <= now_ns {
            return;
        }
        for (&other, &until) in &self.leases {
            check!(
                self,
                other == node || until <= now_ns,
                "one lease at a time",
                "nodes {node} and {other} both believe theirs, for {} and {} ns",
                until_ns - now_ns,
                until - now_ns
            );
        }
    }

    /// A node has done what it had to do: what it is now.
    pub fn settled(
        &mut self,
        at: &Place<'_>,
        raft: &Node,
        cluster: &ClusterState,
        holds: &Holds<'_>,
    ) {
        let node = at.node;
        if raft.role() == RoleKind::Leader {
            self.leads(node, raft.term());
        }
        self.commits(node, raft, raft.commit(), holds);
        let seen = self.seen.remove(&node).unwrap_or_default();
        let leads = (raft.role() == RoleKind::Leader).then(|| raft.term());
        if leads.is_some() && leads == seen.leads {
            let still = seen.last.index.0 == 0
                || entry_at(raft, seen.last.index) == Some(seen.last)
                || stands_for(raft, seen.last.index);
            check!(
                self,
                still,
                "a leader only appends",
                "node {node} led with {:?}, now it ends with {:?}",
                seen.last,
                raft.last()
            );
        } else if leads.is_some() {
            self.complete(node, raft);
        }
        check!(
            self,
            raft.commit() >= seen.commit && cluster.applied >= seen.applied,
            "state machine safety",
            "node {node} goes back from {:?} to {:?}",
            (seen.commit, seen.applied),
            (raft.commit(), cluster.applied)
        );
        check!(
            self,
            cluster.applied <= raft.commit(),
            "state machine safety",
            "node {node} applied {:?} and knows {:?} to be committed",
            cluster.applied,
            raft.commit()
        );
        if cluster.applied > seen.applied {
            self.applied(node, cluster);
        }
        let memberships = [raft.committed_membership().clone(), raft.membership().clone()];
        let seen = Seen {
            leads,
            last: raft.last(),
            commit: raft.commit(),
            applied: cluster.applied,
            memberships,
        };
        self.seen.insert(node, seen);
    }

    /// A new leader has everything that is committed in terms before its own.
    fn complete(&mut self, node: NodeId, raft: &Node) {
        let before = self.committed.iter().rev().find(|id| id.term < raft.term());
        let Some(&last) = before else { return };
        let has = entry_at(raft, last.index);
        check!(
            self,
            has == Some(last) || stands_for(raft, last.index),
            "leader completeness",
            "node {node} leads in {:?} without {last:?}, which is committed; it has {has:?}",
            raft.term()
        );
    }

    /// `raft` knows everything up to `commit` to be committed.
    fn commits(&mut self, node: NodeId, raft: &Node, commit: LogIndex, holds: &Holds<'_>) {
        let seen = self.seen.get(&node);
        let mut from = seen.map_or(LogIndex(0), |seen| seen.commit);
        while from < commit && from.0 < self.committed() {
            from = from.next();
            let committed = self.committed[from.0 as usize - 1];
            let own = entry_at(raft, from);
            check!(
                self,
                own == Some(committed) || stands_for(raft, from),
                "state machine safety",
                "node {node} takes {own:?} for committed, which is {committed:?}"
            );
        }
        if let Some(seen) = self.seen.get_mut(&node) {
            seen.commit = seen.commit.max(commit.min(raft.commit()));
        }
        if commit.0 <= self.committed() {
            return;
        }
        let newest = entry_at(raft, commit);
        let counted = entry_at(raft, raft.commit()).map(|id| id.term);
        // A lone voter may find on its disk that it had committed something, and lead at once.
        let alone = raft.membership().voters.len() == 1;
        check!(
            self,
            raft.role() != RoleKind::Leader || counted == Some(raft.term()) || alone,
            "only the own term is committed by counting",
            "node {node} commits {newest:?} in {:?}",
            raft.term()
        );
        self.held_by_quorum(node, raft, newest, holds);
        for index in self.committed() + 1..=commit.0 {
            match entry_at(raft, LogIndex(index)) {
                Some(id) => {
                    self.committed.push(id);
                    if let Some(Entry { payload: Payload::Membership { membership, .. }, .. }) =
                        raft.entry(LogIndex(index))
                    {
                        self.memberships.insert(LogIndex(index), membership.clone());
                    }
                }
                None => broken(
                    "state machine safety",
                    format!("node {node} takes {index} for committed and does not have it"),
                ),
            }
        }
    }

    /// What is committed for the first time is durable on a majority of some membership that the
    /// committing node goes by.
    fn held_by_quorum(
        &mut self,
        node: NodeId,
        raft: &Node,
        id: Option<EntryId>,
        holds: &Holds<'_>,
    ) {
        let Some(id) = id else { return };
        let held = |voter: &&NodeId| self.buried(**voter, id) || holds(**voter, id);
        let by_majority = |membership: &Membership| {
            membership.voters.iter().filter(held).count() * 2 > membership.voters.len()
        };
        let before = self.seen.get(&node).map(|seen| &seen.memberships);
        let durable = by_majority(raft.membership())
            || by_majority(raft.committed_membership())
            || before.is_some_and(|before| before.iter().any(by_majority));
        check!(
            self,
            durable,
            "committed is durable on a quorum",
            "node {node} takes {id:?} for committed in {:?}; no majority of {:?} holds it",
            raft.term(),
            raft.membership().voters
        );
    }

    /// Whether a directory held it that is no more: it was acknowledged all the same.
    fn buried(&self, node: NodeId, id: EntryId) -> bool {
        let held = |log: &Vec<EntryId>| log.get(id.index.0 as usize - 1) == Some(&id);
        self.graves.get(&node).is_some_and(|graves| graves.iter().any(held))
    }

    /// Whoever has applied the same has the same.
    fn applied(&mut self, node: NodeId, cluster: &ClusterState) {
        match self.states.get(&cluster.applied) {
            Some(known) => {
                check!(
                    self,
                    known == cluster,
                    "state machine safety",
                    "node {node} applied up to {:?} and has {cluster:?}, another had {known:?}",
                    cluster.applied
                );
            }
            None => {
                self.states.insert(cluster.applied, cluster.clone());
                if self.states.len() > STATES_MAX {
                    self.states.pop_first();
                }
            }
        }
    }
}

/// Whether a node's disk holds an entry.
pub type Holds<'a> = dyn Fn(NodeId, EntryId) -> bool + 'a;

fn entry_at(raft: &Node, index: LogIndex) -> Option<EntryId> {
    raft.entry(index).map(|entry| entry.id)
}

fn checksum(entry: &Entry) -> u32 {
    let mut bytes = Vec::new();
    wire::encode_entry(entry, &mut bytes);
    crc32c::crc32c(&bytes)
}

/// Whether its snapshot stands for what was at `index`.
fn stands_for(raft: &Node, index: LogIndex) -> bool {
    raft.entry(index).is_none() && raft.snapshot().is_some_and(|meta| meta.last.index >= index)
}

impl Memory {
    /// For [`Holds`].
    pub fn has(&self, id: EntryId) -> bool {
        self.holds(id)
    }
}
