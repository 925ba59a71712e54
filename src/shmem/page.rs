//! The page that says how this node is doing, for every backend and, mapped by its SysV key, for
//! programs outside PostgreSQL. `include/pgraft_shmem.h` gives the same layout to C.
//!
//! One thread at a time publishes: the consensus thread while it runs, the worker's main thread
//! before and after. Anyone reads, without a lock. `counters` may be added to by anyone.
//!
//! A reader first asks whether the page is fresh (`is_fresh`): what an old page says is history.

use std::mem::{offset_of, size_of};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use super::seqlock::{Sequence, Words};
use super::view::{Core, MemberView, NodeState, PeerCounters, RoleCode, View};
use crate::sys;
use crate::wire::PgRole;

/// The first eight bytes.
pub const MAGIC: u64 = u64::from_ne_bytes(*b"PGRAFT\0\0");
/// Goes up whenever a field moves or changes its meaning.
pub const LAYOUT_VERSION: u32 = 1;
/// How many members the page has room for. Raft is meant for 3 to 7 voters; learners come on top.
pub const MEMBERS_MAX: usize = 32;
/// Room for counters, most of it for later versions.
pub const COUNTERS_MAX: usize = 64;

/// A number that only ever grows while the server runs. Never renumber: the layout names them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Counter {
    /// Campaigns this node began; pre-votes do not count.
    Elections = 0,
    /// Times this node learned of another leader than before.
    LeaderChanges = 1,
    /// Packets sent to all peers.
    MessagesSent = 2,
    /// Packets received from all peers.
    MessagesReceived = 3,
    /// Bytes sent to all peers.
    BytesSent = 4,
    /// Bytes received from all peers.
    BytesReceived = 5,
    /// Heartbeats sent, one for each follower and round.
    HeartbeatsSent = 6,
    /// Batches made durable in the log.
    Fsyncs = 7,
    /// Time spent waiting for the disk, in nanoseconds.
    FsyncNs = 8,
    /// The latest such wait, in nanoseconds. The one number here that may fall.
    FsyncLastNs = 9,
    /// Bytes of log on disk. May fall when a segment is dropped.
    LogBytes = 10,
    /// Connections refused in the handshake.
    HandshakesRefused = 11,
    /// Frames that were no frames; each closed its connection.
    BadFrames = 12,
    /// Connections accepted.
    ConnectionsAccepted = 13,
    /// Connections turned away because there were too many.
    ConnectionsTurnedAway = 14,
    /// Packets that found a full queue inside this node.
    EventsDropped = 15,
    /// Log lines that found the queue to the worker full.
    LogLinesDropped = 16,
    /// Times pgraft_is_healthy() said yes.
    HealthChecksPassed = 17,
    /// Times pgraft_is_healthy() said no.
    HealthChecksFailed = 18,
    /// Answers that came after the query had given up.
    LateAnswers = 19,
    /// SQL requests that reached the worker.
    Requests = 20,
    /// Keys in the store. May fall.
    StoreKeys = 21,
    /// What counts towards kv_max_store_bytes. May fall.
    StoreBytes = 22,
    /// Changes of the store that this server's backends asked for and that had their turn.
    StoreWrites = 23,
    /// Reads of the store that this node answered.
    StoreReads = 24,
    /// Snapshots of the cluster state that this node took.
    SnapshotsTaken = 25,
    /// Snapshots from a leader that took the place of this node's log.
    SnapshotsInstalled = 26,
    /// Snapshots that this node, as leader, sent to the end.
    SnapshotsSent = 27,
    // 28 to 53: see `Histogram`.
    /// Time that entries took to be committed, in nanoseconds, summed up over the entries.
    CommitNs = 54,
}

/// How long something took, each time: a count for each range of durations, among the counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Histogram {
    /// An fsync of the log. The sum is `FsyncNs`.
    Fsync,
    /// On a leader: from the moment it begins to store an entry until that is committed. The sum is
    /// `CommitNs`.
    Commit,
}

