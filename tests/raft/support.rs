//! A single node to play with, and a small cluster in memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pgraft::raft::*;

use crate::disk::{Disk, describe_state, fill};

pub const ELECTION: u32 = 10;
pub const HEARTBEAT: u32 = 2;
pub const TICK_MS: u32 = 20;
/// Bytes of a snapshot in one message: two and a half entries of its contents.
pub const PIECE: usize = 40;

pub fn id(node: u32) -> NodeId {
    NodeId::new(i64::from(node)).unwrap()
}

pub fn ids(nodes: &[u32]) -> BTreeSet<NodeId> {
    nodes.iter().map(|node| id(*node)).collect()
}

pub fn at(term: u64, index: u64) -> EntryId {
    EntryId { term: Term(term), index: LogIndex(index) }
}

pub fn entry(term: u64, index: u64) -> Entry {
    Entry { id: at(term, index), payload: Payload::Command(vec![term as u8, index as u8]) }
}

pub fn config(node: u32) -> Config {
    Config {
        id: id(node),
        tick_ms: TICK_MS,
        election_timeout_ticks: ELECTION,
        heartbeat_ticks: HEARTBEAT,
        append_bytes_max: 1 << 16,
        inflight_max: 8,
        proposals_bytes_max: 1 << 20,
    }
}

pub fn genesis(voters: &[u32], learners: &[u32]) -> Entry {
    let membership = Membership { voters: ids(voters), learners: ids(learners) };
    Entry { id: at(1, 1), payload: Payload::Membership { membership, command: Vec::new() } }
}

/// A log: genesis of three voters at 1, then commands of these terms from 2 on.
pub fn log_of(terms: &[u64]) -> Vec<Entry> {
    let rest = terms.iter().zip(2..).map(|(term, index)| entry(*term, index));
    [genesis(&[1, 2, 3], &[])].into_iter().chain(rest).collect()
}

/// A voter with this log, in this term, whose promises from before its restart are over.
pub fn voter(node: u32, term: u64, entries: Vec<Entry>) -> Node {
    let hard_state = HardState { term: Term(term), vote: None, commit: LogIndex(0) };
    let mut node =
        Node::new(config(node), Restored { hard_state, entries, ..Restored::default() }, 1)
            .expect("a good node");
    // Before it may vote it cannot campaign either.
    for _ in 0..ELECTION {
        node.tick();
    }
    node.set_may_vote(true);
    drain(&mut node);
    node
}

/// Node 1 of three, in term 1, with nothing but genesis.
pub fn fresh() -> Node {
    voter(1, 1, log_of(&[]))
}

/// All that a node wants done, done; and what it said.
#[derive(Default, Debug)]
pub struct Said {
    pub messages: Vec<Outgoing>,
    pub promises: Vec<Outgoing>,
    pub committed: Vec<Entry>,
    pub entries: Vec<Entry>,
    pub reads: Vec<ReadReady>,
    pub notes: Vec<Note>,
    pub hard_state: Option<HardState>,
    pub snapshot: Option<(SnapshotMeta, Vec<u8>)>,
}

impl Said {
    /// Everything said to `node`.
    pub fn to(&self, node: u32) -> Vec<Message> {
        let all = self.messages.iter().chain(&self.promises);
        all.filter(|o| o.to == id(node)).map(|o| o.message.clone()).collect()
    }
}

pub fn drain(node: &mut Node) -> Said {
    let mut said = Said::default();
    for _ in 0..100 {
        let Some(mut ready) = node.ready() else { return said };
        let stored = Durable::attest();
        said.promises.extend(ready.promises(&stored));
        said.messages.append(&mut ready.messages);
        said.committed.append(&mut ready.committed);
        said.entries.append(&mut ready.entries);
        said.reads.append(&mut ready.reads);
        said.notes.append(&mut ready.notes);
        said.snapshot = ready.snapshot.take().or(said.snapshot);
        said.hard_state = ready.hard_state.or(said.hard_state);
        node.advance(stored);
    }
    panic!("a node never comes to rest");
}

pub fn step(node: &mut Node, from: u32, term: u64, body: Body) -> Said {
    node.step(id(from), Message { term: Term(term), body });
    drain(node)
}

