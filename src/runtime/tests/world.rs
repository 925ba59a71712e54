//! The clock, the network and the disks of a whole cluster.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::failover::Puppet;
use super::{address, id};
use crate::cluster::{Address, Answer, Request, Uuid};
use crate::config::Config;
use crate::net::{ConnId, Gate, NetEvent};
use crate::raft::{
    Body, Durable, Entry, EntryId, HardState, LogIndex, Message, NodeId, SnapshotMeta,
};
use crate::runtime::consensus::{Consensus, Start, hello};
use crate::runtime::effects::Effects;
use crate::runtime::event::{Event, ToMain};
use crate::runtime::ticker::TICK_MS;
use crate::shmem::{Core, Counter, Fence, Histogram, PeerCounters, RoleCode, View};
use crate::storage::testing::{Loss, MemDisk};
use crate::storage::{Identity, Snapshots, Storage, StorageError};
use crate::wire::{self, Hello, Packet, Refusal};

/// What one node asked of the world since it was looked at last.
#[derive(Default)]
struct Asked {
    dialled: BTreeSet<Address>,
    hung_up: Vec<Address>,
    retried: Vec<Address>,
    sent: Vec<(Address, Packet)>,
    disconnected: Vec<NodeId>,
    answers: BTreeMap<u64, Answer>,
    view: View,
    identity: Option<Identity>,
    /// What was counted.
    counted: BTreeMap<usize, u64>,
    /// Entries whose time to their commit was taken.
    timed_commits: u64,
    /// For main, answers aside.
    main: Vec<ToMain>,
    /// The fence as the page shows it.
    fence: Fence,
    /// Whose Postgres was asked for.
    probed: Vec<Address>,
    /// Backends in the middle of a commit.
    commits: u32,
    /// A snapshot that is being written beside.
    storing: Option<(Snapshots<MemDisk>, SnapshotMeta, Vec<u8>)>,
    /// So many effects more take place, then the node has crashed.
    effects_left: Option<u32>,
}

/// One node's hands.
struct Hands {
    now_ns: Rc<RefCell<u64>>,
    asked: Rc<RefCell<Asked>>,
    storage: Storage<MemDisk>,
    gate: Rc<Gate>,
    seed: u64,
    /// Its disk holds an entry.
    formed: bool,
}