impl Histogram {
    /// Where ranges end, in nanoseconds; the last has no end.
    pub const BOUNDS_NS: [u64; 12] = [
        100_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        1_000_000_000,
        5_000_000_000,
    ];
    /// How many ranges there are.
    pub const RANGES: usize = Self::BOUNDS_NS.len() + 1;

    /// The number of its first counter. Never renumber.
    const fn first(self) -> usize {
        match self {
            Histogram::Fsync => 28,
            Histogram::Commit => 41,
        }
    }

    fn sum(self) -> Counter {
        match self {
            Histogram::Fsync => Counter::FsyncNs,
            Histogram::Commit => Counter::CommitNs,
        }
    }
}

const _: () = {
    let behind_fsync = Histogram::Fsync.first() + Histogram::RANGES;
    let behind_commit = Histogram::Commit.first() + Histogram::RANGES;
    assert!(Histogram::Fsync.first() == Counter::SnapshotsSent as usize + 1);
    assert!(Histogram::Commit.first() == behind_fsync);
    assert!(Counter::CommitNs as usize == behind_commit);
};

/// One member. Guarded by the page's `sequence`.
#[repr(C)]
#[derive(Debug, Default)]
struct MemberSlot {
    id: AtomicU32,
    port: AtomicU32,
    voter: AtomicU32,
    /// 0 unknown, 1 no, 2 yes.
    reachable: AtomicU32,
    /// 0 unknown, else a `PgRole`.
    pg_role: AtomicU32,
    /// Bit 0: `last_contact_unix_us` is known; bit 1: `matched` is.
    known: AtomicU32,
    last_contact_unix_us: AtomicU64,
    matched: AtomicU64,
    wal_lsn: AtomicU64,
    counters: [AtomicU64; 8],
    name: Words<8>,
    host: Words<32>,
    pg_address: Words<33>,
}

/// How every version of the page begins.
#[repr(C)]
#[derive(Debug)]
pub(super) struct PageHead {
    magic: AtomicU64,
    layout_version: AtomicU32,
    size: AtomicU32,
    /// Who made the page: for the SysV segment, whose it is. With `creator_start` unmistakable.
    creator_pid: AtomicI32,
    node_id: AtomicU32,
    creator_start: AtomicU64,
}

impl PageHead {
    /// Whether this is the beginning of a page of any version.
    pub(super) fn is_pgraft(&self) -> bool {
        self.magic.load(Ordering::Acquire) == MAGIC
    }

    /// Whether nothing was ever written here.
    pub(super) fn is_blank(&self) -> bool {
        self.magic.load(Ordering::Acquire) == 0 && self.creator_pid.load(Ordering::Relaxed) == 0
    }

    /// Whether this is a page of the layout that this build knows.
    pub(super) fn is_valid(&self) -> bool {
        self.is_pgraft()
            && self.layout_version.load(Ordering::Relaxed) == LAYOUT_VERSION
            && self.size.load(Ordering::Relaxed) as usize == size_of::<StatusPage>()
    }

    /// Who made the page, as pid and start time.
    pub(super) fn creator(&self) -> (i32, u64) {
        (self.creator_pid.load(Ordering::Relaxed), self.creator_start.load(Ordering::Relaxed))
    }
}

