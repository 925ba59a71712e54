//! What a seed is made of. Each seed switches on some of the faults and none of the others, each at
//! its own rate ("swarm testing", Groce et al. 2012): a mix of everything always is always the same
//! mix, and one fault hides what another would bring out.

use crate::random::Random;
use crate::themes::Theme;

/// What goes wrong. The order is that of `Mix::faults`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A server is killed and started again; its disk forgets nothing.
    Kill,
    /// A machine loses power: unsynced bytes are lost, in part or at random.
    PowerCut,
    /// A server dies after so many more effects, inside of a write too.
    DieSoon,
    /// A machine loses power in the middle of its next write.
    DieWriting,
    /// Nothing goes from one node to another.
    CutOneWay,
    /// Two nodes do not reach one another.
    CutPair,
    /// A node reaches nobody.
    Isolate,
    /// Some nodes and the others do not reach one another.
    Split,
    /// A connection breaks.
    CloseConnection,
    /// A node's port refuses callers, and its connections break.
    RefusePort,
    /// A server is stopped for a while; its clock runs.
    Pause,
    /// A disk gets slow.
    SlowDisk,
    /// A write or fsync fails.
    DiskError,
    /// The disk gets full.
    DiskFull,
    /// A directory is lost.
    Wipe,
    /// Timeouts change.
    Reconfigure,
    /// Everyone loses power at once.
    Blackout,
    /// Some servers are killed and started again at once, sooner than anyone loses patience.
    Bounce,
    /// A worker ends and is started again; its server goes on.
    RestartWorker,
    /// All processes of a server are stopped for a while, worker and backends too.
    StopServer,
    /// A standby receives nothing for a while, and keeps its connection.
    StallReceiver,
    /// A standby that receives nothing, as it is to, is killed and started again.
    RestartFrozen,
    /// `synchronous_mode` changes.
    SwitchMode,
    /// The primary dies, and standbys that have most of its WAL are started again at once.
    LoseCopies,
}

/// All of them.
pub const FAULTS: [Fault; 24] = [
    Fault::Kill,
    Fault::PowerCut,
    Fault::DieSoon,
    Fault::DieWriting,
    Fault::CutOneWay,
    Fault::CutPair,
    Fault::Isolate,
    Fault::Split,
    Fault::CloseConnection,
    Fault::RefusePort,
    Fault::Pause,
    Fault::SlowDisk,
    Fault::DiskError,
    Fault::DiskFull,
    Fault::Wipe,
    Fault::Reconfigure,
    Fault::Blackout,
    Fault::Bounce,
    Fault::RestartWorker,
    Fault::StopServer,
    Fault::StallReceiver,
    Fault::RestartFrozen,
    Fault::SwitchMode,
    Fault::LoseCopies,
];

/// What people ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// A node that does not run joins as a learner, which makes an entry.
    AddAbsent,
    /// And leaves.
    RemoveAbsent,
    /// A node that runs joins.
    Add,
    /// A member leaves.
    Remove,
    /// Leadership is handed over.
    Transfer,
    /// An election is forced.
    Force,
    /// A worker is stopped in order: it hands over first.
    Stop,
    /// Automatic failover is paused.
    PauseFailover,
    /// It goes on.
    ResumeFailover,
    /// A server that cannot follow the primary is rewound.
    Rejoin,
}

/// All of them.
pub const WISHES: [Wish; 10] = [
    Wish::AddAbsent,
    Wish::RemoveAbsent,
    Wish::Add,
    Wish::Remove,
    Wish::Transfer,
    Wish::Force,
    Wish::Stop,
    Wish::PauseFailover,
    Wish::ResumeFailover,
    Wish::Rejoin,
];

