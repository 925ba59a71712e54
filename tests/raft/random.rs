//! Clusters that live through random misfortune: messages lost, repeated and reordered, crashes at
//! every point of a `Ready`, partitions, membership changes, handovers, logs that are compacted all
//! the time and snapshots that take their place. After every step the
//! properties of figure 3 hold, reads are linearizable and at most one node holds a lease; in the
//! end, with everything healed, there is a leader and all logs are equal.
//!
//! `PGRAFT_SEEDS=1000..2000 cargo test --test raft random` runs other seeds.

use std::collections::BTreeMap;

use pgraft::raft::*;

use crate::disk::{self, Disk, describe_state, fill};
use crate::support::{self, ELECTION, TICK_MS, describe_entry, genesis};

const STEPS: usize = 3000;

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len())]) }
    }
}

/// As `runtime/lease.rs` keeps it, in simulated milliseconds. It outlives a crash of the node's
/// process: other processes go by what was published.
#[derive(Default)]
struct Lease {
    sent: BTreeMap<u64, u64>,
    starts: u64,
    expires: u64,
}

#[derive(Default)]
struct Server {
    node: Option<Node>,
    config: Option<Config>,
    /// The hard state as last synced.
    synced: HardState,
    /// The rest, and the hard state as last written.
    disk: Disk,
    /// The state machine.
    state: Vec<EntryId>,
    /// A snapshot of it that is being written beside.
    writing: Option<(SnapshotMeta, Vec<u8>)>,
    lease: Lease,
    /// Reads under way: what was known to be committed when they were asked.
    reads: BTreeMap<u64, u64>,
}

#[derive(Default)]
struct World {
    seed: u64,
    founders: Vec<u32>,
    servers: BTreeMap<NodeId, Server>,
    network: Vec<(NodeId, NodeId, Message)>,
    cut: Vec<NodeId>,
    now: u64,
    tokens: u64,
    leaders: BTreeMap<Term, NodeId>,
    /// Every entry ever stored, with the one before it.
    stored: BTreeMap<EntryId, (Entry, EntryId)>,
    committed: Vec<Entry>,
    leases: u64,
    reads: u64,
    changes: u64,
    handovers: u64,
    compactions: u64,
    installed: u64,
}

impl World {
    fn new(seed: u64, chance: &mut Chance) -> World {
        let founders = (1..=1 + chance.below(4) as u32).collect();
        let mut world = World { seed, founders, ..World::default() };
        for number in 1..=5 {
            let mut config = support::config(number);
            config.append_bytes_max = 200;
            config.inflight_max = 1 + chance.below(4);
            config.proposals_bytes_max = 4000;
            let mut node =
                Node::new(config.clone(), Restored::default(), seed + u64::from(number)).unwrap();
            node.set_may_vote(true);
            if world.founders.contains(&number) {
                node.bootstrap(genesis(&world.founders, &[])).unwrap();
            }
            let id = node.id();
            let server = Server { node: Some(node), config: Some(config), ..Server::default() };
            world.servers.insert(id, server);
        }
        world
    }

    fn fail(&self, what: &str) -> ! {
        panic!("seed {}: {what}", self.seed)
    }

    fn up(&self) -> Vec<NodeId> {
        let up = self.servers.iter().filter(|(_, server)| server.node.is_some());
        up.map(|(id, _)| *id).collect()
    }

    fn node(&mut self, id: NodeId) -> Option<&mut Node> {
        self.servers.get_mut(&id)?.node.as_mut()
    }

    fn leader(&self) -> Option<NodeId> {
        let nodes = self.servers.values().filter_map(|server| server.node.as_ref());
        let leaders = nodes.filter(|node| node.role() == RoleKind::Leader);
        leaders.max_by_key(|node| node.term()).map(Node::id)
    }

    fn send(&mut self, from: NodeId, outgoing: Vec<Outgoing>) {
        self.network.extend(outgoing.into_iter().map(|o| (from, o.to, o.message)));
    }