impl Hands {
    /// Whether the node is still alive to do this.
    fn alive(&self) -> bool {
        match &mut self.asked.borrow_mut().effects_left {
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }

    fn act(&self, act: impl FnOnce(&mut Asked)) {
        if self.alive() {
            act(&mut self.asked.borrow_mut());
        }
    }
}

/// What may make another node leader: by then this one's lease must have ended for every reader.
fn lets_another_lead(body: &Body) -> bool {
    matches!(body, Body::TimeoutNow | Body::VoteAnswer { granted: true, pre_vote: false, .. })
}

fn dead() -> StorageError {
    StorageError::Failed("crashed".to_owned())
}

impl Effects for Hands {
    fn now_ns(&self) -> u64 {
        *self.now_ns.borrow()
    }
    fn unix_us(&self) -> i64 {
        self.now_ns() as i64 / 1000
    }
    fn random_bytes(&mut self) -> [u8; 16] {
        self.seed = self.seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (u128::from(self.seed) << 64 | u128::from(self.now_ns())).to_be_bytes()
    }
    fn save(
        &mut self,
        hard_state: Option<&HardState>,
        entries: &[Entry],
        must_sync: bool,
    ) -> Result<Durable, StorageError> {
        if !self.alive() {
            return Err(dead());
        }
        let durable = self.storage.save(hard_state, entries, must_sync)?;
        self.formed |= !entries.is_empty();
        Ok(durable)
    }
    fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        data: &[u8],
        hard_state: Option<&HardState>,
    ) -> Result<Durable, StorageError> {
        if self.alive() { self.storage.install(meta, data, hard_state) } else { Err(dead()) }
    }
    fn store_snapshot(&mut self, meta: SnapshotMeta, data: Vec<u8>) -> Result<(), String> {
        let snapshots = self.storage.snapshots();
        self.act(|asked| {
            assert!(asked.storing.is_none(), "two snapshots at once");
            asked.storing = Some((snapshots, meta, data));
        });
        Ok(())
    }
    fn read_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        // Small pieces, so that a transfer has many.
        self.storage.snapshots().read(meta, offset, bytes_max.min(100))
    }
    fn compact(&mut self, base: EntryId) -> Result<(), StorageError> {
        if self.alive() { self.storage.compact(base) } else { Err(dead()) }
    }
    fn log_bytes(&self) -> u64 {
        self.storage.bytes()
    }
    fn store_identity(&mut self, identity: &Identity) -> Result<(), StorageError> {
        self.act(|asked| asked.identity = Some(identity.clone()));
        Ok(())
    }
    fn dial(&mut self, address: &Address) {
        self.act(|asked| _ = asked.dialled.insert(address.clone()));
    }
    fn hang_up(&mut self, address: &Address) {
        self.act(|asked| {
            asked.dialled.remove(address);
            asked.hung_up.push(address.clone());
        });
    }
    fn retry_now(&mut self, address: &Address) {
        self.act(|asked| asked.retried.push(address.clone()));
    }
    fn send(&mut self, address: &Address, packet: Packet) -> bool {
        if let Packet::Raft(message) = &packet
            && lets_another_lead(&message.body)
        {
            let view = &self.asked.borrow().view;
            let holds = view.role == RoleCode::Leader && self.now_ns() < view.lease_expires_ns;
            assert!(!holds, "the page still shows a lease when {message:?} is said");
        }
        let genesis = matches!(packet, Packet::Genesis(_));
        assert!(self.formed || !genesis, "a genesis entry is handed out before it is on disk");
        self.act(|asked| asked.sent.push((address.clone(), packet)));
        true
    }
    fn update_gate(
        &mut self,
        hello: Hello,
        directories: BTreeMap<NodeId, Option<Uuid>>,
        removed: BTreeSet<NodeId>,
    ) {
        self.gate.update(hello, directories, removed);
    }
    fn disconnect(&mut self, node: NodeId) {
        self.act(|asked| asked.disconnected.push(node));
    }
    fn peer_counters(&self, _node: NodeId, round_trip_us: u64) -> PeerCounters {
        PeerCounters { round_trip_us, ..PeerCounters::default() }
    }
    fn publish(&mut self, view: &View) {
        self.act(|asked| asked.view = view.clone());
    }
    fn publish_core(&mut self, core: &Core) {
        self.act(|asked| asked.view = core.into_view(std::mem::take(&mut asked.view)));
    }
    fn publish_fence(&mut self, fence: &Fence, _primary_id: u32) {
        self.asked.borrow_mut().fence = *fence;
    }
    fn commits_under_way(&self) -> u32 {
        self.asked.borrow().commits
    }
    fn probe(&mut self, address: &Address) {
        self.act(|asked| asked.probed.push(address.clone()));
    }
    fn beat(&mut self, _now_ns: u64) {}
    fn count(&mut self, counter: Counter, by: u64) {
        self.act(|asked| *asked.counted.entry(counter as usize).or_default() += by);
    }
    fn observe(&mut self, what: Histogram, _took_ns: u64, times: u64) {
        assert_eq!(what, Histogram::Commit, "the others are measured by the real hands");
        self.act(|asked| asked.timed_commits += times);
    }
    fn gauge(&mut self, _gauge: Counter, _value: u64) {}
    fn to_main(&mut self, message: ToMain) {
        self.act(|asked| match message {
            ToMain::Answer { token, answer } => _ = asked.answers.insert(token, answer),
            message => asked.main.push(message),
        });
    }
}

/// Small, so that there are many.
const SEGMENT_BYTES: u64 = 256;

