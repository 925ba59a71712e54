//! All machines, what connects them, and the queue of what happens next.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use pgraft::cluster::{Address, Answer, Request};
use pgraft::net::{Gate, NetEvent};
use pgraft::raft::{NodeId, RoleKind};
use pgraft::runtime::consensus::{Consensus, Start, hello};
use pgraft::runtime::ticker::TICK_MS;
use pgraft::runtime::{EVENTS_MAX, EVENTS_PER_BATCH, Event};
use pgraft::shmem::{Fence, FenceMode, RoleCode};
use pgraft::storage::Storage;
use pgraft::storage::testing::{Fault, Loss, MemDisk};
use pgraft::wire::{Packet, PgRole, Report};

use crate::auditor::Auditor;
use crate::clients::Clients;
use crate::clock::Clock;
use crate::errands::{Errand, Main};
use crate::hands::{Deed, DiskSpeed, Hands, Outbox, Page};
use crate::host::{Host, Up};
use crate::judge::{Judge, Memory, Place};
use crate::mix::Mix;
use crate::nemesis::Mend;
use crate::net::{Conn, Parcel, Way, host_at};
use crate::people::People;
use crate::postgres::Postgres;
use crate::random::Random;
use crate::run::Stats;
use crate::streaming::Act;
use crate::trace::{Trace, running};

/// Segments of the log are this long, so that there are several.
const SEGMENT_BYTES: u64 = 16 << 10;

/// The node id.
pub fn id(node: u32) -> NodeId {
    NodeId::new(i64::from(node)).expect("a small number")
}

/// Where a node listens.
pub fn address(node: u32) -> Address {
    Address::new("host", 7400 + node as u16).expect("a short name")
}

/// What is going to happen.
#[derive(Debug)]
pub enum What {
    /// A ticker's time is over.
    Tick { host: u32, boot: u64 },
    /// A server takes in what has come.
    Run { host: u32, boot: u64 },
    /// An effect takes place.
    Deed { host: u32, boot: u64, deed: Deed },
    /// A snapshot is written.
    Written { host: u32, boot: u64 },
    /// A server that died in the middle of something is found dead.
    Dies { host: u32, boot: u64 },
    /// An address is dialled.
    Attempt { host: u32, boot: u64, address: Address, attempt: u64 },
    /// It did not answer.
    AttemptFailed { host: u32, boot: u64, address: Address, attempt: u64 },
    /// It answered that nobody listens.
    PortRefused { host: u32, boot: u64, address: Address, attempt: u64, node: Option<NodeId> },
    /// A handshake has to be done by now.
    HandshakeOver { conn: u64 },
    /// Something arrives.
    Arrival { conn: u64, way: Way, parcel: Parcel },
    /// A connection has to have been used by now.
    Silence { conn: u64 },
    /// Something goes wrong.
    Fault,
    /// A server dies, as was planned when it came to where it was.
    Strike { host: u32, bounces: bool },
    /// Something that went wrong is mended.
    Mend(Mend),
    /// The processes of a Postgres server do something.
    Server { host: u32, boot: u64, act: Act },
    /// A worker's main thread does something.
    Errand { host: u32, boot: u64, errand: Errand },
    /// A Postgres answered, or did not.
    Probed { host: u32, boot: u64, address: Address, answers: bool },
    /// Clients commit something.
    Write,
    /// Someone wants something of the cluster.
    Wish,
    /// A client wants something of the store.
    Client,
}

/// One entry of the queue; of two at the same time the one queued first comes first.
struct Next {
    at_ns: u64,
    number: u64,
    what: What,
}

impl PartialEq for Next {
    fn eq(&self, other: &Next) -> bool {
        self.number == other.number
    }
}
impl Eq for Next {}
impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Next) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Next {
    fn cmp(&self, other: &Next) -> std::cmp::Ordering {
        (self.at_ns, self.number).cmp(&(other.at_ns, other.number))
    }
}