/// The page. Nothing but atomics, so that a shared reference to mapped memory is sound.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct StatusPage {
    // The first cache line: what pgraft_is_leader() looks at. Single values, each valid by itself.
    head: PageHead,
    /// When the consensus thread last said that it runs.
    heartbeat_ns: AtomicU64,
    /// How old that may be before the page is history; 0: there never was one.
    stale_after_ns: AtomicU64,
    /// When this node's lease as leader ends; 0: it is not the leader, or holds no lease.
    leader_until_ns: AtomicU64,
    /// The running worker; 0: none.
    worker_pid: AtomicI32,
    debug: AtomicU32,
    // The second line: further single values.
    worker_start_ns: AtomicU64,
    /// A `FenceMode`.
    pub(super) fence: AtomicU32,
    /// The primary by the log's word; 0: none is named.
    pub(super) primary_id: AtomicU32,
    pub(super) writes_from_ns: AtomicU64,
    wal_lsn: AtomicU64,
    pg_role: AtomicU32,
    /// Backends between their look at the fence and the end of their commit. They count themselves.
    pub(super) commits_under_way: AtomicU32,
    pub(super) writes_until_ns: AtomicU64,
    reserved: [AtomicU64; 2],
    // Guarded by `sequence`, to the end but for the counters: they belong together.
    sequence: Sequence,
    state: AtomicU32,
    role: AtomicU32,
    term: AtomicU64,
    leader: AtomicU32,
    has_quorum: AtomicU32,
    lease_start_ns: AtomicU64,
    lease_expires_ns: AtomicU64,
    voters: AtomicU32,
    reachable: AtomicU32,
    last_index: AtomicU64,
    commit: AtomicU64,
    applied: AtomicU64,
    paused: AtomicU32,
    reserved_half: AtomicU32,
    reserved_core: [AtomicU64; 4],
    /// Not guarded: each by itself.
    counters: [AtomicU64; COUNTERS_MAX],
    node_name: Words<8>,
    cluster_id: Words<9>,
    leader_address: Words<33>,
    last_error: Words<64>,
    member_count: AtomicU64,
    members: [MemberSlot; MEMBERS_MAX],
}

/// Field names and offsets, for the C header's test and for the documentation.
pub const LAYOUT: &[(&str, usize)] = &[
    ("magic", offset_of!(StatusPage, head.magic)),
    ("layout_version", offset_of!(StatusPage, head.layout_version)),
    ("size", offset_of!(StatusPage, head.size)),
    ("creator_pid", offset_of!(StatusPage, head.creator_pid)),
    ("node_id", offset_of!(StatusPage, head.node_id)),
    ("creator_start", offset_of!(StatusPage, head.creator_start)),
    ("heartbeat_ns", offset_of!(StatusPage, heartbeat_ns)),
    ("stale_after_ns", offset_of!(StatusPage, stale_after_ns)),
    ("leader_until_ns", offset_of!(StatusPage, leader_until_ns)),
    ("worker_pid", offset_of!(StatusPage, worker_pid)),
    ("debug", offset_of!(StatusPage, debug)),
    ("worker_start_ns", offset_of!(StatusPage, worker_start_ns)),
    ("fence", offset_of!(StatusPage, fence)),
    ("primary_id", offset_of!(StatusPage, primary_id)),
    ("writes_from_ns", offset_of!(StatusPage, writes_from_ns)),
    ("wal_lsn", offset_of!(StatusPage, wal_lsn)),
    ("pg_role", offset_of!(StatusPage, pg_role)),
    ("commits_under_way", offset_of!(StatusPage, commits_under_way)),
    ("writes_until_ns", offset_of!(StatusPage, writes_until_ns)),
    ("sequence", offset_of!(StatusPage, sequence)),
    ("state", offset_of!(StatusPage, state)),
    ("role", offset_of!(StatusPage, role)),
    ("term", offset_of!(StatusPage, term)),
    ("leader", offset_of!(StatusPage, leader)),
    ("has_quorum", offset_of!(StatusPage, has_quorum)),
    ("lease_start_ns", offset_of!(StatusPage, lease_start_ns)),
    ("lease_expires_ns", offset_of!(StatusPage, lease_expires_ns)),
    ("voters", offset_of!(StatusPage, voters)),
    ("reachable", offset_of!(StatusPage, reachable)),
    ("last_index", offset_of!(StatusPage, last_index)),
    ("commit", offset_of!(StatusPage, commit)),
    ("applied", offset_of!(StatusPage, applied)),
    ("paused", offset_of!(StatusPage, paused)),
    ("counters", offset_of!(StatusPage, counters)),
    ("node_name", offset_of!(StatusPage, node_name)),
    ("cluster_id", offset_of!(StatusPage, cluster_id)),
    ("leader_address", offset_of!(StatusPage, leader_address)),
    ("last_error", offset_of!(StatusPage, last_error)),
    ("member_count", offset_of!(StatusPage, member_count)),
    ("members", offset_of!(StatusPage, members)),
    ("sizeof_member", size_of::<MemberSlot>()),
    ("sizeof_page", size_of::<StatusPage>()),
];

