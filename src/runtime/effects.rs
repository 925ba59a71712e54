//! All that the consensus loop does to the world, as one trait: `real.rs` does it, and a simulator
//! can do it instead.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::{Address, Uuid};
use crate::raft::{Durable, Entry, EntryId, HardState, NodeId, SnapshotMeta};
use crate::shmem::{Core, Counter, Fence, Histogram, PeerCounters, View};
use crate::storage::{Identity, StorageError};
use crate::wire::{Hello, Packet};

use super::event::ToMain;

/// The consensus loop's hands. Nothing here blocks for long but the disk.
pub trait Effects {
    /// Nanoseconds of CLOCK_BOOTTIME: comparable between the processes of one machine, and running
    /// while the machine is suspended, as a lease must.
    fn now_ns(&self) -> u64;
    /// Microseconds since 1970, for people.
    fn unix_us(&self) -> i64;
    /// Random bytes, for the name of a new cluster.
    fn random_bytes(&mut self) -> [u8; 16];

    /// Appends to the log; returns once it is durable, if it must be.
    fn save(
        &mut self,
        hard_state: Option<&HardState>,
        entries: &[Entry],
        must_sync: bool,
    ) -> Result<Durable, StorageError>;
    /// Makes a snapshot from the leader durable, with the hard state, in the place of the log.
    fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        data: &[u8],
        hard_state: Option<&HardState>,
    ) -> Result<Durable, StorageError>;
    /// Begins to store a snapshot of this node's, beside everything else; the outcome comes as
    /// `Event::SnapshotStored`. `Err`: it could not begin.
    fn store_snapshot(&mut self, meta: SnapshotMeta, data: Vec<u8>) -> Result<(), String>;
    /// Up to `bytes_max` bytes of the stored snapshot from `offset` on; `None`: it is not `meta`'s.
    fn read_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Option<Vec<u8>>, StorageError>;
    /// Forgets the stored log up to `base`, for which a stored snapshot stands.
    fn compact(&mut self, base: EntryId) -> Result<(), StorageError>;
    /// The bytes of log on disk.
    fn log_bytes(&self) -> u64;
    /// Replaces the identity file.
    fn store_identity(&mut self, identity: &Identity) -> Result<(), StorageError>;

    /// Keeps a connection to `address` from now on.
    fn dial(&mut self, address: &Address);
    /// No longer keeps one.
    fn hang_up(&mut self, address: &Address);
    /// Tries `address` again now.
    fn retry_now(&mut self, address: &Address);
    /// Queues a packet; `false`: dropped.
    fn send(&mut self, address: &Address, packet: Packet) -> bool;
    /// Changes whom handshakes let in and what they say of this node.
    fn update_gate(
        &mut self,
        hello: Hello,
        directories: BTreeMap<NodeId, Option<Uuid>>,
        removed: BTreeSet<NodeId>,
    );
    /// Closes what `node` dialled: it was removed, and is told so when it comes again.
    fn disconnect(&mut self, node: NodeId);

    /// What `net` counted of `node`.
    fn peer_counters(&self, node: NodeId, round_trip_us: u64) -> PeerCounters;
    /// Shows the node's view in shared memory.
    fn publish(&mut self, view: &View);
    /// Shows what changes most often.
    fn publish_core(&mut self, core: &Core);
    /// Opens or closes the fence of this server's backends, and shows who is primary; 0: nobody.
    /// Closed, it is closed for every commit that comes after this returns.
    fn publish_fence(&mut self, fence: &Fence, primary_id: u32);
    /// How many backends are between their look at the fence and the end of their commit.
    fn commits_under_way(&self) -> u32;
    /// Asks whether a Postgres answers at `address`; the outcome comes as `Event::Probed`, within
    /// `PROBE_MS_MAX`.
    fn probe(&mut self, address: &Address);
    /// Says in shared memory that the consensus thread is alive.
    fn beat(&mut self, now_ns: u64);
    /// Counts in shared memory.
    fn count(&mut self, counter: Counter, by: u64);
    /// Counts in shared memory that something took so long, so many times.
    fn observe(&mut self, what: Histogram, took_ns: u64, times: u64);
    /// Shows in shared memory a number that may fall.
    fn gauge(&mut self, gauge: Counter, value: u64);
    /// Tells the worker's main thread.
    fn to_main(&mut self, message: ToMain);
}