    /// Carries out one `Ready` as the runtime does; may crash at each point of it.
    fn settle(&mut self, id: NodeId, chance: &mut Chance, crash_one_in: usize) -> bool {
        let now = self.now;
        let server = self.servers.get_mut(&id).unwrap();
        let Some(node) = &mut server.node else { return false };
        if node.role() != RoleKind::Leader || node.transferring().is_some() {
            server.lease = Lease::default();
        }
        let Some(mut ready) = node.ready() else { return false };
        let crash_at = if chance.one_in(crash_one_in) { 1 + chance.below(5) } else { 0 };
        for note in &ready.notes {
            if let Note::BecameLeader { old_lease_left_ms, .. } = note {
                let starts = now + u64::from(*old_lease_left_ms);
                server.lease = Lease { starts, ..Lease::default() };
            }
            if let Note::Contradiction { .. } | Note::ForgotEntries { .. } = note {
                panic!("seed {}: {note:?}", self.seed);
            }
        }
        server.lease.sent.entry(node.current_round()).or_insert(now);
        let mut messages = std::mem::take(&mut ready.messages);
        fill(&mut messages, &server.disk, 1 + chance.below(200));
        self.send(id, messages);
        if crash_at == 1 {
            return self.crash(id);
        }
        if let (Some((meta, data)), 5) = (&ready.snapshot, crash_at) {
            // Between the snapshot's file and the log's new beginning.
            self.servers.get_mut(&id).unwrap().disk.store_snapshot(meta, data);
            return self.crash(id);
        }
        self.store(id, &ready);
        if crash_at == 2 {
            return self.crash(id);
        }
        let stored = Durable::attest();
        let promises = ready.promises(&stored);
        self.send(id, promises);
        if crash_at == 3 {
            return self.crash(id);
        }
        self.apply(id, &ready);
        let server = self.servers.get_mut(&id).unwrap();
        let node = server.node.as_mut().unwrap();
        node.advance(stored);
        if node.role() == RoleKind::Leader && node.transferring().is_none() {
            let lease_ms = u64::from(node.lease_ms());
            if let Some(sent) = server.lease.sent.get(&node.confirmed_round()) {
                server.lease.expires = server.lease.expires.max(sent + lease_ms);
                self.leases += 1;
            }
        }
        if crash_at == 4 {
            self.crash(id);
        }
        true
    }

    fn store(&mut self, id: NodeId, ready: &Ready) {
        let server = self.servers.get_mut(&id).unwrap();
        if let Some((meta, data)) = &ready.snapshot {
            assert!(ready.must_sync && ready.hard_state.is_some());
            server.disk.store_snapshot(meta, data);
            server.disk.begin_behind_snapshot();
            assert_eq!(server.disk.last(), meta.last, "seed {}", self.seed);
        }
        assert!(ready.must_sync || ready.entries.is_empty());
        for entry in &ready.entries {
            server.disk.append(std::slice::from_ref(entry));
            let before = match server.disk.entry(entry.id.index.0 - 1) {
                Some(before) => before.id,
                None => server.disk.base,
            };
            // Log matching: the same name is the same entry after the same entry.
            let seen = self.stored.entry(entry.id).or_insert_with(|| (entry.clone(), before));
            assert_eq!(*seen, (entry.clone(), before), "seed {}: log matching", self.seed);
        }
        if let Some(hard_state) = ready.hard_state {
            assert!(hard_state.term >= server.disk.hard_state.term);
            assert!(hard_state.commit <= server.disk.last().index);
            server.disk.hard_state = hard_state;
        }
        if ready.must_sync {
            server.synced = server.disk.hard_state;
        }
        self.check_committed(id, server_commit(&self.servers[&id]));
    }

    /// State machine safety: what one node knows to be committed, all others commit.
    fn check_committed(&mut self, id: NodeId, commit: u64) {
        let disk = &self.servers[&id].disk;
        let known = (self.committed.len() as u64).min(commit);
        // The end is enough, since log matching holds.
        let ours = if known == disk.base.index.0 {
            disk.base
        } else {
            disk.entry(known).map_or(EntryId::default(), |entry| entry.id)
        };
        if known > 0 && known >= disk.base.index.0 && self.committed[known as usize - 1].id != ours
        {
            let theirs = describe_entry(&self.committed[known as usize - 1]);
            self.fail(&format!("node {id} committed {ours:?} where {theirs} was committed"));
        }
        for index in known + 1..=commit {
            let Some(entry) = self.servers[&id].disk.entry(index).cloned() else {
                self.fail(&format!("node {id} committed {index}, which nobody had committed"))
            };
            self.committed.push(entry);
        }
    }