/// A server that is up.
struct Up {
    consensus: Consensus<Hands>,
    asked: Rc<RefCell<Asked>>,
    gate: Rc<Gate>,
}

/// One server; its disk survives it.
struct Server {
    identity: Identity,
    disk: MemDisk,
    up: Option<Up>,
    /// What the worker's main thread and Postgres would be.
    postgres: Puppet,
}

/// A connection: who dialled, where, and whom it reached.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Link {
    from: i64,
    address: Address,
    to: i64,
    conn: u64,
}

/// All servers, and what connects them.
pub struct World {
    now_ns: Rc<RefCell<u64>>,
    random: u64,
    servers: BTreeMap<i64, Server>,
    links: BTreeSet<Link>,
    cut: BTreeSet<(i64, i64)>,
    last_conn: u64,
    last_token: u64,
    directories: u8,
    /// Whose server a probe finds dead or alive.
    pub lost: Option<i64>,
    puppets: BTreeMap<i64, Puppet>,
    /// Whether who boots next moves the primary's role.
    pub integration: bool,
    /// More lines for the configuration of who boots next.
    pub settings: &'static str,
    /// Why snapshots cannot be written.
    pub no_snapshots: Option<&'static str>,
    /// Who sent whom away.
    pub disconnects: Vec<(i64, i64)>,
    /// So many pieces of snapshots more arrive; those after them are lost.
    pub pieces_left: usize,
    /// The pieces that arrived: from whom to whom, and where in the snapshot.
    pub pieces: Vec<(i64, i64, u64)>,
    /// Requests and their answers come a second time, later. Requests only as long as the
    /// connection stands; an answer may be to what was asked on a former one.
    pub repeats: bool,
    late: Vec<(Link, Packet)>,
    kept: Vec<(Link, Packet)>,
    /// What was ever applied at an index.
    history: BTreeMap<LogIndex, EntryId>,
    /// All that a node hears within a tick is carried out at once, at the end of the tick.
    pub batches: bool,
}

impl World {
    pub fn new(seed: u64) -> World {
        World {
            now_ns: Rc::new(RefCell::new(1_000_000_000_000)),
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            servers: BTreeMap::new(),
            links: BTreeSet::new(),
            cut: BTreeSet::new(),
            last_conn: 0,
            last_token: 0,
            directories: 0,
            lost: None,
            puppets: BTreeMap::new(),
            integration: false,
            settings: "",
            no_snapshots: None,
            disconnects: Vec::new(),
            pieces_left: usize::MAX,
            pieces: Vec::new(),
            repeats: false,
            late: Vec::new(),
            kept: Vec::new(),
            history: BTreeMap::new(),
            batches: false,
        }
    }

    /// Makes the server of a node that was never started.
    pub(super) fn prepare(&mut self, node: i64, make: impl FnOnce(&mut Puppet)) {
        make(self.puppets.entry(node).or_default());
    }