pub fn append(prev: EntryId, entries: Vec<Entry>, commit: u64) -> Body {
    Body::AppendEntries { prev, entries, commit: LogIndex(commit), round: 1 }
}

pub fn heartbeat(commit: u64) -> Body {
    Body::Heartbeat { commit: LogIndex(commit), round: 1 }
}

pub fn request_vote(last: EntryId) -> Body {
    Body::RequestVote { last, pre_vote: false, transfer: false }
}

pub fn vote(granted: bool) -> Body {
    Body::VoteAnswer { granted, pre_vote: false, lease_left_ms: 0 }
}

pub fn pre_vote_answer(granted: bool) -> Body {
    Body::VoteAnswer { granted, pre_vote: true, lease_left_ms: 0 }
}

pub fn accepted(matched: u64, round: u64) -> Body {
    let result = AppendResult::Accepted { matched: LogIndex(matched) };
    Body::AppendAnswer { round, promise_ms: 180, result }
}

pub fn rejected(prev: u64, hint: EntryId, round: u64) -> Body {
    let result = AppendResult::Rejected { prev: LogIndex(prev), hint };
    Body::AppendAnswer { round, promise_ms: 180, result }
}

/// What the answers to a vote say: (granted, pre_vote).
pub fn votes(messages: &[Message]) -> Vec<(bool, bool)> {
    let vote = |message: &Message| match message.body {
        Body::VoteAnswer { granted, pre_vote, .. } => Some((granted, pre_vote)),
        _ => None,
    };
    messages.iter().filter_map(vote).collect()
}

/// What the answers to appends say.
pub fn results(messages: &[Message]) -> Vec<AppendResult> {
    let result = |message: &Message| match message.body {
        Body::AppendAnswer { result, .. } => Some(result),
        _ => None,
    };
    messages.iter().filter_map(result).collect()
}

/// The appends among these: (prev, entries, commit, round).
pub fn appends(messages: &[Message]) -> Vec<(EntryId, Vec<Entry>, LogIndex, u64)> {
    let append = |message: &Message| match &message.body {
        Body::AppendEntries { prev, entries, commit, round } => {
            Some((*prev, entries.clone(), *commit, *round))
        }
        _ => None,
    };
    messages.iter().filter_map(append).collect()
}

/// Ticks until it asks whether it could win.
pub fn tick_to_pre_vote(node: &mut Node) -> Said {
    let mut said = Said::default();
    for _ in 0..=2 * ELECTION {
        node.tick();
        said = drain(node);
        if node.role() != RoleKind::Follower && node.role() != RoleKind::Learner {
            return said;
        }
    }
    said
}

/// Makes node 1 of three leader of the next term by node 2's votes.
pub fn elect(node: &mut Node) -> Said {
    tick_to_pre_vote(node);
    let next = node.term().0 + 1;
    step(node, 2, next, pre_vote_answer(true));
    assert_eq!(node.role(), RoleKind::Candidate);
    let said = step(node, 2, next, vote(true));
    assert_eq!(node.role(), RoleKind::Leader);
    said
}

/// A leader (node 1 of three, term 2) whose first entry, at 2, is committed by node 2.
pub fn leader() -> Node {
    let mut node = fresh();
    elect(&mut node);
    let round = node.current_round();
    step(&mut node, 2, 2, accepted(2, round));
    assert_eq!(node.commit(), LogIndex(2));
    node
}

/// One server: a node, or the disk of one that is down.
pub struct Server {
    pub node: Option<Node>,
    pub disk: Disk,
    /// What this process applied, one by one.
    pub applied: Vec<Entry>,
    /// The state machine: all that is in it.
    pub state: Vec<EntryId>,
    pub reads: Vec<ReadReady>,
    pub config: Config,
}

/// Servers and what is on the way between them.
#[derive(Default)]
pub struct Cluster {
    pub servers: BTreeMap<NodeId, Server>,
    pub network: VecDeque<(NodeId, NodeId, Message)>,
    /// Links that lose everything, by direction.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    pub trace: Vec<String>,
    pub notes: Vec<(NodeId, Note)>,
}