    fn apply(&mut self, id: NodeId, ready: &Ready) {
        let server = self.servers.get_mut(&id).unwrap();
        if let Some((meta, data)) = &ready.snapshot {
            server.state = disk::decode(data);
            self.installed += 1;
            self.check_state(id);
            self.check_snapshot(meta);
        }
        let server = self.servers.get_mut(&id).unwrap();
        for entry in &ready.committed {
            let applied = server.state.len() as u64 + 1;
            assert_eq!(entry.id.index.0, applied, "seed {}: applied out of order", self.seed);
            assert_eq!(server.disk.entry(applied), Some(entry), "applied, not stored");
            server.state.push(entry.id);
        }
        for read in &ready.reads {
            let asked = server.reads.remove(&read.token).expect("a read nobody asked for");
            if let Some(index) = read.index {
                assert!(index.0 >= asked, "seed {}: a stale read", self.seed);
                self.reads += 1;
            }
        }
        let applied = server.state.len() as u64;
        self.check_committed(id, applied);
    }

    /// Every state machine holds the same up to where it is.
    fn check_state(&self, id: NodeId) {
        let state = &self.servers[&id].state;
        let committed = self.committed.iter().map(|entry| &entry.id);
        if state.len() > self.committed.len() || !state.iter().eq(committed.take(state.len())) {
            self.fail(&format!("node {id} has another state than was committed"));
        }
    }

    /// A snapshot has in it the membership in force where it ends.
    fn check_snapshot(&self, meta: &SnapshotMeta) {
        let before = self.committed[..meta.last.index.0 as usize].iter().rev();
        let in_force = before.filter_map(|entry| match &entry.payload {
            Payload::Membership { membership, .. } => Some(membership),
            _ => None,
        });
        if in_force.take(1).next() != Some(&meta.membership) {
            self.fail(&format!("a snapshot with another membership: {meta:?}"));
        }
    }

    /// Begins a snapshot, or makes the one begun durable and drops what it stands for.
    fn compact(&mut self, id: NodeId, chance: &mut Chance) {
        let server = self.servers.get_mut(&id).unwrap();
        let Some(node) = &mut server.node else { return };
        let Some((meta, data)) = server.writing.take() else {
            // Not always of everything that is applied.
            let applied = server.state.len().saturating_sub(chance.below(4));
            if let Some((last, membership)) = node.snapshot_point(LogIndex(applied as u64)) {
                let (meta, data) = describe_state(&server.state[..applied], membership);
                assert_eq!(meta.last, last);
                server.writing = Some((meta, data));
            }
            return;
        };
        self.compactions += 1;
        server.disk.store_snapshot(&meta, &data);
        if chance.one_in(10) {
            self.crash(id);
        } else {
            let base = node.compact(meta.clone(), chance.below(8) as u64);
            // Whole segments go: the disk may keep more.
            if let Some(base) = base.filter(|_| chance.one_in(2)) {
                server.disk.compact(base);
            }
        }
        self.check_snapshot(&meta);
    }

    fn crash(&mut self, id: NodeId) -> bool {
        let server = self.servers.get_mut(&id).unwrap();
        server.node = None;
        server.disk.hard_state = server.synced;
        server.reads.clear();
        server.writing = None;
        true
    }

    fn restart(&mut self, id: NodeId, seed: u64) {
        let server = self.servers.get_mut(&id).unwrap();
        if server.node.is_some() {
            return;
        }
        let restored = server.disk.recover();
        server.state = server.disk.state();
        let mut node = Node::new(server.config.clone().unwrap(), restored, seed).unwrap();
        node.set_may_vote(true);
        if server.disk.last() == EntryId::default() && self.founders.contains(&id.get()) {
            // The genesis was lost before it was stored; whoever forms the cluster hands it over
            // again.
            node.bootstrap(genesis(&self.founders, &[])).unwrap();
        }
        server.node = Some(node);
        self.check_state(id);
    }

