//! One seed, from an empty world to a cluster that has come together again.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use pgraft::cluster::Request;
use pgraft::raft::{Membership, NodeId};

use crate::host::Host;
use crate::mix::Mix;
use crate::random::Random;
use crate::world::{What, World, address, id};

/// After the faults, the cluster has this long to come together: some hundred ticks, the longest
/// pause between two attempts to connect, the silence after which a connection is given up, and
/// what the repair of wiped members takes.
const TOGETHER_NS: u64 = 90_000_000_000;
/// How often it is looked at.
const LOOK_NS: u64 = 250_000_000;

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// How much happened.
        #[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }
        impl Stats {
            /// Adds up.
            pub fn add(&mut self, other: &Stats) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

stats! {
    /// Seeds played.
    seeds,
    /// Steps of the worlds.
    steps,
    /// Things that were made to go wrong, packets aside.
    faults,
    /// Checks that the judge made.
    checks,
    /// The worlds' time.
    world_ns,
    /// Packets delivered.
    packets,
    /// Packets that took very long.
    packets_delayed,
    /// Lost on the way.
    packets_lost,
    /// That arrived twice.
    packets_doubled,
    /// That overtook others.
    packets_reordered,
    /// For which a queue had no room.
    packets_dropped,
    /// Connections given up for their silence.
    connections_silent,
    /// Callers told that nobody listens.
    ports_refused,
    /// Callers told no.
    handshakes_refused,
    /// Durable writes.
    writes,
    /// Snapshots that nodes took.
    snapshots,
    /// Snapshots installed from a leader.
    installed,
    /// Writes that failed.
    writes_failed,
    /// Processes started.
    starts,
    /// Directories lost.
    wipes,
    /// Entries committed.
    committed,
    /// Terms that had a leader.
    terms,
    /// Things that people asked for.
    wishes,
    /// Of those, granted.
    granted,
    /// Refused.
    refused,
    /// Without a known outcome.
    open,
    /// Questions of clients of the store.
    questions,
    /// Of those, answered.
    answers,
    /// Answered with an error.
    answers_failed,
    /// Operations in the histories whose outcome is known.
    known,
    /// Writes in them whose outcome nobody knows.
    unknown,
    /// Servers promoted.
    promotions,
    /// Fences that opened.
    openings,
    /// Commits begun.
    commits_begun,
    /// Of those, acknowledged.
    commits,
    /// Done, and not acknowledged as the lease had ended.
    commits_open,
    /// That the fence did not let pass.
    commits_refused,
    /// Parcels of WAL received.
    wal_received,
    /// Servers rewound.
    rewinds,
    /// Seeds that ended without a quorum of disks, by what was asked for: only safety was checked.
    hopeless,
}

/// What one seed came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How much happened.
    pub stats: Stats,
    /// The hash of all of it.
    pub hash: u64,
}

/// What one seed broke.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What was broken, in words.
    pub what: String,
}

impl Failure {
    /// The check that caught it: what stands before the colon, or where the code asserts it.
    pub fn check(&self) -> &str {
        self.what.split(':').next().unwrap_or("")
    }
}

/// Plays a seed with so many first members. Panics where a promise is broken.
pub fn run(seed: u64, nodes: u32, aloud: bool) -> Outcome {
    let mut random = Random::new(seed);
    let mix = Mix::of_seed(&mut random, nodes);
    if aloud {
        println!("seed {seed}: {mix:#?}");
    }
    let mut world = World::new(mix, random, aloud);
    world.found();
    world.run_until(world.mix.chaos_ns);
    world.heal();
    let mut hopeless = !world.come_together();
    if !hopeless {
        world.read_all();
        world.run_until(world.now_ns + 2_000_000_000);
        hopeless = !world.come_together();
    }
    let checked = world.check_history();
    let mut stats = world.stats;
    stats.seeds = 1;
    stats.steps = world.trace.steps;
    stats.checks = world.judge.checks + world.auditor.checks;
    stats.world_ns = world.now_ns;
    stats.committed = world.judge.committed();
    stats.terms = world.judge.terms();
    stats.known = checked.known as u64;
    stats.unknown = checked.unknown as u64;
    stats.hopeless = u64::from(hopeless);
    Outcome { stats, hash: world.trace.hash() }
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// As [`run`], with a broken promise as a value.
pub fn run_caught(seed: u64, nodes: u32, aloud: bool) -> Result<Outcome, Failure> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // A test that fails by itself is to say so.
            if std::thread::current().name().is_some_and(|name| name.starts_with("seeds")) {
                let text = info.payload_as_str().unwrap_or("no message").to_owned();
                let place = info.location().map(|at| at.file().to_owned()).unwrap_or_default();
                LAST_PANIC.set(match place.contains("simulation") {
                    true => text,
                    false => format!("assertion in {place}: {text}"),
                });
            } else {
                before(info);
            }
        }));
    });
    catch_unwind(AssertUnwindSafe(|| run(seed, nodes, aloud)))
        .map_err(|_| Failure { seed, what: LAST_PANIC.take() })
}

impl World {
    /// The first machines, which name one another, and the spare ones.
    fn found(&mut self) {
        let (nodes, spares) = (self.mix.nodes, self.mix.spares);
        let first: Vec<u32> = (1..=nodes).collect();
        for node in 1..=nodes + spares {
            // A spare one knows whom to ask, and waits to be added.
            self.install(node, &first);
            if node <= nodes {
                self.start(node);
            } else {
                let after = self.random.below(10_000_000_000);
                let start = crate::nemesis::Mend::Start(node);
                self.schedule(2_000_000_000 + after, What::Mend(start));
            }
        }
        self.schedule(self.random.clone().below(5_000_000_000), What::Fault);
        self.schedule(2_000_000_000, What::Wish);
        self.schedule(1_000_000_000, What::Client);
        if self.mix.integration {
            self.auditor.by_hand = !self.mix.auto_failover;
            self.schedule(1_500_000_000, What::Write);
        }
    }