impl Cluster {
    /// Voters 1 to `size`, bootstrapped, nothing said yet.
    pub fn new(size: u32) -> Cluster {
        let mut cluster = Cluster::default();
        let voters: Vec<u32> = (1..=size).collect();
        for node in 1..=size {
            cluster.add(node, Some(genesis(&voters, &[])));
        }
        cluster
    }

    pub fn add(&mut self, node: u32, genesis: Option<Entry>) {
        self.add_with(config(node), genesis);
    }

    pub fn add_with(&mut self, config: Config, genesis: Option<Entry>) {
        let mut node = Node::new(config.clone(), Restored::default(), 7).unwrap();
        match genesis {
            Some(genesis) => node.bootstrap(genesis).unwrap(),
            None => node.set_may_vote(true),
        }
        let id = node.id();
        let server = Server {
            node: Some(node),
            disk: Disk::default(),
            applied: Vec::new(),
            state: Vec::new(),
            reads: Vec::new(),
            config,
        };
        self.servers.insert(id, server);
        self.settle(id);
    }

    pub fn node(&mut self, node: u32) -> &mut Node {
        self.servers.get_mut(&id(node)).unwrap().node.as_mut().expect("the node is up")
    }

    pub fn up(&self) -> Vec<NodeId> {
        let up = self.servers.iter().filter(|(_, server)| server.node.is_some());
        up.map(|(id, _)| *id).collect()
    }

    /// Carries out every `Ready` of one node.
    pub fn settle(&mut self, at: NodeId) {
        for _ in 0..100 {
            let server = self.servers.get_mut(&at).unwrap();
            let Some(node) = &mut server.node else { return };
            let Some(mut ready) = node.ready() else { return };
            for note in &ready.notes {
                if let Some(text) = describe_note(note) {
                    self.trace.push(format!("{at}: {text}"));
                }
                self.notes.push((at, note.clone()));
            }
            store(server, &ready);
            let stored = Durable::attest();
            let mut outgoing = std::mem::take(&mut ready.messages);
            fill(&mut outgoing, &server.disk, PIECE);
            if let Some((meta, _)) = &ready.snapshot {
                let last = meta.last;
                self.trace.push(format!("{at}: installs {}/{}", last.index.0, last.term.0));
                server.state = server.disk.state();
            }
            outgoing.extend(ready.promises(&stored));
            for entry in &ready.committed {
                self.trace.push(format!("{at}: applies {}", describe_entry(entry)));
            }
            server.state.extend(ready.committed.iter().map(|entry| entry.id));
            server.applied.append(&mut ready.committed);
            for read in &ready.reads {
                let index = read.index.map_or("none".to_owned(), |index| index.0.to_string());
                self.trace.push(format!("{at}: read {} at {index}", read.token));
            }
            server.reads.append(&mut ready.reads);
            server.node.as_mut().unwrap().advance(stored);
            self.network.extend(outgoing.into_iter().map(|o| (at, o.to, o.message)));
        }
        panic!("node {at} never comes to rest");
    }

    pub fn settle_all(&mut self) {
        for node in self.up() {
            self.settle(node);
        }
    }

    /// Delivers the oldest message. `false`: there is none.
    pub fn deliver_one(&mut self) -> bool {
        let Some((from, to, message)) = self.network.pop_front() else { return false };
        let text = describe(&message);
        let lost = self.cut.contains(&(from, to));
        match self.servers.get_mut(&to).and_then(|server| server.node.as_mut()) {
            Some(node) if !lost => {
                self.trace.push(format!("{from} -> {to}: {text}"));
                node.step(from, message);
                self.settle(to);
            }
            _ => self.trace.push(format!("{from} -x {to}: {text}")),
        }
        true
    }

    /// Delivers until nobody has anything to say.
    pub fn stabilize(&mut self) {
        self.settle_all();
        for _ in 0..100_000 {
            if !self.deliver_one() {
                return;
            }
        }
        panic!("the cluster never comes to rest");
    }

    pub fn tick(&mut self, nodes: &[NodeId]) {
        for node in nodes {
            if let Some(node) = self.servers.get_mut(node).and_then(|server| server.node.as_mut()) {
                node.tick();
            }
            self.settle(*node);
        }
    }

