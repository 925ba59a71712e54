//! What a node does to the world: each effect is a deed with the moment at which it takes place.
//! The node may die between any two of them, and inside of a write.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use pgraft::cluster::{Address, Answer, Uuid};
use pgraft::net::Gate;
use pgraft::raft::{Durable, Entry, EntryId, HardState, NodeId, SnapshotMeta};
use pgraft::runtime::ToMain;
use pgraft::runtime::effects::Effects;
use pgraft::shmem::{Core, Counter, Fence, Histogram, PeerCounters, RoleCode, View};
use pgraft::storage::testing::{Fault, MemDisk};
use pgraft::storage::{Identity, Snapshots, Storage, StorageError};
use pgraft::wire::{self, Hello, Packet};

use crate::clock::Clock;
use crate::random::Random;

/// What a write asked the disk to keep.
#[derive(Clone, Debug, Default)]
pub struct Save {
    /// Term and vote; the commit index is a hint that may get lost.
    pub hard_state: Option<HardState>,
    /// A snapshot, in the place of the log if that does not contain its last entry.
    pub snapshot: Option<SnapshotMeta>,
    /// Whether the snapshot says that this directory takes part.
    pub named: bool,
    /// The entries, which replace what stands at the index of the first and behind.
    pub entries: Vec<Entry>,
    /// The names of what the snapshot stands for; the world knows them.
    pub stands_for: Vec<EntryId>,
}

/// What everyone can see of a node in shared memory.
#[derive(Clone, Copy, Default, Debug)]
pub struct Page {
    /// Its part.
    pub role: Option<RoleCode>,
    /// The end of its lease by its own clock; 0 for none.
    pub lease_expires_ns: u64,
}

/// One effect.
#[derive(Debug)]
pub enum Deed {
    /// The oldest write that was begun returned: it is durable.
    Saved,
    /// A snapshot of this node's is to be written, beside everything else.
    Snapshot(Box<Writing>),
    /// The identity file was replaced.
    Identity(Box<Identity>),
    /// A connection is wanted.
    Dial(Address),
    /// It is wanted no more.
    HangUp(Address),
    /// It is to be tried now.
    Retry(Address),
    /// A packet was queued.
    Send(Address, Box<Packet>),
    /// What a node dialled is to be closed.
    Disconnect(NodeId),
    /// The page changed.
    Publish(Page),
    /// Someone gets an answer.
    Answer(u64, Box<Answer>),
    /// The worker's main thread is told something else.
    Main(Box<ToMain>),
    /// The fence on the page changed.
    Fence(Fence),
    /// Someone wants to know whether a Postgres answers there.
    Probe(Address),
    /// The log could not be written.
    StorageFailed(String),
    /// Not an effect: everything before it has taken place, and nothing is under way.
    Settled,
}

/// A snapshot that is being written.
#[derive(Debug)]
pub struct Writing {
    /// Where to.
    pub to: Snapshots<MemDisk>,
    /// What it stands for.
    pub meta: SnapshotMeta,
    /// What it holds.
    pub data: Vec<u8>,
}

/// How long a durable write takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskSpeed {
    /// At least, in nanoseconds.
    pub least_ns: u64,
    /// So much more at most.
    pub spread_ns: u64,
}

/// What the node did since the world looked last, shared with the world.
#[derive(Debug)]
pub struct Outbox {
    /// The deeds, each with its time.
    pub deeds: Vec<(u64, Deed)>,
    /// The world's time as it passes for this node: writes take time.
    pub cursor_ns: u64,
    /// The world's time when it began to do what it does.
    pub began_ns: u64,
    /// So many effects more take place, then the node dies.
    pub effects_left: Option<u32>,
    /// The power fails in the middle of the next write.
    pub die_writing: bool,
    /// It died.
    pub dead: bool,
    /// How fast its disk is now.
    pub disk: DiskSpeed,
    /// Whether `view` is kept.
    pub keep_view: bool,
    /// All of the page, for scenarios.
    pub view: View,
    /// Writes that were begun, oldest first; the world takes out those that are known to be done.
    pub begun: Vec<Save>,
}