/// The world.
pub struct World {
    /// The world's time since its beginning.
    pub now_ns: u64,
    /// What the seed made of it.
    pub mix: Mix,
    /// What was seen to hold.
    pub judge: Judge,
    /// What was seen to hold of commits.
    pub auditor: Auditor,
    /// What happened.
    pub trace: Trace,
    /// How much of it.
    pub stats: Stats,
    pub(crate) random: Random,
    pub(crate) hosts: BTreeMap<u32, Host>,
    pub(crate) conns: BTreeMap<u64, Conn>,
    pub(crate) last_conn: u64,
    pub(crate) blocked: BTreeMap<(u32, u32), u32>,
    pub(crate) people: People,
    pub(crate) clients: Clients,
    /// Whether pages are kept whole, to be looked at.
    keep_views: bool,
    queue: BinaryHeap<Reverse<Next>>,
    queued: u64,
}

impl World {
    /// Nothing but chance and time.
    pub fn new(mix: Mix, random: Random, aloud: bool) -> World {
        World {
            now_ns: 0,
            mix,
            judge: Judge::default(),
            auditor: Auditor::default(),
            trace: Trace::new(aloud),
            stats: Stats::default(),
            random,
            hosts: BTreeMap::new(),
            conns: BTreeMap::new(),
            last_conn: 0,
            blocked: BTreeMap::new(),
            people: People::default(),
            clients: Clients::default(),
            keep_views: false,
            queue: BinaryHeap::new(),
            queued: 0,
        }
    }

    /// A calm world for a test that looks at pages.
    pub fn calm(seed: u64) -> World {
        World { keep_views: true, ..World::new(Mix::calm(), Random::new(seed), false) }
    }

    /// Puts something into the queue.
    pub(crate) fn schedule(&mut self, at_ns: u64, what: What) {
        self.queued += 1;
        self.queue.push(Reverse(Next { at_ns: at_ns.max(self.now_ns), number: self.queued, what }));
    }

    /// Lets everything happen until then.
    pub fn run_until(&mut self, until_ns: u64) {
        while self.queue.peek().is_some_and(|next| next.0.at_ns <= until_ns) {
            self.step();
        }
        self.now_ns = self.now_ns.max(until_ns);
    }

    /// The next thing happens.
    fn step(&mut self) {
        let Some(Reverse(Next { at_ns, number, what })) = self.queue.pop() else { return };
        self.now_ns = at_ns;
        self.trace.steps += 1;
        self.trace.mix(&[at_ns, number]);
        match what {
            What::Tick { host, boot } if self.is_current(host, boot) => self.tick(host),
            What::Run { host, boot } if self.is_current(host, boot) => self.run(host),
            What::Deed { host, boot, deed } if self.is_current(host, boot) => self.done(host, deed),
            What::Written { host, boot } if self.is_current(host, boot) => self.written(host),
            What::Dies { host, boot } if self.is_current(host, boot) => self.dies(host),
            What::Attempt { host, boot, address, attempt } if self.is_current(host, boot) => {
                self.attempt(host, address, attempt);
            }
            What::AttemptFailed { host, boot, address, attempt } if self.is_current(host, boot) => {
                self.attempt_failed(host, address, attempt);
            }
            What::PortRefused { host, boot, address, attempt, node }
                if self.is_current(host, boot) =>
            {
                self.port_refused(host, address, attempt, node);
            }
            What::HandshakeOver { conn } => self.handshake_over(conn),
            What::Arrival { conn, way, parcel } => self.arrive(conn, way, parcel),
            What::Silence { conn } => self.check_silence(conn),
            What::Server { host, boot, act } => self.act(host, boot, act),
            What::Errand { host, boot, errand } if self.is_current(host, boot) => {
                self.errand(host, errand);
            }
            What::Probed { host, boot, address, answers } if self.is_current(host, boot) => {
                self.tell(host, Event::Probed { address, answers });
            }
            What::Write => self.write(),
            What::Fault => self.fault(),
            What::Strike { host, bounces } => self.strike(host, bounces),
            What::Mend(mend) => self.mend(mend),
            What::Wish => self.wish(),
            What::Client => self.client(),
            // Meant for a process that is no more.
            _ => {}
        }
    }

    fn is_current(&self, host: u32, boot: u64) -> bool {
        self.hosts.get(&host).is_some_and(|host| host.boot == boot && host.up.is_some())
    }

    pub(crate) fn up(&self, host: u32) -> Option<&Up> {
        self.hosts.get(&host)?.up.as_ref()
    }

    pub(crate) fn up_mut(&mut self, host: u32) -> Option<&mut Up> {
        self.hosts.get_mut(&host)?.up.as_mut()
    }