    /// Ticks everyone, delivering in between.
    pub fn run(&mut self, ticks: u32) {
        for _ in 0..ticks {
            let up = self.up();
            self.tick(&up);
            self.stabilize();
        }
    }

    /// Lets the node's lease and timer run out and it alone campaign.
    pub fn campaign(&mut self, node: u32) {
        let followers = self.servers.values_mut().filter_map(|server| server.node.as_mut());
        for node in followers.filter(|node| node.role() != RoleKind::Leader) {
            // Who may not vote does not campaign either, but time passes.
            node.set_may_vote(false);
            (0..ELECTION).for_each(|_| node.tick());
            node.set_may_vote(true);
        }
        for _ in 0..=2 * ELECTION {
            if self.node(node).role() != RoleKind::Follower {
                break;
            }
            self.node(node).tick();
            self.settle(id(node));
        }
    }

    /// Makes the node campaign until it wins; stops right then, with its first appends on the way.
    pub fn win(&mut self, node: u32) {
        for _ in 0..10 {
            self.campaign(node);
            while self.leader() != Some(id(node)) && self.deliver_one() {}
            if self.leader() == Some(id(node)) {
                return;
            }
        }
        panic!("node {node} cannot win:\n{}", self.trace.join("\n"));
    }

    /// Leader of the highest term, if any.
    pub fn leader(&self) -> Option<NodeId> {
        let nodes = self.servers.values().filter_map(|server| server.node.as_ref());
        let leaders = nodes.filter(|node| node.role() == RoleKind::Leader);
        leaders.max_by_key(|node| node.term()).map(Node::id)
    }

    pub fn crash(&mut self, node: u32) {
        self.servers.get_mut(&id(node)).unwrap().node = None;
    }

    pub fn restart(&mut self, node: u32) {
        let server = self.servers.get_mut(&id(node)).unwrap();
        let restored = server.disk.recover();
        let mut restarted = Node::new(server.config.clone(), restored, 11).unwrap();
        restarted.set_may_vote(true);
        server.node = Some(restarted);
        server.applied.clear();
        server.state = server.disk.state();
        self.settle(id(node));
    }

    /// Takes a snapshot, and drops what it stands for but the last `keep` entries.
    pub fn snapshot(&mut self, node: u32, keep: u64) {
        let id = id(node);
        let server = self.servers.get_mut(&id).unwrap();
        let applied = server.state.last().expect("something is applied").index;
        let node = server.node.as_mut().expect("the node is up");
        let (last, membership) = node.snapshot_point(applied).expect("a snapshot can be taken");
        let (meta, data) = describe_state(&server.state, membership);
        assert_eq!(meta.last, last);
        server.disk.store_snapshot(&meta, &data);
        let base = node.compact(meta, keep).expect("it is the newest");
        server.disk.compact(base);
        self.settle(id);
    }

    /// Cuts every link between `side` and the others.
    pub fn partition(&mut self, side: &[u32]) {
        for a in self.servers.keys() {
            for b in self.servers.keys() {
                if side.contains(&a.get()) != side.contains(&b.get()) {
                    self.cut.insert((*a, *b));
                }
            }
        }
    }
}

/// Puts what a `Ready` wants stored into the server's disk.
pub fn store(server: &mut Server, ready: &Ready) {
    let disk = &mut server.disk;
    if let Some((meta, data)) = &ready.snapshot {
        assert!(ready.must_sync && ready.hard_state.is_some(), "a snapshot without a sync");
        disk.store_snapshot(meta, data);
        disk.begin_behind_snapshot();
        assert_eq!(disk.last(), meta.last, "it takes the place of everything");
    }
    if !ready.entries.is_empty() {
        assert!(ready.must_sync, "entries without a sync");
    }
    if let Some(hard_state) = ready.hard_state {
        disk.hard_state = hard_state;
    }
    disk.append(&ready.entries);
}