impl Outbox {
    /// Nothing done yet, at this time.
    pub fn new(now_ns: u64, disk: DiskSpeed, keep_view: bool) -> Outbox {
        Outbox {
            deeds: Vec::new(),
            cursor_ns: now_ns,
            began_ns: now_ns,
            effects_left: None,
            die_writing: false,
            dead: false,
            disk,
            keep_view,
            view: View::default(),
            begun: Vec::new(),
        }
    }

    /// Whether the node lives to do one thing more.
    fn alive(&mut self) -> bool {
        match &mut self.effects_left {
            Some(0) => self.dead = true,
            Some(left) => *left -= 1,
            None => {}
        }
        !self.dead
    }

    fn act(&mut self, deed: Deed) {
        if self.alive() {
            self.deeds.push((self.cursor_ns, deed));
        }
    }
}

/// One node's hands.
pub struct Hands {
    /// Shared with the world.
    pub out: Rc<RefCell<Outbox>>,
    /// Its machine's clock.
    pub clock: Clock,
    /// Its log.
    pub storage: Storage<MemDisk>,
    /// The same disk.
    pub disk: MemDisk,
    /// Whom it lets in.
    pub gate: Arc<Gate>,
    /// Its own chance.
    pub random: Random,
    /// Who it is.
    pub own: (NodeId, Uuid),
    /// Snapshots are sent in pieces of so many bytes.
    pub piece_bytes: usize,
    /// The commits under way, as the page counts them.
    pub under_way: Rc<Cell<u32>>,
}

/// What a dead process gets to hear.
fn dead() -> StorageError {
    StorageError::Failed("crashed".to_owned())
}

impl Hands {
    /// A write: if the node is to die now, it dies at one of the disk's operations.
    fn write<T>(
        &mut self,
        save: Save,
        write: impl FnOnce(&mut Storage<MemDisk>) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let mut out = self.out.borrow_mut();
        if out.dead {
            return Err(dead());
        }
        let dying = out.effects_left == Some(0) || out.die_writing;
        if dying {
            self.disk.fail_after(self.random.below(4), Fault::Halt);
        }
        out.begun.push(save);
        let result = write(&mut self.storage);
        let speed = out.disk;
        out.cursor_ns += speed.least_ns + self.random.below(speed.spread_ns + 1);
        if dying {
            out.dead = true;
            return Err(dead());
        }
        if result.is_ok() {
            out.act(Deed::Saved);
        }
        result
    }

    fn act(&self, deed: Deed) {
        self.out.borrow_mut().act(deed);
    }
}

impl Effects for Hands {
    fn now_ns(&self) -> u64 {
        self.clock.local_ns(self.out.borrow().cursor_ns)
    }

    fn unix_us(&self) -> i64 {
        self.now_ns() as i64 / 1000
    }

    fn random_bytes(&mut self) -> [u8; 16] {
        (u128::from(self.random.number()) << 64 | u128::from(self.random.number())).to_be_bytes()
    }

    fn save(
        &mut self,
        hard_state: Option<&HardState>,
        entries: &[Entry],
        must_sync: bool,
    ) -> Result<Durable, StorageError> {
        if !must_sync && entries.is_empty() {
            return match self.out.borrow().dead {
                true => Err(dead()),
                false => self.storage.save(hard_state, entries, must_sync),
            };
        }
        let save =
            Save { hard_state: hard_state.copied(), entries: entries.to_vec(), ..Save::default() };
        self.write(save, |storage| storage.save(hard_state, entries, must_sync))
    }

    fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        data: &[u8],
        hard_state: Option<&HardState>,
    ) -> Result<Durable, StorageError> {
        let named = wire::decode_state(data).is_ok_and(|state| {
            let member = state.members.get(&self.own.0);
            member.is_some_and(|member| member.directory == Some(self.own.1))
        });
        let snapshot = Some(meta.clone());
        let save = Save { hard_state: hard_state.copied(), snapshot, named, ..Save::default() };
        self.write(save, |storage| storage.install(meta, data, hard_state))
    }

    fn store_snapshot(&mut self, meta: SnapshotMeta, data: Vec<u8>) -> Result<(), String> {
        let to = self.storage.snapshots();
        self.act(Deed::Snapshot(Box::new(Writing { to, meta, data })));
        Ok(())
    }

    fn read_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        self.storage.snapshots().read(meta, offset, bytes_max.min(self.piece_bytes))
    }

    fn compact(&mut self, base: EntryId) -> Result<(), StorageError> {
        let mut out = self.out.borrow_mut();
        if out.dead {
            return Err(dead());
        }
        if !out.alive() {
            self.disk.fail_after(self.random.below(4), Fault::Halt);
        }
        match self.storage.compact(base) {
            _ if out.dead => Err(dead()),
            compacted => compacted,
        }
    }

    fn log_bytes(&self) -> u64 {
        self.storage.bytes()
    }

    fn store_identity(&mut self, identity: &Identity) -> Result<(), StorageError> {
        let mut out = self.out.borrow_mut();
        if !out.alive() {
            return Err(dead());
        }
        let at = out.cursor_ns;
        out.deeds.push((at, Deed::Identity(Box::new(identity.clone()))));
        Ok(())
    }

    fn dial(&mut self, address: &Address) {
        self.act(Deed::Dial(address.clone()));
    }

    fn hang_up(&mut self, address: &Address) {
        self.act(Deed::HangUp(address.clone()));
    }

    fn retry_now(&mut self, address: &Address) {
        self.act(Deed::Retry(address.clone()));
    }

    fn send(&mut self, address: &Address, packet: Packet) -> bool {
        self.act(Deed::Send(address.clone(), Box::new(packet)));
        true
    }

    fn update_gate(
        &mut self,
        hello: Hello,
        directories: BTreeMap<NodeId, Option<Uuid>>,
        removed: BTreeSet<NodeId>,
    ) {
        if self.out.borrow_mut().alive() {
            self.gate.update(hello, directories, removed);
        }
    }

    fn disconnect(&mut self, node: NodeId) {
        self.act(Deed::Disconnect(node));
    }

    fn peer_counters(&self, _node: NodeId, round_trip_us: u64) -> PeerCounters {
        PeerCounters { round_trip_us, ..PeerCounters::default() }
    }

    fn publish(&mut self, view: &View) {
        let mut out = self.out.borrow_mut();
        if out.keep_view && !out.dead {
            out.view = view.clone();
        }
        out.act(Deed::Publish(Page {
            role: Some(view.role),
            lease_expires_ns: view.lease_expires_ns,
        }));
    }

    fn publish_core(&mut self, core: &Core) {
        let mut out = self.out.borrow_mut();
        if out.keep_view && !out.dead {
            out.view = core.into_view(std::mem::take(&mut out.view));
        }
        out.act(Deed::Publish(Page {
            role: Some(core.role),
            lease_expires_ns: core.lease_expires_ns,
        }));
    }

    fn publish_fence(&mut self, fence: &Fence, _primary_id: u32) {
        self.act(Deed::Fence(*fence));
    }

    fn commits_under_way(&self) -> u32 {
        let out = self.out.borrow();
        // The servers are not there yet: whoever passes meanwhile is counted the next time.
        let ahead = out.cursor_ns > out.began_ns;
        self.under_way.get() + u32::from(ahead)
    }

    fn probe(&mut self, address: &Address) {
        self.act(Deed::Probe(address.clone()));
    }

    fn beat(&mut self, _now_ns: u64) {}

    fn count(&mut self, _counter: Counter, _by: u64) {}

    fn observe(&mut self, _what: Histogram, _took_ns: u64, _times: u64) {}

    fn gauge(&mut self, _gauge: Counter, _value: u64) {}

    fn to_main(&mut self, message: ToMain) {
        self.act(match message {
            ToMain::Answer { token, answer } => Deed::Answer(token, Box::new(answer)),
            ToMain::StorageFailed(text) => Deed::StorageFailed(text),
            ToMain::WantReport | ToMain::WantStanding(_) | ToMain::WantFlush | ToMain::Duty(_) => {
                Deed::Main(Box::new(message))
            }
            ToMain::Panicked(text) => panic!("a thread panicked: {text}"),
        });
    }
}