    pub fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    /// Starts server `node`, with these peers in its configuration.
    pub fn boot(&mut self, node: i64, peers: &[i64]) {
        self.directories += 1;
        let directory = Uuid::from_bytes([self.directories; 16]);
        let server = self.servers.entry(node).or_insert_with(|| Server {
            identity: Identity {
                node: id(node),
                cluster_id: "test".to_owned(),
                directory,
                cluster: None,
                system_identifier: Some(1),
                boots: 0,
                started: true,
            },
            disk: MemDisk::new(),
            up: None,
            postgres: self.puppets.remove(&node).unwrap_or_default(),
        });
        let peers: Vec<String> = peers.iter().map(|peer| address(*peer).to_string()).collect();
        let text = format!(
            "raft_node_id = {node}\nraft_cluster_id = test\nraft_data_dir = /nowhere\n\
             postgresql_integration_enabled = {}\n\
             raft_port = {}\nraft_advertise_address = {}\nraft_peer_addresses = {}\n{}",
            self.integration,
            7400 + node,
            address(node),
            peers.join(","),
            self.settings,
        );
        let config = Config::parse("pgraft.conf".as_ref(), &text).unwrap();
        let identity = server.identity.clone();
        let disk = server.disk.clone();
        let (storage, recovered) = Storage::open_with(disk, SEGMENT_BYTES).unwrap();
        let formed = recovered.snapshot.is_some() || !recovered.entries.is_empty();
        let asked = Rc::new(RefCell::new(Asked::default()));
        let gate = Rc::new(Gate::new(hello(&config, &identity, identity.cluster, 5432)));
        let seed = self.random(u64::MAX);
        let server = self.servers.get_mut(&node).unwrap();
        let effects = Hands {
            now_ns: self.now_ns.clone(),
            asked: asked.clone(),
            storage,
            gate: gate.clone(),
            seed,
            formed,
        };
        let start = Start { effects, config, identity, recovered, pg_port: 5432, seed };
        let consensus = Consensus::new(start).unwrap();
        server.up = Some(Up { consensus, asked, gate });
        self.settle(node);
    }

    /// Ends it as a power cut does: what was not synced is lost, what was not said is not said.
    pub fn crash(&mut self, node: i64) {
        let server = self.servers.get_mut(&node).unwrap();
        server.up = None;
        server.disk.power_cut(Loss::Keep(0));
        let gone: Vec<Link> = self
            .links
            .iter()
            .filter(|link| link.from == node || link.to == node)
            .cloned()
            .collect();
        for link in gone {
            self.close(&link);
        }
    }

    /// Lets `effects` more effects of it take place, then it is dead.
    pub fn crash_after_effects(&mut self, node: i64, effects: u32) {
        let up = self.servers[&node].up.as_ref().unwrap();
        up.asked.borrow_mut().effects_left = Some(effects);
    }

    /// A copy of its log.
    pub fn backup(&self, node: i64) -> Vec<(String, Vec<u8>)> {
        let disk = &self.servers[&node].disk;
        let copy = |name: String| (name.clone(), disk.with_file(&name, |bytes| bytes.clone()));
        disk.names().into_iter().map(copy).collect()
    }

    /// Puts a copy of its log back, while it is down.
    pub fn restore(&mut self, node: i64, backup: &[(String, Vec<u8>)]) {
        let disk = &self.servers[&node].disk;
        for name in disk.names() {
            disk.remove_file(&name);
        }
        for (name, bytes) in backup {
            disk.with_file(name, |file| file.clone_from(bytes));
        }
    }

    /// Its log is as if it had never been written, while it is down; its directory is the same.
    pub fn forget_log(&mut self, node: i64) {
        let server = self.servers.get_mut(&node).unwrap();
        server.disk = MemDisk::new();
        server.identity.cluster = None;
    }

    /// The last byte of its snapshot is another.
    pub fn damage_snapshot(&mut self, node: i64) {
        let disk = &self.servers[&node].disk;
        disk.with_file("snapshot/current", |bytes| *bytes.last_mut().unwrap() ^= 1);
    }

    /// Closes the connections between two; they are made again at the next tick.
    pub fn break_links(&mut self, one: i64, other: i64) {
        let ends = |link: &Link| [(one, other), (other, one)].contains(&(link.from, link.to));
        let gone: Vec<Link> = self.links.iter().filter(|link| ends(link)).cloned().collect();
        for link in gone {
            self.close(&link);
        }
    }

    /// Its directory is lost while it is down.
    pub fn wipe(&mut self, node: i64) {
        self.servers.remove(&node);
    }

    pub fn view(&self, node: i64) -> View {
        self.servers[&node].up.as_ref().unwrap().asked.borrow().view.clone()
    }

    /// The node that leads in the newest term, if a majority of those up could know.
    pub fn leader(&self) -> Option<i64> {
        let up = self.servers.iter().filter(|(_, server)| server.up.is_some());
        let leaders = up.filter(|(node, _)| self.view(**node).role == RoleCode::Leader);
        leaders.max_by_key(|(node, _)| self.view(**node).term).map(|(node, _)| *node)
    }