    /// Sets a machine up, without starting its server.
    pub fn install(&mut self, node: u32, peers: &[u32]) {
        let skew = self.mix.skew_ppm;
        let rate_ppm = 1_000_000 - skew + self.random.below(2 * skew + 1);
        let clock = Clock { offset_ns: 1_000_000_000 * (1 + self.random.below(1000)), rate_ppm };
        let (least_ns, spread_ns) = self.mix.sync_ns;
        let host = Host {
            node,
            powered: true,
            refusing: false,
            clock,
            disk: MemDisk::new(),
            disk_speed: DiskSpeed { least_ns, spread_ns },
            identity: Host::fresh_identity(node, 1),
            peers: peers.to_vec(),
            election_ms: self.mix.election_ms,
            heartbeat_ms: self.mix.heartbeat_ms,
            snapshot_entries: self.mix.snapshot_entries,
            keep_entries: self.mix.keep_entries,
            integration: self.mix.integration,
            auto_failover: self.mix.auto_failover,
            synchronous: self.mix.synchronous,
            grace_ms: self.mix.grace_ms,
            boot: 0,
            directories: 1,
            page: Page::default(),
            memory: Memory::default(),
            begun: VecDeque::new(),
            pg: Postgres::new((node != 1).then_some(1)),
            up: None,
        };
        self.hosts.insert(node, host);
    }