// The layout is a promise to other programs: a field that moves needs a new LAYOUT_VERSION.
const _: () = {
    assert!(offset_of!(StatusPage, head.creator_pid) == 16);
    assert!(offset_of!(StatusPage, head.creator_start) == 24);
    assert!(offset_of!(StatusPage, heartbeat_ns) == 32);
    assert!(offset_of!(StatusPage, leader_until_ns) == 48);
    assert!(offset_of!(StatusPage, worker_start_ns) == 64);
    assert!(offset_of!(StatusPage, fence) == 72);
    assert!(offset_of!(StatusPage, writes_from_ns) == 80);
    assert!(offset_of!(StatusPage, writes_until_ns) == 104);
    assert!(offset_of!(StatusPage, sequence) == 128);
    assert!(offset_of!(StatusPage, term) == 144);
    assert!(offset_of!(StatusPage, leader) == 152);
    assert!(offset_of!(StatusPage, lease_start_ns) == 160);
    assert!(offset_of!(StatusPage, voters) == 176);
    assert!(offset_of!(StatusPage, applied) == 200);
    assert!(offset_of!(StatusPage, paused) == 208);
    assert!(offset_of!(StatusPage, counters) == 248);
    assert!(offset_of!(StatusPage, node_name) == 760);
    assert!(offset_of!(StatusPage, cluster_id) == 824);
    assert!(offset_of!(StatusPage, leader_address) == 896);
    assert!(offset_of!(StatusPage, last_error) == 1160);
    assert!(offset_of!(StatusPage, member_count) == 1672);
    assert!(offset_of!(StatusPage, members) == 1680);
    assert!(size_of::<MemberSlot>() == 696);
    assert!(size_of::<StatusPage>() == 24000);
};

impl StatusPage {
    /// Says what the page is and that nothing is known; the memory must be zero or a former page.
    /// The magic comes last, so that whoever sees it sees the rest.
    pub(super) fn init(&self, creator_pid: i32, creator_start: u64) {
        self.head.layout_version.store(LAYOUT_VERSION, Ordering::Relaxed);
        self.head.size.store(size_of::<StatusPage>() as u32, Ordering::Relaxed);
        self.head.creator_pid.store(creator_pid, Ordering::Relaxed);
        self.head.creator_start.store(creator_start, Ordering::Relaxed);
        self.head.magic.store(MAGIC, Ordering::Release);
    }

    /// Whether this is a page of a layout that this build knows.
    pub fn is_valid(&self) -> bool {
        self.head.is_valid()
    }

    /// Who made the page, as pid and start time (`sys::process_start_time`).
    pub fn creator(&self) -> (i32, u64) {
        self.head.creator()
    }

    /// A worker begins: from now on the page is its. `stale_after_ns` is how long its consensus
    /// thread may be silent before readers disbelieve the page; the election timeout fits.
    pub fn open(&self, worker_pid: i32, stale_after_ns: u64) {
        self.leader_until_ns.store(0, Ordering::Relaxed);
        self.heartbeat_ns.store(0, Ordering::Relaxed);
        self.stale_after_ns.store(stale_after_ns, Ordering::Relaxed);
        self.worker_start_ns.store(sys::now_boottime_ns(), Ordering::Relaxed);
        self.worker_pid.store(worker_pid, Ordering::Release);
    }

    /// Changes how old a heartbeat may be (SIGHUP).
    pub fn set_stale_after(&self, stale_after_ns: u64) {
        self.stale_after_ns.store(stale_after_ns, Ordering::Relaxed);
    }

    /// The consensus thread is alive.
    pub fn beat(&self, now_ns: u64) {
        self.heartbeat_ns.store(now_ns, Ordering::Release);
    }

    /// The worker ends: nothing on the page holds any longer. Single stores only, so that it may be
    /// called while a stuck thread still publishes; `open` is what makes the page live again.
    pub fn clear(&self) {
        self.worker_pid.store(0, Ordering::Release);
        self.leader_until_ns.store(0, Ordering::Release);
        self.heartbeat_ns.store(0, Ordering::Release);
    }