/// What a seed is made of.
#[derive(Clone, Debug)]
pub struct Mix {
    /// What it has much of.
    pub theme: Theme,
    /// First members.
    pub nodes: u32,
    /// Further machines, that may be added.
    pub spares: u32,
    /// How long things go wrong.
    pub chaos_ns: u64,
    /// `raft_election_timeout_ms`.
    pub election_ms: u32,
    /// `raft_heartbeat_interval_ms`.
    pub heartbeat_ms: u32,
    /// How much faster or slower than the world a clock may run.
    pub skew_ppm: u64,
    /// A packet is on its way at least so long.
    pub latency_ns: u64,
    /// So much more at most.
    pub latency_spread_ns: u64,
    /// In a million, so many packets take up to a second.
    pub delayed_ppm: u64,
    /// In a million, so many are lost, which TCP would not do: Raft must bear it.
    pub lost_ppm: u64,
    /// Arrive twice.
    pub doubled_ppm: u64,
    /// Overtake others.
    pub reordered_ppm: u64,
    /// How long an event may wait before its server looks.
    pub lag_ns: u64,
    /// How long a durable write takes at least, and how much more at most.
    pub sync_ns: (u64, u64),
    /// Packets on the way on one connection, beyond which they are dropped.
    pub queue_max: u32,
    /// From one fault to the next, at most.
    pub fault_every_ns: u64,
    /// By [`FAULTS`], how often each is chosen.
    pub faults: [u64; FAULTS.len()],
    /// How often, in a million, the leader is the one it happens to.
    pub leader_ppm: u64,
    /// How long a fault lasts at most.
    pub lasts_ns: u64,
    /// From one wish to the next, at most.
    pub wish_every_ns: u64,
    /// By [`WISHES`], how often each is chosen.
    pub wishes: [u64; WISHES.len()],
    /// From one question of a client to the next, at most.
    pub ask_every_ns: u64,
    /// Keys in use at once.
    pub keys: u64,
    /// A value is at most so long.
    pub value_bytes: u64,
    /// `raft_snapshot_entries`.
    pub snapshot_entries: u64,
    /// `raft_log_keep_entries`.
    pub keep_entries: u64,
    /// Snapshots are sent in pieces of so many bytes.
    pub piece_bytes: u64,
    /// `postgresql_integration_enabled`.
    pub integration: bool,
    /// `auto_failover_enabled`.
    pub auto_failover: bool,
    /// `synchronous_mode = quorum`, to begin with.
    pub synchronous: bool,
    /// `failover_grace_ms`.
    pub grace_ms: u32,
    /// From one commit to the next, at most.
    pub write_every_ns: u64,
    /// In a million, so many steps of a backend that commits wait up to seconds.
    pub backend_stops_ppm: u64,
    /// A promotion takes at most so long.
    pub promotion_ms: u64,
    /// How long a server takes to recover at least, and at most.
    pub recovery_ms: (u64, u64),
    /// In a million, so many changes of `synchronous_standby_names` take up to seconds.
    pub slow_names_ppm: u64,
    /// So many servers die within seconds after their fence opened.
    pub opened_dies_ppm: u64,
    /// So many are started again right after they said how far they are, frozen.
    pub frozen_dies_ppm: u64,
}

const MS: u64 = 1_000_000;

impl Mix {
    /// A cluster to which nothing happens that the test does not do.
    pub fn calm() -> Mix {
        Mix {
            theme: Theme::Anything,
            nodes: 0,
            spares: 0,
            chaos_ns: 0,
            election_ms: 1000,
            heartbeat_ms: 100,
            skew_ppm: 0,
            latency_ns: MS / 10,
            latency_spread_ns: MS / 5,
            delayed_ppm: 0,
            lost_ppm: 0,
            doubled_ppm: 0,
            reordered_ppm: 0,
            lag_ns: 0,
            sync_ns: (MS / 5, MS / 5),
            queue_max: 256,
            fault_every_ns: 0,
            faults: [0; FAULTS.len()],
            leader_ppm: 0,
            lasts_ns: 0,
            wish_every_ns: 0,
            wishes: [0; WISHES.len()],
            ask_every_ns: 0,
            keys: 1,
            value_bytes: 0,
            snapshot_entries: 10_000,
            keep_entries: 1000,
            piece_bytes: 256 << 10,
            integration: false,
            auto_failover: true,
            synchronous: false,
            grace_ms: 5000,
            write_every_ns: 0,
            backend_stops_ppm: 0,
            promotion_ms: 5,
            recovery_ms: (2, 2000),
            slow_names_ppm: 50_000,
            opened_dies_ppm: 0,
            frozen_dies_ppm: 0,
        }
    }