    fn tick_all(&mut self) {
        self.now += u64::from(TICK_MS);
        for server in self.servers.values_mut() {
            if let Some(node) = &mut server.node {
                node.tick();
            }
        }
    }

    /// Delivers one message, not always the oldest; loses and repeats some.
    fn deliver(&mut self, chance: &mut Chance) {
        if self.network.is_empty() {
            return;
        }
        let at = if chance.one_in(4) { chance.below(self.network.len()) } else { 0 };
        let (from, to, message) =
            if chance.one_in(20) { self.network[at].clone() } else { self.network.remove(at) };
        let cut = self.cut.contains(&from) != self.cut.contains(&to);
        if !cut
            && !chance.one_in(15)
            && let Some(node) = self.node(to)
        {
            node.step(from, message);
        }
    }

    fn disturb(&mut self, chance: &mut Chance) {
        let up = self.up();
        let Some(id) = chance.pick(&up) else { return };
        let all: Vec<NodeId> = self.servers.keys().copied().collect();
        let other = chance.pick(&all).unwrap();
        match chance.below(12) {
            0 if up.len() > 2 || chance.one_in(4) => {
                self.crash(id);
            }
            1..=3 => self.restart(other, self.seed ^ self.now),
            4 => self.cut = all.into_iter().filter(|_| chance.one_in(3)).collect(),
            5 => self.cut.clear(),
            6 => {
                if let Some(leader) = self.leader() {
                    let node = self.node(leader).unwrap();
                    self.handovers += u64::from(node.transfer_leadership(other).is_ok());
                }
            }
            7 => drop(self.node(id).unwrap().force_election()),
            8 => self.node(id).unwrap().leader_refused(other),
            9 => self.node(id).unwrap().peer_unreachable(other),
            _ => self.change(chance, other),
        }
    }

    fn change(&mut self, chance: &mut Chance, other: NodeId) {
        let Some(leader) = self.leader() else { return };
        let node = self.node(leader).unwrap();
        let change = match (node.membership().contains(other), chance.below(3)) {
            (false, _) => MembershipChange::AddLearner(other),
            (true, 0) => MembershipChange::Remove(other),
            (true, _) => MembershipChange::Promote(other),
        };
        self.changes += u64::from(node.propose_membership(change, vec![]).is_ok());
    }

    fn ask(&mut self, chance: &mut Chance) {
        let up = self.up();
        let Some(id) = chance.pick(&up) else { return };
        self.tokens += 1;
        let (token, committed) = (self.tokens, self.committed.len() as u64);
        if chance.one_in(4) {
            if self.node(id).unwrap().read_index(token).is_ok() {
                self.servers.get_mut(&id).unwrap().reads.insert(token, committed);
            }
        } else if let Some(leader) = self.leader() {
            let command = token.to_string().into_bytes();
            // Refused while overloaded or transferring: nothing to check then.
            drop(self.node(leader).unwrap().propose(command));
        }
    }

    /// Election safety, leader completeness, one lease.
    fn check(&mut self) {
        let mut leaders = Vec::new();
        for (id, server) in &self.servers {
            if let Some(node) = &server.node
                && node.role() == RoleKind::Leader
            {
                leaders.push((node.term(), *id));
            }
        }
        for (term, id) in leaders {
            if let Some(before) = self.leaders.insert(term, id) {
                if before != id {
                    self.fail(&format!("nodes {before} and {id} both lead term {term:?}"));
                }
                continue;
            }
            // Just elected: it holds all that was committed in earlier terms.
            let disk = &self.servers[&id].disk;
            let committed = self.committed.iter().rposition(|entry| entry.id.term < term);
            if let Some(last) = committed
                && last as u64 + 1 > disk.base.index.0
                && disk.entry(last as u64 + 1) != Some(&self.committed[last])
            {
                self.fail(&format!("leader {id} lacks {}", describe_entry(&self.committed[last])));
            }
        }
        let now = self.now;
        let holds = |lease: &Lease| lease.starts <= now && now < lease.expires;
        let holders: Vec<NodeId> =
            self.servers.iter().filter(|(_, s)| holds(&s.lease)).map(|(id, _)| *id).collect();
        if holders.len() > 1 {
            self.fail(&format!("nodes {holders:?} hold a lease at once"));
        }
    }