    /// Whether the consensus thread gave a sign of life recently enough.
    #[inline]
    pub fn is_fresh(&self, now_ns: u64) -> bool {
        // A heartbeat taken after `now_ns` is as fresh as can be.
        self.worker_pid.load(Ordering::Relaxed) != 0
            && match self.heartbeat_ns.load(Ordering::Acquire) {
                0 => false,
                beat => now_ns.saturating_sub(beat) <= self.stale_after_ns.load(Ordering::Relaxed),
            }
    }

    /// Whether this node is the leader and its lease holds at `now_ns`. No reader can be told yes
    /// after another node has been elected: all that it looks at is one number, the end of the
    /// lease.
    #[inline]
    pub fn is_leader(&self, now_ns: u64) -> bool {
        now_ns < self.leader_until_ns.load(Ordering::Acquire) && self.is_fresh(now_ns)
    }

    /// `is_leader` now. On a node that does not lead it does not even look at the clock.
    #[inline]
    pub fn is_leader_now(&self) -> bool {
        self.leader_until_ns.load(Ordering::Acquire) != 0 && self.is_leader(sys::now_boottime_ns())
    }

    /// Publishes everything. For one thread at a time.
    pub fn publish(&self, view: &View) {
        self.head.node_id.store(view.node_id, Ordering::Relaxed);
        self.pg_role.store(view.pg_role.map_or(0, |role| role as u32), Ordering::Relaxed);
        self.wal_lsn.store(view.wal_lsn, Ordering::Relaxed);
        self.write(&view.core(), || {
            self.node_name.store_text(&view.node_name);
            self.cluster_id.store_text(&view.cluster_id);
            self.leader_address.store_text(&view.leader_address);
            self.last_error.store_text(&view.last_error);
            let count = view.members.len().min(MEMBERS_MAX);
            self.member_count.store(count as u64, Ordering::Relaxed);
            for (slot, member) in self.members.iter().zip(&view.members) {
                slot.store(member);
            }
        });
    }

    /// Publishes what changes most often, and leaves texts and members as they are: for a lease or
    /// an index that moved, not for a new leader. For one thread at a time.
    pub fn publish_core(&self, core: &Core) {
        self.write(core, || {});
    }

    fn write(&self, core: &Core, more: impl FnOnce()) {
        let leader_until_ns = core.leader_until_ns();
        // No more a leader: said first. A leader: said last.
        if leader_until_ns == 0 {
            self.leader_until_ns.store(0, Ordering::Release);
        }
        self.sequence.write(|| {
            self.store_core(core);
            more();
        });
        if leader_until_ns != 0 {
            self.leader_until_ns.store(leader_until_ns, Ordering::Release);
        }
    }

    fn store_core(&self, core: &Core) {
        self.state.store(core.state as u32, Ordering::Relaxed);
        self.role.store(core.role as u32, Ordering::Relaxed);
        self.term.store(core.term, Ordering::Relaxed);
        self.leader.store(core.leader, Ordering::Relaxed);
        self.has_quorum.store(u32::from(core.has_quorum), Ordering::Relaxed);
        self.lease_start_ns.store(core.lease_start_ns, Ordering::Relaxed);
        self.lease_expires_ns.store(core.lease_expires_ns, Ordering::Relaxed);
        self.voters.store(core.voters, Ordering::Relaxed);
        self.reachable.store(core.reachable, Ordering::Relaxed);
        self.last_index.store(core.last_index, Ordering::Relaxed);
        self.commit.store(core.commit, Ordering::Relaxed);
        self.applied.store(core.applied, Ordering::Relaxed);
        self.paused.store(u32::from(core.paused), Ordering::Relaxed);
    }