    /// The mix of a seed, for a cluster of `nodes`.
    pub fn of_seed(random: &mut Random, nodes: u32) -> Mix {
        let heartbeat_ms = 50 * random.between(1, 3) as u32;
        let longest = random.scaled(500, 20_000) * MS;
        let theme = Theme::of_seed(random);
        let mut mix = Mix {
            theme,
            nodes,
            spares: random.below(3) as u32,
            chaos_ns: random.between(20, 60) * 1000 * MS,
            heartbeat_ms,
            election_ms: heartbeat_ms * random.between(3, 10) as u32,
            skew_ppm: random.pick(&[0, 10_000, 49_000, 49_000]),
            latency_ns: random.scaled(50, 5_000) * 1000,
            latency_spread_ns: random.scaled(100, 30_000) * 1000,
            delayed_ppm: sometimes(random, 3, |random| random.scaled(100, 50_000)),
            lost_ppm: sometimes(random, 3, |random| random.scaled(1000, 200_000)),
            doubled_ppm: sometimes(random, 3, |random| random.scaled(1000, 200_000)),
            reordered_ppm: sometimes(random, 3, |random| random.scaled(1000, 300_000)),
            lag_ns: random.scaled(1, 20_000) * 1000,
            sync_ns: (random.scaled(50, 3000) * 1000, random.scaled(50, 10_000) * 1000),
            queue_max: random.scaled(8, 256) as u32,
            fault_every_ns: random.scaled(300, 8_000) * MS,
            faults: [(); FAULTS.len()].map(|()| sometimes(random, 2, |r| r.scaled(1, 30))),
            leader_ppm: random.pick(&[0, 300_000, 700_000]),
            lasts_ns: longest,
            wish_every_ns: random.scaled(50, 3_000) * MS,
            wishes: [(); WISHES.len()].map(|()| sometimes(random, 2, |r| r.scaled(1, 30))),
            ask_every_ns: random.scaled(10, 2_000) * MS,
            keys: random.between(1, 4),
            value_bytes: sometimes(random, 3, |random| random.scaled(10, 4000)),
            snapshot_entries: random.scaled(10, 1000),
            keep_entries: sometimes(random, 2, |random| random.scaled(1, 200)),
            piece_bytes: random.scaled(100, 20_000),
            integration: random.below(6) != 0,
            auto_failover: random.below(15) != 0,
            synchronous: random.coin(),
            grace_ms: random.pick(&[0, 0, 500, 5000]),
            write_every_ns: random.scaled(10, 1_000) * MS,
            backend_stops_ppm: random.pick(&[0, 2_000, 30_000]),
            promotion_ms: random.scaled(10, 5_000),
            recovery_ms: (2, 2000),
            slow_names_ppm: 50_000,
            opened_dies_ppm: sometimes(random, 4, |_| 100_000),
            frozen_dies_ppm: 0,
        };
        theme.shape(&mut mix, random);
        mix
    }
}

/// What `draw` gives, once in `times`; else 0.
fn sometimes(random: &mut Random, times: u64, draw: impl FnOnce(&mut Random) -> u64) -> u64 {
    // Drawn in any case, so that what follows does not depend on it.
    let (chosen, drawn) = (random.below(times) == 0, draw(random));
    if chosen { drawn } else { 0 }
}