pub fn describe_entry(entry: &Entry) -> String {
    let name = format!("{}/{}", entry.id.index.0, entry.id.term.0);
    match &entry.payload {
        Payload::Empty => format!("{name} empty"),
        Payload::Command(command) => {
            format!("{name} \"{}\"", String::from_utf8_lossy(command))
        }
        Payload::Membership { membership, .. } => {
            let list = |nodes: &BTreeSet<NodeId>| {
                nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(" ")
            };
            let learners = match membership.learners.is_empty() {
                true => String::new(),
                false => format!(" + learners {}", list(&membership.learners)),
            };
            format!("{name} voters {}{learners}", list(&membership.voters))
        }
    }
}

pub fn describe(message: &Message) -> String {
    let id = |id: EntryId| format!("{}/{}", id.index.0, id.term.0);
    let say = match &message.body {
        Body::RequestVote { last, pre_vote, transfer } => {
            let kind = if *pre_vote { "PreVote" } else { "RequestVote" };
            format!("{kind} last {}{}", id(*last), if *transfer { " transfer" } else { "" })
        }
        Body::VoteAnswer { granted, pre_vote, .. } => {
            let kind = if *pre_vote { "PreVoteAnswer" } else { "VoteAnswer" };
            format!("{kind} {}", if *granted { "yes" } else { "no" })
        }
        Body::AppendEntries { prev, entries, commit, .. } => {
            let entries: Vec<String> = entries.iter().map(describe_entry).collect();
            format!("Append after {} [{}] commit {}", id(*prev), entries.join(", "), commit.0)
        }
        Body::AppendAnswer { result: AppendResult::Accepted { matched }, .. } => {
            format!("Accepted {}", matched.0)
        }
        Body::AppendAnswer { result: AppendResult::Rejected { prev, hint }, .. } => {
            format!("Rejected {} hint {}", prev.0, id(*hint))
        }
        Body::Heartbeat { commit, round } => format!("Heartbeat round {round} commit {}", commit.0),
        Body::HeartbeatAnswer { round, .. } => format!("HeartbeatAnswer round {round}"),
        Body::TimeoutNow => "TimeoutNow".to_owned(),
        Body::InstallSnapshot { snapshot, offset, data, .. } => {
            let (last, end) = (id(snapshot.last), offset + data.len() as u64);
            format!("InstallSnapshot {last} bytes {offset}..{end} of {}", snapshot.bytes)
        }
        Body::SnapshotAnswer { last, received, .. } => {
            format!("SnapshotAnswer {} has {received}", id(*last))
        }
        Body::ReadIndex { token } => format!("ReadIndex {token}"),
        Body::ReadIndexAnswer { token, index } => {
            let index = index.map_or("none".to_owned(), |index| index.0.to_string());
            format!("ReadIndexAnswer {token} at {index}")
        }
    };
    format!("t{} {say}", message.term.0)
}

fn describe_note(note: &Note) -> Option<String> {
    Some(match note {
        Note::Campaign { term, pre_vote: true } => format!("asks about term {}", term.0),
        Note::Campaign { term, pre_vote: false } => format!("campaigns in term {}", term.0),
        Note::BecameLeader { term, old_lease_left_ms: 0 } => format!("LEADS term {}", term.0),
        Note::BecameLeader { term, old_lease_left_ms } => {
            format!("LEADS term {}, the old lease may last {old_lease_left_ms} ms", term.0)
        }
        Note::FollowsLeader { term, leader } => format!("follows {leader} in term {}", term.0),
        Note::SteppedDown { term, why } => format!("steps down into term {}: {why}", term.0),
        Note::VoteRefused { candidate, why, .. } => format!("refuses {candidate}: {why}"),
        Note::ForgotEntries { node, acknowledged, holds } => {
            format!("node {node} forgot: acknowledged {}, holds {}", acknowledged.0, holds.0)
        }
        Note::SendsSnapshot { to, last } => {
            format!("sends {to} the snapshot at {}/{}", last.index.0, last.term.0)
        }
        Note::SentSnapshot { to, last } => {
            format!("{to} has the snapshot at {}/{}", last.index.0, last.term.0)
        }
        Note::DamagedSnapshot { leader, .. } => format!("got a damaged snapshot of {leader}"),
        Note::Contradiction { leader, index } => {
            format!("leader {leader} contradicts committed entry {}", index.0)
        }
    })
}