    fn load_core(&self) -> Core {
        Core {
            state: NodeState::from_code(self.state.load(Ordering::Relaxed)),
            role: RoleCode::from_code(self.role.load(Ordering::Relaxed)),
            term: self.term.load(Ordering::Relaxed),
            leader: self.leader.load(Ordering::Relaxed),
            has_quorum: self.has_quorum.load(Ordering::Relaxed) != 0,
            lease_start_ns: self.lease_start_ns.load(Ordering::Relaxed),
            lease_expires_ns: self.lease_expires_ns.load(Ordering::Relaxed),
            voters: self.voters.load(Ordering::Relaxed),
            reachable: self.reachable.load(Ordering::Relaxed),
            last_index: self.last_index.load(Ordering::Relaxed),
            commit: self.commit.load(Ordering::Relaxed),
            applied: self.applied.load(Ordering::Relaxed),
            paused: self.paused.load(Ordering::Relaxed) != 0,
        }
    }

    /// The numbers, all of one moment. `None` only if a writer died in the middle, or was held up
    /// there for 2 ms. Ask `is_fresh` before believing them.
    pub fn core(&self) -> Option<Core> {
        self.sequence.read(|| self.load_core())
    }

    /// Everything, all of one moment but for `pg_role` and `wal_lsn`. As `core`.
    pub fn view(&self) -> Option<View> {
        self.sequence.read(|| {
            let count = self.member_count.load(Ordering::Relaxed) as usize;
            let members = self.members.iter().take(count).map(MemberSlot::load).collect();
            self.load_core().into_view(View {
                node_id: self.node_id(),
                node_name: self.node_name.load_text(),
                cluster_id: self.cluster_id.load_text(),
                leader_address: self.leader_address.load_text(),
                last_error: self.last_error.load_text(),
                pg_role: role_of_code(self.pg_role.load(Ordering::Relaxed)),
                wal_lsn: self.wal_lsn.load(Ordering::Relaxed),
                members,
                ..View::default()
            })
        })
    }

    /// This node's id; 0 before the first `publish`.
    pub fn node_id(&self) -> u32 {
        self.head.node_id.load(Ordering::Relaxed)
    }

