//! [`Effects`] for real: the disk, the network, shared memory, the main thread.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, TrySendError};

use crate::cluster::{Address, Uuid};
use crate::net::{Gate, Net, NetCounters, probe};
use crate::queue;
use crate::raft::{Durable, Entry, EntryId, HardState, NodeId, SnapshotMeta};
use crate::shmem::{Core, Counter, Fence, Histogram, Pages, PeerCounters, View};
use crate::storage::{FileDisk, Identity, Storage, StorageError};
use crate::sys;
use crate::wire::{Hello, Packet};

use super::effects::Effects;
use super::event::{Event, ToMain};
use super::logger;
use super::spawn::Threads;
use super::wake::Waker;

/// Messages for main that wait; it drains them at each wake-up, so more means that it hangs.
pub const TO_MAIN_MAX: usize = 1024;
/// How long a Postgres may take to answer a probe: one that is not hung does in a millisecond.
const PROBE_MAX: Duration = Duration::from_millis(500);
/// How long a thread waits for main when its queue is full.
const TO_MAIN_WAIT: Duration = Duration::from_millis(100);

/// The way to the worker's main thread.
#[derive(Clone)]
pub struct MainQueue {
    /// Bounded by [`TO_MAIN_MAX`].
    pub sender: Sender<ToMain>,
    /// Rung after each message.
    pub waker: Waker,
}

impl MainQueue {
    /// Queues `message` and wakes main.
    pub fn push(&self, message: ToMain) {
        if let Err(TrySendError::Full(message)) = self.sender.try_send(message) {
            self.waker.wake();
            // A main thread that hangs for so long gets restarted; its askers time out.
            let _ = self.sender.send_timeout(message, TO_MAIN_WAIT);
        }
        self.waker.wake();
    }
}

/// The real world, owned by the consensus thread.
pub struct Real {
    /// The log.
    pub storage: Storage<FileDisk>,
    /// `raft_data_dir`.
    pub data_dir: PathBuf,
    /// The connections.
    pub net: Arc<Net>,
    /// Whom they let in.
    pub gate: Arc<Gate>,
    /// What they counted.
    pub counters: Arc<NetCounters>,
    /// Shared memory.
    pub pages: Pages,
    /// The main thread.
    pub main: MainQueue,
    /// Where a snapshot is written.
    pub threads: Threads,
    /// Where what became of it is told.
    pub events: queue::Sender<Event>,
}

impl Real {
    /// What `net` counts, copied to where SQL and metrics read it.
    fn show_net_counters(&self) {
        let net = &self.counters;
        let page = self.pages.in_postgres;
        let show = |counter, value: &AtomicU64| page.set(counter, value.load(Ordering::Relaxed));
        show(Counter::HandshakesRefused, &net.handshakes_refused);
        show(Counter::BadFrames, &net.bad_frames);
        show(Counter::ConnectionsAccepted, &net.accepted);
        show(Counter::ConnectionsTurnedAway, &net.rejected_full);
        show(Counter::EventsDropped, &net.received_dropped);
    }

    fn show_peer_totals(&self, view: &View) {
        let page = self.pages.in_postgres;
        let total = |of: fn(&PeerCounters) -> u64| {
            view.members.iter().map(|member| of(&member.counters)).sum()
        };
        page.set(Counter::MessagesSent, total(|peer| peer.messages_sent));
        page.set(Counter::MessagesReceived, total(|peer| peer.messages_received));
        page.set(Counter::BytesSent, total(|peer| peer.bytes_sent));
        page.set(Counter::BytesReceived, total(|peer| peer.bytes_received));
    }
}

impl Effects for Real {
    fn now_ns(&self) -> u64 {
        sys::now_boottime_ns()
    }

    fn unix_us(&self) -> i64 {
        sys::unix_time_us()
    }

    fn random_bytes(&mut self) -> [u8; 16] {
        sys::random_bytes().expect("the kernel has random bytes")
    }

    fn save(
        &mut self,
        hard_state: Option<&HardState>,
        entries: &[Entry],
        must_sync: bool,
    ) -> Result<Durable, StorageError> {
        let began = Instant::now();
        let durable = self.storage.save(hard_state, entries, must_sync)?;
        if must_sync {
            let took_ns = began.elapsed().as_nanos() as u64;
            let page = self.pages.in_postgres;
            page.add(Counter::Fsyncs, 1);
            page.observe(Histogram::Fsync, took_ns, 1);
            page.set(Counter::FsyncLastNs, took_ns);
            page.set(Counter::LogBytes, self.storage.bytes());
        }
        Ok(durable)
    }

    fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        data: &[u8],
        hard_state: Option<&HardState>,
    ) -> Result<Durable, StorageError> {
        let durable = self.storage.install(meta, data, hard_state)?;
        self.pages.in_postgres.set(Counter::LogBytes, self.storage.bytes());
        Ok(durable)
    }

    fn store_snapshot(&mut self, meta: SnapshotMeta, data: Vec<u8>) -> Result<(), String> {
        let (snapshots, events) = (self.storage.snapshots(), self.events.clone());
        let body = move || {
            let outcome = snapshots.store(&meta, &data).map_err(|error| error.to_string());
            // Waits while consensus has much to do; gone, it wants to know nothing any more.
            let _ = events.send(Event::SnapshotStored(meta, outcome));
        };
        let spawned = self.threads.spawn("pgraft snapshot".into(), Box::new(body));
        spawned.map_err(|error| format!("could not start a thread: {error}"))
    }

    fn read_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        self.storage.snapshots().read(meta, offset, bytes_max)
    }

    fn compact(&mut self, base: EntryId) -> Result<(), StorageError> {
        self.storage.compact(base)?;
        self.pages.in_postgres.set(Counter::LogBytes, self.storage.bytes());
        Ok(())
    }

    fn log_bytes(&self) -> u64 {
        self.storage.bytes()
    }

    fn store_identity(&mut self, identity: &Identity) -> Result<(), StorageError> {
        identity.store(&self.data_dir)
    }

    fn dial(&mut self, address: &Address) {
        self.net.dial(address);
    }

    fn hang_up(&mut self, address: &Address) {
        self.net.hang_up(address);
    }

    fn retry_now(&mut self, address: &Address) {
        self.net.retry_now(address);
    }

    fn send(&mut self, address: &Address, packet: Packet) -> bool {
        self.net.send(address, packet)
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
        self.net.disconnect(node);
    }

    fn peer_counters(&self, node: NodeId, round_trip_us: u64) -> PeerCounters {
        let Some(peer) = self.counters.peer(node) else { return PeerCounters::default() };
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PeerCounters {
            messages_sent: load(&peer.messages_sent),
            messages_received: load(&peer.messages_received),
            bytes_sent: load(&peer.bytes_sent),
            bytes_received: load(&peer.bytes_received),
            errors: load(&peer.errors),
            dropped: load(&peer.dropped),
            connects: load(&peer.connects),
            round_trip_us,
        }
    }

    fn publish(&mut self, view: &View) {
        // Every line of the log ring names the term it was written in.
        if let Some(logger) = logger::installed() {
            logger.set_term(view.term);
            self.pages.in_postgres.set(Counter::LogLinesDropped, logger.dropped());
        }
        self.show_net_counters();
        self.show_peer_totals(view);
        self.pages.publish(view);
    }

    fn publish_core(&mut self, core: &Core) {
        self.pages.publish_core(core);
    }

    fn publish_fence(&mut self, fence: &Fence, primary_id: u32) {
        self.pages.publish_fence(fence, primary_id);
    }

    fn commits_under_way(&self) -> u32 {
        self.pages.in_postgres.commits_under_way()
    }

    fn probe(&mut self, address: &Address) {
        let (address, events) = (address.clone(), self.events.clone());
        let body = move || {
            let answers = probe::postgres_answers(&address, PROBE_MAX);
            // Full: asked again.
            let _ = events.try_send(Event::Probed { address, answers });
        };
        if let Err(error) = self.threads.spawn("pgraft probe".into(), Box::new(body)) {
            log::warn!("could not start a thread: {error}");
        }
    }

    fn beat(&mut self, now_ns: u64) {
        self.pages.beat(now_ns);
    }

    fn count(&mut self, counter: Counter, by: u64) {
        self.pages.in_postgres.add(counter, by);
    }

    fn observe(&mut self, what: Histogram, took_ns: u64, times: u64) {
        self.pages.in_postgres.observe(what, took_ns, times);
    }

    fn gauge(&mut self, gauge: Counter, value: u64) {
        self.pages.in_postgres.set(gauge, value);
    }

    fn to_main(&mut self, message: ToMain) {
        self.main.push(message);
    }
}