    /// Waits until there is a leader and everyone has what is committed. `false`: the disks that
    /// are left are no quorum, so that there cannot be one.
    fn come_together(&mut self) -> bool {
        let until = self.now_ns + TOGETHER_NS;
        let mut asked_ns = 0;
        while self.now_ns < until {
            self.run_until(self.now_ns + LOOK_NS);
            match self.apart() {
                None => return true,
                Some(_) if self.now_ns >= asked_ns + 3_000_000_000 => {
                    asked_ns = self.now_ns;
                    self.repair();
                }
                Some(_) => {}
            }
        }
        if self.is_hopeless() {
            return false;
        }
        let why = self.apart().unwrap_or_default();
        let seconds = TOGETHER_NS / 1_000_000_000;
        panic!("comes together after the faults: not in {seconds} s: {why}{}", self.overview())
    }

    /// What each node makes of itself, a line each.
    fn overview(&self) -> String {
        let mut lines = String::new();
        for host in self.hosts.values() {
            let Some(up) = &host.up else { continue };
            let (raft, cluster) = (up.consensus.raft(), up.consensus.cluster());
            let voters: Vec<u32> = raft.membership().voters.iter().map(|n| n.get()).collect();
            let line = format!(
                "\n  n{} {:?} in term {}, log {}/{}, committed {}, applied {}, voters {voters:?}, \
                 membership committed: {}, directory on record: {}",
                host.node,
                raft.role(),
                raft.term().0,
                raft.last().term.0,
                raft.last().index.0,
                raft.commit().0,
                cluster.applied.0,
                raft.membership() == raft.committed_membership(),
                host.memory.named,
            );
            lines.push_str(&line);
            if host.integration {
                lines.push_str(&format!(
                    "\n    {:?}; {}, {:?}, {:?}, synchronous: {}",
                    host.pg,
                    up.main.summary(),
                    cluster.primary,
                    raft.leader(),
                    cluster.synchronous,
                ));
            }
        }
        lines
    }

    /// Why the cluster has not come together yet.
    fn apart(&self) -> Option<String> {
        let Some(leader) = self.leader().filter(|leader| self.holds_lease(*leader)) else {
            return Some("nobody holds a lease".to_owned());
        };
        let state = self.hosts[&leader].up.as_ref()?.consensus.cluster();
        if state.applied.0 < self.judge.committed() {
            return Some(format!("the leader applied {:?}", state.applied));
        }
        for host in self.hosts.values() {
            let Some(member) = state.members.get(&host.identity.node) else { continue };
            let Some(up) = &host.up else { return Some(format!("n{} is down", host.node)) };
            if member.directory != Some(host.identity.directory) {
                return Some(format!("n{} was wiped and not added again", host.node));
            }
            if up.consensus.cluster() != state {
                let applied = up.consensus.cluster().applied;
                return Some(format!(
                    "n{} applied {applied:?}, not {:?}",
                    host.node, state.applied
                ));
            }
            if !member.voter {
                return Some(format!("n{} is not a voter yet", host.node));
            }
        }
        if !self.mix.integration {
            return None;
        }
        let members: Vec<NodeId> = state.members.keys().copied().collect();
        let named = state.primary.map(|primary| primary.node.get());
        if state.paused || named != Some(leader) {
            return Some(format!("n{leader} leads, primary is {named:?}, {}", state.paused));
        }
        self.servers_apart(leader, &members)
    }

    /// Removes wiped members and adds them again, as the documentation says; rewinds servers; and
    /// ends a pause.
    fn repair(&mut self) {
        let Some(leader) = self.leader() else { return };
        let all: Vec<u32> = self.hosts.keys().copied().collect();
        if let Some(node) = all.into_iter().find(|&node| self.mix.integration && self.rejoin(node))
        {
            let start = crate::nemesis::Mend::Start(node);
            self.schedule(self.now_ns + 100_000_000, What::Mend(start));
        }
        if self.up(leader).is_some_and(|up| up.consensus.cluster().paused) {
            self.request(leader, Request::SetPaused { paused: false }, 2500);
        }
        let Some(up) = self.up(leader) else { return };
        let members = &up.consensus.cluster().members;
        let wiped = self.hosts.values().find(|host| {
            let member = members.get(&host.identity.node);
            let bound = member.and_then(|member| member.directory);
            bound.is_some_and(|bound| bound != host.identity.directory)
        });
        let lost: Option<u32> = wiped.map(|host| host.node);
        let removed = self.hosts.keys().copied().find(|node| !members.contains_key(&id(*node)));
        if let Some(node) = lost {
            self.request(leader, Request::RemoveNode { node: id(node), force: true }, 2500);
        } else if let Some(node) = removed {
            let request = Request::AddNode { node: id(node), address: address(node) };
            self.request(leader, request, 2500);
        }
    }

    /// Whether some membership that a log goes by has no majority of disks that remember it.
    fn is_hopeless(&self) -> bool {
        let sound: BTreeSet<NodeId> = self
            .hosts
            .values()
            .filter(|host| !self.is_lost(host))
            .map(|host| host.identity.node)
            .collect();
        let lacks = |membership: &Membership| {
            let left = membership.voters.intersection(&sound).count();
            !membership.voters.is_empty() && left * 2 <= membership.voters.len()
        };
        let of = |host: &Host| {
            let raft = host.up.as_ref()?.consensus.raft();
            Some(lacks(raft.membership()) || lacks(raft.committed_membership()))
        };
        self.hosts.values().filter_map(of).any(|lacks| lacks)
    }
}