    fn step(&mut self, chance: &mut Chance) {
        match chance.below(100) {
            0..=6 => self.tick_all(),
            7..=54 => self.deliver(chance),
            55..=92 => {
                let up = self.up();
                if let Some(id) = chance.pick(&up) {
                    self.settle(id, chance, 300);
                }
            }
            93..=96 => self.ask(chance),
            97 if chance.one_in(2) => self.disturb(chance),
            98 if chance.one_in(2) => {
                let up = self.up();
                if let Some(id) = chance.pick(&up) {
                    self.compact(id, chance);
                }
            }
            98 => {
                let all: Vec<NodeId> = self.servers.keys().copied().collect();
                let other = chance.pick(&all).unwrap();
                self.change(chance, other);
            }
            _ => {}
        }
        // A queue is bounded; beyond it messages are lost.
        if self.network.len() > 300 {
            let lost = chance.below(self.network.len());
            self.network.remove(lost);
        }
        self.check();
    }

    /// Everything works again: soon there is a leader, and all that take part hold the same.
    fn heal(&mut self, chance: &mut Chance) {
        self.cut.clear();
        for id in self.servers.keys().copied().collect::<Vec<_>>() {
            self.restart(id, self.seed);
        }
        for tick in 0..20 * ELECTION {
            self.tick_all();
            for _ in 0..10_000 {
                for id in self.up() {
                    while self.settle(id, chance, usize::MAX) {}
                }
                self.check();
                if self.network.is_empty() {
                    break;
                }
                let (from, to, message) = self.network.remove(0);
                self.node(to).unwrap().step(from, message);
            }
            let leader = self.leader();
            if tick == 15 * ELECTION
                && let Some(leader) = leader
            {
                drop(self.node(leader).unwrap().propose(b"healed".to_vec()));
            }
        }
        let Some(leader) = self.leader() else {
            for server in self.servers.values() {
                let node = server.node.as_ref().unwrap();
                println!(
                    "node {} {:?} term {} last {:?} commit {} {:?}",
                    node.id(),
                    node.role(),
                    node.term().0,
                    node.last(),
                    node.commit().0,
                    node.membership()
                );
            }
            self.fail("no leader after healing")
        };
        let node = self.node(leader).unwrap();
        let (last, commit, membership) = (node.last(), node.commit(), node.membership().clone());
        assert_eq!(commit, last.index, "seed {}: not everything commits", self.seed);
        for id in membership.voters.iter().chain(&membership.learners) {
            let node = self.node(*id).unwrap();
            assert_eq!((node.last(), node.commit()), (last, commit), "seed {}", self.seed);
            self.check_state(*id);
        }
    }
}

/// What the server's disk says is committed.
fn server_commit(server: &Server) -> u64 {
    server.disk.hard_state.commit.0
}

fn live(seed: u64) -> World {
    let mut chance = Chance(seed);
    let mut world = World::new(seed, &mut chance);
    for _ in 0..STEPS {
        world.step(&mut chance);
    }
    world.heal(&mut chance);
    world
}

#[test]
fn clusters_survive_random_misfortune() {
    let seeds = std::env::var("PGRAFT_SEEDS").ok().and_then(|range| {
        let (from, to) = range.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    let (mut commits, mut terms, mut leases, mut reads, mut changes, mut handovers) =
        (0, 0, 0, 0, 0, 0);
    let (mut compactions, mut installed) = (0, 0);
    for seed in seeds.unwrap_or(0..200) {
        let world = live(seed);
        commits += world.committed.len();
        terms += world.leaders.len();
        leases += world.leases;
        reads += world.reads;
        changes += world.changes;
        handovers += world.handovers;
        compactions += world.compactions;
        installed += world.installed;
    }
    println!(
        "{commits} commits, {terms} leaders, {leases} leases, {reads} reads, {changes} changes, \
         {handovers} handovers, {compactions} compactions, {installed} snapshots installed"
    );
    // A test that nothing happens in proves nothing.
    assert!(commits > 2000 && terms > 200 && leases > 1000 && reads > 100 && changes > 100);
    assert!(compactions > 300 && installed > 60);
}