    /// Whether its page says so at this moment.
    pub fn holds_lease(&self, node: i64) -> bool {
        let view = self.view(node);
        view.role == RoleCode::Leader && *self.now_ns.borrow() < view.lease_expires_ns
    }

    /// The names of all clusters that anyone belongs to.
    pub fn clusters(&self) -> BTreeSet<Uuid> {
        let servers = self.servers.values();
        servers.filter_map(|server| server.identity.cluster).collect()
    }

    /// The cluster that its identity names.
    pub fn cluster_of(&self, node: i64) -> Option<Uuid> {
        self.servers[&node].identity.cluster
    }

    pub fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms / u64::from(TICK_MS) {
            self.tick();
        }
    }

    pub fn run_until_leader(&mut self) {
        for _ in 0..1000 {
            self.tick();
            if self.leader().is_some_and(|leader| self.holds_lease(leader)) {
                return;
            }
        }
        let views: Vec<View> = self.servers.keys().map(|node| self.view(*node)).collect();
        panic!("no leader after 20 s: {views:#?}");
    }

    /// Asks `node` and waits for the answer.
    pub fn ask(&mut self, node: i64, request: Request, timeout_ms: u32) -> Answer {
        let token = self.begin(node, request, timeout_ms);
        self.wait(node, token, timeout_ms)
    }

    /// Asks `node`; the number to ask for the answer with.
    pub fn begin(&mut self, node: i64, request: Request, timeout_ms: u32) -> u64 {
        self.last_token += 1;
        let token = self.last_token;
        self.tell(node, Event::Request { token, request, timeout_ms });
        token
    }

    /// Waits for an answer.
    pub fn wait(&mut self, node: i64, token: u64, timeout_ms: u32) -> Answer {
        for _ in 0..timeout_ms / TICK_MS + 5 {
            if let Some(answer) = self.answer(node, token) {
                return answer;
            }
            self.tick();
        }
        panic!("no answer, not even that there is none");
    }

    /// The answer, if it has come.
    pub fn answer(&self, node: i64, token: u64) -> Option<Answer> {
        let up = self.servers[&node].up.as_ref()?;
        up.asked.borrow_mut().answers.remove(&token)
    }

    pub fn is_up(&self, node: i64) -> bool {
        self.servers[&node].up.is_some()
    }

    /// How often it was started.
    pub fn boots(&self, node: i64) -> u64 {
        self.servers[&node].identity.boots
    }

    /// Crashes, restarts and cuts at random for a while.
    pub fn disturb(&mut self, ms: u64) {
        let peers = [1, 2, 3];
        for _ in 0..ms / 500 {
            self.misfortune(&peers);
            self.run_ms(500);
            self.check_histories();
        }
    }

    /// One of those.
    pub fn misfortune(&mut self, peers: &[i64]) {
        let node = 1 + self.random(3) as i64;
        let other = 1 + self.random(3) as i64;
        match self.random(6) {
            0 if self.servers[&node].up.is_some() => self.crash(node),
            1 => self.cut_off(node, other),
            2 => self.cut.clear(),
            3 if self.servers[&node].up.is_some() => {
                let effects = self.random(40) as u32;
                self.crash_after_effects(node, effects);
            }
            _ if self.servers[&node].up.is_none() => self.boot(node, peers),
            _ => {}
        }
    }

    /// Nothing goes from one to the other any more; the connections stand.
    pub fn cut_off(&mut self, from: i64, to: i64) {
        self.cut.insert((from, to));
    }

    /// Everything comes through again.
    pub fn heal_links(&mut self) {
        self.cut.clear();
    }

    pub fn heal(&mut self) {
        self.heal_links();
        for node in 1..=3 {
            match &self.servers[&node].up {
                Some(up) => up.asked.borrow_mut().effects_left = None,
                None => self.boot(node, &[1, 2, 3]),
            }
        }
    }

    /// That what anyone applied, now or earlier, everyone who got as far applied, too; going by the
    /// logs on disk.
    pub fn check_histories(&mut self) {
        for (node, server) in &self.servers {
            let Some(up) = &server.up else { continue };
            let applied = up.asked.borrow().view.applied;
            let (_, recovered) = Storage::open(server.disk.fork()).unwrap();
            let last = recovered.entries.last().map_or(recovered.base, |entry| entry.id);
            assert!(last.index.0 >= applied, "applied before it was durable");
            for entry in recovered.entries.iter().filter(|entry| entry.id.index.0 <= applied) {
                let known = *self.history.entry(entry.id.index).or_insert(entry.id);
                assert_eq!(known, entry.id, "node {node} applied something else than another");
            }
        }
    }

    /// How far each server that is up has applied.
    pub fn applied(&self) -> BTreeSet<u64> {
        self.servers.keys().map(|node| self.view(*node).applied).collect()
    }

    fn tick(&mut self) {
        *self.now_ns.borrow_mut() += u64::from(TICK_MS) * 1_000_000;
        for (link, packet) in std::mem::take(&mut self.late) {
            match self.random(4) {
                0 => self.say_again(link, packet),
                _ => self.late.push((link, packet)),
            }
        }
        let nodes: Vec<i64> = self.servers.keys().copied().collect();
        for node in nodes {
            if self.servers[&node].up.is_some() {
                self.connect(node);
                self.tell(node, Event::Tick);
                self.store_snapshot(node);
                if self.batches {
                    self.settle(node);
                }
            }
        }
        let holders: Vec<i64> = self
            .servers
            .iter()
            .filter(|(node, server)| server.up.is_some() && self.holds_lease(**node))
            .map(|(node, _)| *node)
            .collect();
        assert!(holders.len() <= 1, "nodes {holders:?} hold a lease at once");
        self.check_fences();
    }

    /// What another thread does.
    fn store_snapshot(&mut self, node: i64) {
        let Some(up) = &self.servers[&node].up else { return };
        let Some((snapshots, meta, data)) = up.asked.borrow_mut().storing.take() else { return };
        let outcome = match self.no_snapshots {
            Some(why) => Err(why.to_owned()),
            None => snapshots.store(&meta, &data).map_err(|error| error.to_string()),
        };
        self.tell(node, Event::SnapshotStored(meta, outcome));
    }

    /// What it has on its disk: the snapshot, and what its log begins behind.
    pub fn on_disk(&self, node: i64) -> (Option<(SnapshotMeta, Vec<u8>)>, EntryId) {
        let (_, recovered) = Storage::open(self.servers[&node].disk.fork()).unwrap();
        (recovered.snapshot, recovered.base)
    }

    /// The last entry in its log.
    pub fn last_on_disk(&self, node: i64) -> LogIndex {
        let (_, recovered) = Storage::open(self.servers[&node].disk.fork()).unwrap();
        recovered.entries.last().map_or(recovered.base, |entry| entry.id).index
    }

    /// The bytes of all its files.
    pub fn disk_bytes(&self, node: i64) -> usize {
        let disk = &self.servers[&node].disk;
        disk.names().iter().map(|name| disk.with_file(name, |bytes| bytes.len())).sum()
    }

    /// What it counted since it was started.
    pub fn counted(&self, node: i64, counter: Counter) -> u64 {
        let Some(up) = &self.servers[&node].up else { return 0 };
        up.asked.borrow().counted.get(&(counter as usize)).copied().unwrap_or(0)
    }

    /// Entries that `node` timed from their storing to their commit.
    pub fn timed_commits(&self, node: i64) -> u64 {
        self.servers[&node].up.as_ref().map_or(0, |up| up.asked.borrow().timed_commits)
    }

    /// Dials what is dialled and not connected.
    fn connect(&mut self, node: i64) {
        let Some(up) = self.servers[&node].up.as_ref() else { return };
        let dialled: Vec<Address> = up.asked.borrow().dialled.iter().cloned().collect();
        for address in dialled {
            if self.links.iter().any(|link| link.from == node && link.address == address) {
                continue;
            }
            self.dial(node, address);
        }
    }

    fn dial(&mut self, node: i64, to: Address) {
        let target = i64::from(to.port()) - 7400;
        let Some(peer) = self.servers.get(&target).and_then(|server| server.up.as_ref()) else {
            return self.tell(node, Event::Net(NetEvent::PortRefused { address: to, node: None }));
        };
        if self.cut.contains(&(node, target)) || self.cut.contains(&(target, node)) {
            return;
        }
        let Some(up) = self.servers[&node].up.as_ref() else { return };
        let (ours, theirs) = (up.gate.hello(Some(&to)), peer.gate.hello(None));
        let refused = match (peer.gate.judge(&ours), up.gate.judge(&theirs)) {
            (Err(refusal), _) => Some((refusal, false)),
            (Ok(()), Err(refusal)) => Some((refusal, true)),
            (Ok(()), Ok(())) => None,
        };
        if let Some((refusal, by_us)) = refused {
            let by_us = by_us && refusal != Refusal::Oneself;
            let event =
                NetEvent::HandshakeRefused { address: Some(to), node: None, refusal, by_us };
            return self.tell(node, Event::Net(event));
        }
        self.last_conn += 1;
        let conn = ConnId(self.last_conn);
        let link = Link { from: node, address: to.clone(), to: target, conn: self.last_conn };
        self.links.insert(link);
        let connected = |hello: Hello, address, outbound| {
            Event::Net(NetEvent::Connected { hello, address, conn, outbound })
        };
        let back = ours.raft_address.clone();
        self.tell(target, connected(ours, back, false));
        self.tell(node, connected(theirs, Some(to), true));
    }

    fn close(&mut self, link: &Link) {
        if !self.links.remove(link) {
            return;
        }
        let (conn, from, to) = (ConnId(link.conn), id(link.from), id(link.to));
        self.tell(link.to, Event::Net(NetEvent::Closed { node: from, conn, outbound: false }));
        self.tell(link.from, Event::Net(NetEvent::Closed { node: to, conn, outbound: true }));
    }

    pub(super) fn tell(&mut self, node: i64, event: Event) {
        if let Some(up) = self.servers.get_mut(&node).and_then(|server| server.up.as_mut()) {
            up.consensus.handle(event);
            if !self.batches {
                self.settle(node);
            }
        }
    }

    /// Its server, whether it is up or not.
    pub(super) fn postgres(&mut self, node: i64) -> &mut Puppet {
        &mut self.servers.get_mut(&node).expect("a server").postgres
    }

    /// All of them, and the fence of those that are up.
    pub(super) fn fences(&self) -> Vec<(i64, Fence)> {
        let up = self.servers.iter().filter_map(|(node, s)| Some((node, s.up.as_ref()?)));
        up.map(|(node, up)| (*node, up.asked.borrow().fence)).collect()
    }

    /// So many backends of it are in the middle of a commit.
    pub(super) fn set_commits(&mut self, node: i64, commits: u32) {
        self.servers[&node].up.as_ref().expect("up").asked.borrow_mut().commits = commits;
    }

    /// What it has applied.
    pub(super) fn cluster(&self, node: i64) -> &crate::cluster::ClusterState {
        self.servers[&node].up.as_ref().expect("up").consensus.cluster()
    }

    /// Its clock.
    pub(super) fn now_ns(&self) -> u64 {
        *self.now_ns.borrow()
    }

    /// Carries out what the node asked for, and what that leads to elsewhere.
    fn settle(&mut self, node: i64) {
        let Some(up) = self.servers.get_mut(&node).and_then(|server| server.up.as_mut()) else {
            return;
        };
        up.consensus.settle();
        let mut asked = up.asked.borrow_mut();
        let sent = std::mem::take(&mut asked.sent);
        let hung_up = std::mem::take(&mut asked.hung_up);
        let retried = std::mem::take(&mut asked.retried);
        let disconnected = std::mem::take(&mut asked.disconnected);
        let identity = asked.identity.take();
        self.disconnects.extend(disconnected.iter().map(|to| (node, i64::from(to.get()))));
        let crashed = asked.effects_left == Some(0);
        let (main, probed) = (std::mem::take(&mut asked.main), std::mem::take(&mut asked.probed));
        drop(asked);
        if let Some(identity) = identity {
            self.servers.get_mut(&node).unwrap().identity = identity;
        }
        for (to, packet) in sent {
            self.deliver(node, &to, &packet);
        }
        self.serve_main(node, main, probed);
        let links: Vec<Link> = self.links.iter().cloned().collect();
        for link in links {
            let own = link.from == node;
            let ended = own && hung_up.contains(&link.address)
                || own && retried.contains(&link.address) && self.is_dead(link.to)
                || link.to == node && disconnected.contains(&id(link.from));
            if ended {
                self.close(&link);
            }
        }
        for to in retried {
            if !self.links.iter().any(|link| link.from == node && link.address == to) {
                self.dial(node, to);
            }
        }
        if crashed {
            self.crash(node);
        }
    }

    fn is_dead(&self, node: i64) -> bool {
        self.servers.get(&node).is_none_or(|server| server.up.is_none())
    }

    /// Through the bytes, as the real network does.
    fn deliver(&mut self, from: i64, to: &Address, packet: &Packet) {
        let link = self.links.iter().find(|link| link.from == from && link.address == *to);
        let Some(link) = link.cloned().filter(|link| !self.cut.contains(&(from, link.to))) else {
            return;
        };
        if let Packet::Raft(message) = packet
            && let Body::InstallSnapshot { offset, .. } = &message.body
        {
            if self.pieces_left == 0 {
                return;
            }
            self.pieces_left -= 1;
            self.pieces.push((from, link.to, *offset));
        }
        let mut bytes = Vec::new();
        wire::encode_packet(packet, &mut bytes);
        let packet = wire::decode_packet(&bytes).expect("what is encoded can be decoded");
        let answers_a_read =
            |message: &Message| matches!(message.body, Body::ReadIndexAnswer { .. });
        let repeated = match &packet {
            Packet::Raft(message) => answers_a_read(message),
            packet => matches!(packet, Packet::Forward { .. } | Packet::Answer { .. }),
        };
        if self.repeats && repeated {
            self.late.push((link.clone(), packet.clone()));
        }
        self.hand_over(&link, packet);
    }

    /// Nothing is said twice from now on; what would have been is kept for later.
    pub fn keep_late(&mut self) {
        self.repeats = false;
        self.kept = std::mem::take(&mut self.late);
    }

    /// Says now what was kept.
    pub fn say_kept(&mut self) {
        for (link, packet) in std::mem::take(&mut self.kept) {
            self.say_again(link, packet);
        }
    }

    fn say_again(&mut self, link: Link, packet: Packet) {
        let (from, to) = (link.from, link.to);
        let link = match self.links.contains(&link) {
            true => Some(link),
            false if matches!(packet, Packet::Forward { .. }) => None,
            false => self.links.iter().find(|now| (now.from, now.to) == (from, to)).cloned(),
        };
        if let Some(link) = link.filter(|_| !self.cut.contains(&(from, to))) {
            self.hand_over(&link, packet);
        }
    }

    fn hand_over(&mut self, link: &Link, packet: Packet) {
        let (from, conn, bytes) = (id(link.from), ConnId(link.conn), 0);
        self.tell(link.to, Event::Net(NetEvent::Packet { from, conn, packet, bytes }));
    }
}