    /// The latest term published, without waiting for anything.
    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Relaxed)
    }

    /// The running worker's pid.
    pub fn worker_pid(&self) -> Option<i32> {
        Some(self.worker_pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// When the running worker called `open`.
    pub fn worker_start_ns(&self) -> u64 {
        self.worker_start_ns.load(Ordering::Relaxed)
    }

    /// How long ago the consensus thread last gave a sign of life; `None`: it never did since the
    /// worker began, or the worker has ended.
    pub fn heartbeat_age_ns(&self, now_ns: u64) -> Option<u64> {
        match self.heartbeat_ns.load(Ordering::Acquire) {
            0 => None,
            beat => Some(now_ns.saturating_sub(beat)),
        }
    }

    /// Whether debug logging is asked for (`pgraft_set_debug`); outlives the worker.
    pub fn debug(&self) -> bool {
        self.debug.load(Ordering::Relaxed) != 0
    }

    /// Sets what `debug` says.
    pub fn set_debug(&self, enabled: bool) {
        self.debug.store(u32::from(enabled), Ordering::Relaxed);
    }

    /// The primary's node id, by the log's word; 0: none is named.
    pub fn primary_id(&self) -> u32 {
        self.primary_id.load(Ordering::Relaxed)
    }

    /// Adds to a counter. Anyone may.
    pub fn add(&self, counter: Counter, amount: u64) {
        self.counters[counter as usize].fetch_add(amount, Ordering::Relaxed);
    }

    /// Sets a counter that is kept elsewhere.
    pub fn set(&self, counter: Counter, value: u64) {
        self.counters[counter as usize].store(value, Ordering::Relaxed);
    }

    /// Reads a counter.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].load(Ordering::Relaxed)
    }

    /// Something took so long, so many times.
    pub fn observe(&self, histogram: Histogram, took_ns: u64, times: u64) {
        let range = Histogram::BOUNDS_NS.partition_point(|bound| *bound < took_ns);
        self.counters[histogram.first() + range].fetch_add(times, Ordering::Relaxed);
        self.add(histogram.sum(), took_ns.saturating_mul(times));
    }

    /// How often something took as long as each range says, and how long in all.
    pub fn histogram(&self, histogram: Histogram) -> ([u64; Histogram::RANGES], u64) {
        let first = histogram.first();
        let count = |range: usize| self.counters[first + range].load(Ordering::Relaxed);
        (std::array::from_fn(count), self.counter(histogram.sum()))
    }

    /// A page of its own, never freed.
    #[cfg(test)]
    pub(crate) fn for_tests() -> &'static StatusPage {
        let words = vec![[0_u64; 8]; size_of::<StatusPage>() / 64 + 1].leak();
        let at = words.as_mut_ptr().cast::<u8>();
        // SAFETY: the memory is never freed, larger than a page by one alignment, zeroed, which is
        // a valid page, and used as nothing else.
        let page = unsafe { &*at.add(at.align_offset(64)).cast::<StatusPage>() };
        page.init(0, 0);
        page
    }

    /// Takes over the other page's single values that others than its publisher change.
    pub(super) fn copy_loose_values(&self, from: &StatusPage) {
        self.set_debug(from.debug());
        for (to, from) in self.counters.iter().zip(&from.counters) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

fn role_of_code(code: u32) -> Option<PgRole> {
    match code {
        1 => Some(PgRole::Primary),
        2 => Some(PgRole::Standby),
        _ => None,
    }
}

impl MemberSlot {
    const CONTACT_KNOWN: u32 = 1;
    const MATCHED_KNOWN: u32 = 2;

    fn store(&self, member: &MemberView) {
        self.id.store(member.id, Ordering::Relaxed);
        self.port.store(u32::from(member.port), Ordering::Relaxed);
        self.voter.store(u32::from(member.voter), Ordering::Relaxed);
        let reachable = member.reachable.map_or(0, |yes| 1 + u32::from(yes));
        self.reachable.store(reachable, Ordering::Relaxed);
        self.pg_role.store(member.pg_role.map_or(0, |role| role as u32), Ordering::Relaxed);
        let contact = member.last_contact_unix_us.map_or(0, |_| Self::CONTACT_KNOWN);
        let matched = member.matched.map_or(0, |_| Self::MATCHED_KNOWN);
        self.known.store(contact | matched, Ordering::Relaxed);
        let last_contact = member.last_contact_unix_us.unwrap_or(0) as u64;
        self.last_contact_unix_us.store(last_contact, Ordering::Relaxed);
        self.matched.store(member.matched.unwrap_or(0), Ordering::Relaxed);
        self.wal_lsn.store(member.wal_lsn, Ordering::Relaxed);
        for (slot, value) in self.counters.iter().zip(member.counters.to_array()) {
            slot.store(value, Ordering::Relaxed);
        }
        self.name.store_text(&member.name);
        self.host.store_text(&member.address);
        self.pg_address.store_text(&member.pg_address);
    }

    fn load(&self) -> MemberView {
        let known = self.known.load(Ordering::Relaxed);
        let last_contact = self.last_contact_unix_us.load(Ordering::Relaxed) as i64;
        let matched = self.matched.load(Ordering::Relaxed);
        MemberView {
            id: self.id.load(Ordering::Relaxed),
            name: self.name.load_text(),
            address: self.host.load_text(),
            port: self.port.load(Ordering::Relaxed) as u16,
            voter: self.voter.load(Ordering::Relaxed) != 0,
            reachable: match self.reachable.load(Ordering::Relaxed) {
                0 => None,
                code => Some(code == 2),
            },
            last_contact_unix_us: (known & Self::CONTACT_KNOWN != 0).then_some(last_contact),
            matched: (known & Self::MATCHED_KNOWN != 0).then_some(matched),
            pg_address: self.pg_address.load_text(),
            pg_role: role_of_code(self.pg_role.load(Ordering::Relaxed)),
            wal_lsn: self.wal_lsn.load(Ordering::Relaxed),
            counters: PeerCounters::from_array(
                self.counters.each_ref().map(|counter| counter.load(Ordering::Relaxed)),
            ),
        }
    }
}