    /// Starts the server on a machine, which gets power if it has none. `false`: its disk failed.
    pub fn start(&mut self, node: u32) -> bool {
        let now_ns = self.now_ns;
        let seed = self.random.number();
        let keep_views = self.keep_views;
        let host = self.hosts.get_mut(&node).expect("an installed machine");
        host.powered = true;
        if host.up.is_some() {
            return true;
        }
        if host.integration {
            self.start_server(node);
        }
        let host = self.hosts.get_mut(&node).expect("an installed machine");
        running(node, now_ns);
        let opened = Storage::open_with(host.disk.clone(), SEGMENT_BYTES);
        let (storage, recovered) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                assert!(!error.is_damage(), "a sound disk is not refused: {error}");
                return false;
            }
        };
        let own = (host.identity.node, host.identity.directory);
        let found = self.judge.found(&recovered, own);
        let begun = std::mem::take(&mut host.begun);
        self.judge.read_back(own.0, &recovered.entries, begun.iter());
        self.judge.recovered(own, &host.memory, begun.into_iter(), &found);
        host.memory = found;
        host.memory.named |= host.identity.cluster.is_some();
        assert!(
            host.identity.cluster.is_none()
                || !recovered.entries.is_empty()
                || recovered.snapshot.is_some(),
            "what was durable is found again: node {node} has lost its log"
        );
        let (config, identity) = (host.config(), host.identity.clone());
        let pg_port = 5400 + node as u16;
        let gate = Arc::new(Gate::new(hello(&config, &identity, identity.cluster, pg_port)));
        let out = Rc::new(RefCell::new(Outbox::new(now_ns, host.disk_speed, keep_views)));
        let effects = Hands {
            out: out.clone(),
            clock: host.clock,
            storage,
            disk: host.disk.clone(),
            gate: gate.clone(),
            random: Random::new(seed),
            own,
            piece_bytes: self.mix.piece_bytes as usize,
            under_way: host.pg.under_way.clone(),
        };
        let start = Start { effects, config, identity, recovered, pg_port, seed };
        let consensus = Consensus::new(start).expect("a log that was written so");
        host.boot += 1;
        host.up = Some(Up {
            consensus,
            out,
            gate,
            inbox: VecDeque::new(),
            main: Main::default(),
            tick_pending: false,
            run_at: None,
            busy_until_ns: now_ns,
            writing: None,
            paused: false,
            diallers: BTreeMap::new(),
            opened: BTreeMap::new(),
        });
        let (boot, clock) = (host.boot, host.clock);
        self.stats.starts += 1;
        self.trace.line(now_ns, || format!("n{node} starts, process {boot}"));
        let first = self.random.below(clock.span_ns(u64::from(TICK_MS) * 1_000_000));
        self.schedule(now_ns + first, What::Tick { host: node, boot });
        self.plan_run(node);
        true
    }

    /// Something happened to a server.
    pub(crate) fn tell(&mut self, host: u32, event: Event) {
        if let Event::Net(event) = &event {
            self.trace.line(self.now_ns, || net_line(host, event));
        }
        if let Some(up) = self.up_mut(host) {
            up.inbox.push_back(event);
            self.plan_run(host);
        }
    }

    /// A packet came; a full queue drops it.
    pub(crate) fn deliver(&mut self, host: u32, event: NetEvent) {
        let Some(up) = self.up_mut(host) else { return };
        if up.inbox.len() >= EVENTS_MAX {
            self.stats.packets_dropped += 1;
            return;
        }
        self.stats.packets += 1;
        self.tell(host, Event::Net(event));
    }

    /// Sees to it that a server takes in what waits.
    pub(crate) fn plan_run(&mut self, host: u32) {
        let lag = self.random.below(self.mix.lag_ns + 1);
        let now = self.now_ns;
        let Some(found) = self.hosts.get_mut(&host) else { return };
        let boot = found.boot;
        let Some(up) = &mut found.up else { return };
        if up.run_at.is_some() || up.paused {
            return;
        }
        let at = (now + lag).max(up.busy_until_ns);
        up.run_at = Some(at);
        self.schedule(at, What::Run { host, boot });
    }

    /// The ticker: never faster than its machine's clock, at times late, never two in the queue.
    fn tick(&mut self, host: u32) {
        let late = if self.random.chance(20_000) { self.random.below(20_000_000) } else { 0 };
        let now = self.now_ns;
        let found = self.hosts.get_mut(&host).expect("it was asked for");
        let (boot, pause) = (found.boot, found.clock.span_ns(u64::from(TICK_MS) * 1_000_000) + 1);
        let up = found.up.as_mut().expect("it was asked for");
        // A stopped process' ticker is stopped, too; it goes on after the pause.
        if !up.tick_pending && !up.paused {
            up.tick_pending = true;
            self.tell(host, Event::Tick);
        }
        self.schedule(now + pause + late, What::Tick { host, boot });
    }

    /// A server takes in what has come, and carries it out.
    fn run(&mut self, host: u32) {
        let now_ns = self.now_ns;
        let found = self.hosts.get_mut(&host).expect("it was asked for");
        let (boot, speed) = (found.boot, found.disk_speed);
        let up = found.up.as_mut().expect("it was asked for");
        up.run_at = None;
        if up.paused || up.out.borrow().dead {
            return;
        }
        running(host, now_ns);
        {
            let mut out = up.out.borrow_mut();
            (out.cursor_ns, out.began_ns) = (now_ns, now_ns);
            out.disk = speed;
        }
        let batch = up.inbox.len().min(EVENTS_PER_BATCH);
        for event in up.inbox.drain(..batch) {
            if matches!(event, Event::Tick) {
                up.tick_pending = false;
            }
            if !up.consensus.handle(event) {
                break;
            }
        }
        up.consensus.settle();
        if let Some(to) = up.consensus.naming() {
            self.auditor.moves(up.consensus.cluster(), to, &found.pg);
        }
        let mut out = up.out.borrow_mut();
        let deeds = std::mem::take(&mut out.deeds);
        for mut save in out.begun.drain(..) {
            if let Some(meta) = &save.snapshot {
                save.stands_for = self.judge.stands_for(meta);
            }
            found.begun.push_back(save);
        }
        let (cursor, dead) = (out.cursor_ns, out.dead);
        drop(out);
        up.busy_until_ns = cursor;
        let more = !up.inbox.is_empty();
        let settled = (!dead).then_some((cursor, Deed::Settled));
        // What takes place later is queued first: what comes of the rest must not overtake it.
        let mut now = Vec::new();
        for (at, deed) in deeds.into_iter().chain(settled) {
            match at <= now_ns {
                true => now.push(deed),
                false => self.schedule(at, What::Deed { host, boot, deed }),
            }
        }
        for deed in now {
            // One of them may end the process.
            if !self.is_current(host, boot) {
                return;
            }
            self.done(host, deed);
        }
        if dead {
            self.schedule(cursor, What::Dies { host, boot });
        } else if more && self.is_current(host, boot) {
            self.plan_run(host);
        }
    }

    /// An effect takes place.
    fn done(&mut self, host: u32, deed: Deed) {
        let now_ns = self.now_ns;
        match deed {
            Deed::Saved => {
                let found = self.hosts.get_mut(&host).expect("it was asked for");
                let save = found.begun.pop_front().expect("what ends has begun");
                let own = (found.identity.node, found.identity.directory);
                self.judge.saved(own.0, &found.memory, &save);
                found.memory.take(&save, own);
                self.stats.writes += 1;
                self.stats.installed += u64::from(save.snapshot.is_some());
            }
            Deed::Snapshot(writing) => {
                let after = self.random.scaled(1, 3000) * 1_000_000;
                let boot = self.hosts[&host].boot;
                let up = self.up_mut(host).expect("it was asked for");
                up.writing = Some(writing);
                // The judge hears of what was committed when the node comes to rest.
                let at = (now_ns + after).max(up.busy_until_ns + 1);
                self.schedule(at, What::Written { host, boot });
            }
            Deed::Identity(identity) => {
                self.hosts.get_mut(&host).expect("it was asked for").identity = *identity;
            }
            Deed::Dial(address) => self.dial(host, address),
            Deed::HangUp(address) => self.hang_up(host, &address),
            Deed::Retry(address) => self.retry(host, &address),
            Deed::Send(address, packet) => self.sends(host, &address, &packet),
            Deed::Disconnect(node) => self.disconnect(host, node),
            Deed::Publish(page) => self.shows(host, page),
            Deed::Answer(token, answer) => self.answered(host, token, *answer),
            Deed::Fence(fence) => self.shows_fence(host, fence),
            Deed::Probe(address) => self.probe(host, address),
            Deed::Main(message) if self.hosts[&host].integration => {
                self.main_hears(host, *message);
            }
            Deed::Main(_) => {
                let pg_role = Some(if host == 1 { PgRole::Primary } else { PgRole::Standby });
                let wal_lsn = now_ns / 3_000_000_000;
                self.tell(
                    host,
                    Event::Report(Report { pg_role, wal_lsn, timeline: 1, ..Report::default() }),
                );
            }
            Deed::StorageFailed(text) => {
                self.trace.line(now_ns, || format!("n{host} cannot write: {text}"));
                self.stats.writes_failed += 1;
                self.end_worker(host);
                self.mend_later(Mend::Start(host));
            }
            Deed::Settled => self.settled(host),
        }
    }

    /// A snapshot of a node's own is written, or cannot be.
    fn written(&mut self, host: u32) {
        let up = self.up_mut(host).expect("it was asked for");
        let Some(writing) = up.writing.take() else { return };
        let outcome = writing.to.store(&writing.meta, &writing.data);
        let outcome = outcome.map_err(|error| error.to_string());
        self.stats.snapshots += u64::from(outcome.is_ok());
        self.judge.snapshot(id(host), &writing.meta);
        self.tell(host, Event::SnapshotStored(writing.meta, outcome));
    }

    /// A process ends while its snapshot is being written: that may have got anywhere.
    fn cut_writing_short(&mut self, host: u32) {
        let operations = self.random.below(6);
        let found = self.hosts.get_mut(&host).expect("an installed machine");
        let writing = found.up.as_mut().and_then(|up| up.writing.take());
        // What it committed last the judge did not hear from it: then nothing of it is there.
        let committed = self.judge.committed();
        if let Some(writing) = writing.filter(|writing| writing.meta.last.index.0 <= committed) {
            found.disk.fail_after(operations, Fault::Halt);
            // Nobody is left to hear of it.
            let _ = writing.to.store(&writing.meta, &writing.data);
        }
    }

    fn sends(&mut self, host: u32, address: &Address, packet: &Packet) {
        if let Packet::Raft(message) = packet {
            let to = host_at(address);
            self.trace.line(self.now_ns, || format!("n{host} to n{to}: {message:?}"));
            let found = &self.hosts[&host];
            let place = place(found, self.now_ns);
            let up = found.up.as_ref().expect("it was asked for");
            let holds = |node: NodeId, id| {
                self.hosts.get(&node.get()).is_some_and(|host| host.memory.has(id))
            };
            self.judge.sent(&place, to, message, &holds);
            self.judge.told(id(host), up.consensus.raft(), message, &holds);
        }
        self.send_packet(host, address, packet);
    }

    fn shows(&mut self, host: u32, page: Page) {
        let found = self.hosts.get_mut(&host).expect("it was asked for");
        found.page = page;
        let until = match page.role {
            Some(RoleCode::Leader) if page.lease_expires_ns > 0 => {
                found.clock.world_ns(page.lease_expires_ns)
            }
            _ => 0,
        };
        self.judge.lease(id(host), self.now_ns, until);
    }

    fn shows_fence(&mut self, host: u32, fence: Fence) {
        let found = self.hosts.get_mut(&host).expect("it was asked for");
        let Some(up) = found.up.as_ref().filter(|_| found.integration) else { return };
        let (state, pg, clock) = (up.consensus.cluster(), &mut found.pg, found.clock);
        let before = std::mem::replace(&mut pg.fence, fence);
        self.trace.mix(&[fence.mode as u64, fence.from_ns, fence.until_ns]);
        let window = match fence.mode {
            FenceMode::Open => (clock.world_ns(fence.from_ns), clock.world_ns(fence.until_ns)),
            FenceMode::Off if pg.role == Some(PgRole::Primary) => (0, u64::MAX),
            _ => (0, 0),
        };
        self.auditor.fence(host, self.now_ns, window);
        let opens = before.mode != fence.mode || pg.fence_epoch != state.epoch();
        // A worker that starts reads again what it knew.
        pg.fence_epoch = pg.fence_epoch.max(state.epoch());
        if window == (0, 0) {
            return;
        }
        if opens {
            self.trace.line(self.now_ns, || format!("n{host} opens in epoch {}", state.epoch()));
            self.stats.openings += 1;
            self.auditor.opens(host, state.epoch(), id(host), pg);
        }
        let voters = state.members.values().filter(|member| member.voter);
        let others = voters.map(|member| member.id).filter(|node| *node != id(host));
        let others: BTreeSet<NodeId> = others.collect();
        let all = pg.names.needed as usize == others.len().div_ceil(2);
        if all && pg.names.standbys == others && up.main.has_names(pg) {
            self.auditor.waits(host, state);
        }
        if opens {
            self.fence_opened(host);
        }
    }

    fn settled(&mut self, host: u32) {
        let found = &self.hosts[&host];
        let up = found.up.as_ref().expect("it was asked for");
        let (raft, cluster) = (up.consensus.raft(), up.consensus.cluster());
        let summary = [
            u64::from(host),
            raft.term().0,
            raft.role() as u64,
            raft.last().index.0,
            raft.commit().0,
            cluster.applied.0,
        ];
        self.trace.mix(&summary);
        let holds =
            |node: NodeId, id| self.hosts.get(&node.get()).is_some_and(|host| host.memory.has(id));
        let place = place(found, self.now_ns);
        self.judge.settled(&place, raft, cluster, &holds);
        if found.integration {
            self.auditor.applied(self.now_ns, cluster);
        }
    }

    /// A server died on the way.
    fn dies(&mut self, host: u32) {
        let writing = self.up(host).is_some_and(|up| up.out.borrow().die_writing);
        if writing || self.random.coin() {
            self.power_cut(host);
        } else {
            self.kill(host);
        }
        self.mend_later(Mend::Start(host));
    }

    /// Ends the worker and its server; what the kernel has, it keeps.
    pub fn kill(&mut self, host: u32) {
        self.end_worker(host);
        self.end_server(host, false);
    }

    /// Ends the worker; its server goes on.
    pub fn end_worker(&mut self, host: u32) {
        self.cut_writing_short(host);
        let found = self.hosts.get_mut(&host).expect("an installed machine");
        if found.up.take().is_none() {
            return;
        }
        found.boot += 1;
        // A write that was cut short by the process' death, not by the machine's.
        found.disk.mend();
        self.trace.line(self.now_ns, || format!("n{host} is gone"));
        self.process_gone(host, false);
        self.lose_answers(host);
    }

    /// Ends the machine; of what was not synced, chance decides what is left.
    pub fn power_cut(&mut self, host: u32) {
        self.cut_writing_short(host);
        let found = self.hosts.get_mut(&host).expect("an installed machine");
        let unsynced = found.disk.unsynced_bytes() as u64;
        let names = found.disk.unsynced_names() as u64;
        let loss = match self.random.below(4) {
            3 => Loss::Names(self.random.below(names + 1) as usize),
            0 => Loss::Keep(0),
            1 => Loss::Keep(self.random.below(unsynced + 1) as usize),
            _ => Loss::Sectors(self.random.number()),
        };
        found.disk.power_cut(loss);
        found.powered = false;
        found.page = Page::default();
        let was_up = found.up.take().is_some();
        if was_up {
            found.boot += 1;
        }
        self.trace.line(self.now_ns, || format!("n{host} loses power, {loss:?} of {unsynced}"));
        self.process_gone(host, true);
        self.end_server(host, true);
        self.lose_answers(host);
        self.judge.lease(id(host), self.now_ns, 0);
    }

    /// The directory is lost; another one is made.
    pub fn wipe(&mut self, host: u32) {
        let found = self.hosts.get_mut(&host).expect("an installed machine");
        assert!(found.up.is_none(), "a running server's directory is not wiped");
        self.judge.wiped(id(host), &found.memory);
        found.directories += 1;
        found.identity = Host::fresh_identity(host, found.directories);
        found.disk = MemDisk::new();
        found.memory = Memory::default();
        found.begun.clear();
    }

    /// Asks a node; the answer comes to `people`.
    pub(crate) fn request(&mut self, host: u32, request: Request, timeout_ms: u32) -> u64 {
        if let Request::RemoveNode { node, force: true } = request {
            self.auditor.forced.insert(node);
        }
        self.people.last_token += 1;
        let token = self.people.last_token;
        self.trace.line(self.now_ns, || format!("n{host} is asked #{token}: {request:?}"));
        self.tell(host, Event::Request { token, request, timeout_ms });
        token
    }

    fn answered(&mut self, host: u32, token: u64, answer: Answer) {
        self.trace.mix(&[token, u64::from(answer.is_ok())]);
        self.trace.line(self.now_ns, || format!("n{host} answers #{token}: {answer:?}"));
        self.answer_for(host, token, answer);
    }

    /// Whether a machine's directory is not, or not any more, the one that the cluster knows.
    pub(crate) fn is_lost(&self, host: &Host) -> bool {
        let ups = self.hosts.values().filter_map(|host| host.up.as_ref());
        let newest = ups.map(|up| up.consensus.cluster()).max_by_key(|state| state.applied);
        let member = newest.and_then(|state| state.members.get(&host.identity.node));
        let bound = member.and_then(|member| member.directory);
        !host.memory.named || bound.is_some_and(|bound| bound != host.identity.directory)
    }

    /// The node that leads in the newest term, as far as it knows itself.
    pub fn leader(&self) -> Option<u32> {
        let leads = |host: &&Host| {
            let up = host.up.as_ref();
            up.is_some_and(|up| up.consensus.raft().role() == RoleKind::Leader)
        };
        let leaders = self.hosts.values().filter(leads);
        let term = |host: &&Host| host.up.as_ref().map(|up| up.consensus.raft().term());
        leaders.max_by_key(term).map(|host| host.node)
    }

    /// Whether its page says at this moment that it leads.
    pub fn holds_lease(&self, host: u32) -> bool {
        let found = &self.hosts[&host];
        found.page.role == Some(RoleCode::Leader)
            && found.clock.local_ns(self.now_ns) < found.page.lease_expires_ns
    }
}

fn net_line(host: u32, event: &NetEvent) -> String {
    match event {
        NetEvent::Connected { hello, conn, outbound, .. } => {
            let way = if *outbound { "to" } else { "from" };
            format!("n{host} is connected {way} n{} (connection {})", hello.node, conn.0)
        }
        NetEvent::Packet { from, conn, bytes, .. } => {
            format!("n{host} gets {bytes} bytes from n{from} (connection {})", conn.0)
        }
        event => format!("n{host} is told {event:?}"),
    }
}

fn place(host: &Host, now_ns: u64) -> Place<'_> {
    Place {
        node: host.identity.node,
        directory: host.identity.directory,
        now_ns,
        memory: &host.memory,
        leaving: host.up.as_ref().is_some_and(|up| {
            let voters = &up.consensus.raft().membership().voters;
            !voters.contains(&host.identity.node)
        }),
    }
}
