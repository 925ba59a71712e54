//! A Postgres server as far as failover goes: what WAL it holds, what it is, whom it streams from,
//! whom its commits wait for. What it does by itself is in `streaming` and `writers`; what the
//! worker's main thread does to it in `errands`.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;

use pgraft::cluster::{Position, Switch};
use pgraft::raft::NodeId;
use pgraft::shmem::{Fence, FenceMode, Verdict};
use pgraft::wire::PgRole;

use crate::world::id;

/// One record of WAL; its LSN is its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// The timeline it was written on.
    pub timeline: u32,
    /// No other record has it: two servers whose records at one LSN are the same have the same
    /// before, too.
    pub id: u64,
}

/// What `synchronous_standby_names` says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names {
    /// How many commits wait for.
    pub needed: u32,
    /// Of these.
    pub standbys: BTreeSet<NodeId>,
}

/// A WAL receiver that runs.
#[derive(Clone, Copy, Debug)]
pub struct Receiver {
    /// Whom it streams from.
    pub upstream: u32,
    /// Its connection.
    pub stream: u64,
}

/// A WAL sender, the other end.
#[derive(Clone, Debug)]
pub struct Sender {
    /// Whom it sends to.
    pub standby: u32,
    /// So much was sent.
    pub sent: usize,
    /// Something is on its way.
    pub in_flight: bool,
    /// So much is flushed there, as was said.
    pub confirmed: usize,
}

/// What a backend that commits does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Counts itself in and looks at the fence.
    Look,
    /// Writes the commit record.
    Append,
    /// Flushes it.
    Flush,
    /// Is told by the WAL senders when enough standbys have it.
    Wait,
    /// Looks again, and tells its client.
    Tell,
}

/// A backend that commits.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Where its record is, once it is written.
    pub lsn: usize,
    /// What the fence said when it looked.
    pub passed: Verdict,
    /// The epoch of the primary, as its server knew it when it looked.
    pub epoch: u64,
    /// In which period of commits that wait for a majority it looked.
    pub period: Option<u64>,
    /// What it does next.
    pub step: Step,
    /// The world's time when it no longer waits for the fence.
    pub patience_ns: u64,
}

/// A server, its data directory included.
pub struct Postgres {
    /// All of its WAL.
    pub wal: Vec<Record>,
    /// So much of it survives a crash for certain.
    pub flushed: usize,
    /// The file that makes it a standby when it starts.
    pub standby_signal: bool,
    /// `primary_conninfo`.
    pub conninfo: Option<u32>,
    /// `synchronous_standby_names`.
    pub names: Names,
    /// Where the WAL ended when that came into force.
    pub names_lsn: usize,
    /// Counts its starts: what was meant for an earlier one is void.
    pub boot: u64,
    /// It runs.
    pub up: bool,
    /// What it is; `None`: it recovers.
    pub role: Option<PgRole>,
    /// Onto this timeline.
    pub promoting: Option<u32>,
    /// Its WAL receiver.
    pub receiver: Option<Receiver>,
    /// An attempt to connect one is to come.
    pub connecting: bool,
    /// Its WAL senders, by their connection.
    pub senders: BTreeMap<u64, Sender>,
    /// Who commits.
    pub backends: BTreeMap<u64, Backend>,
    /// How many of them are counted in, as the page says; the worker sees it.
    pub under_way: Rc<Cell<u32>>,
    /// The fence on the page.
    pub fence: Fence,
    /// The epoch for which it was opened.
    pub fence_epoch: u64,
    /// All its processes are stopped.
    pub stopped: bool,
    /// Its receiver gets nothing for the time being.
    pub stalled: bool,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let upstream = self.receiver.map(|receiver| receiver.upstream);
        let (lsn, timeline, names) = (self.wal.len(), self.timeline(), &self.names);
        write!(f, "{:?} at {lsn} on {timeline}, promoting {:?}, ", self.role, self.promoting)?;
        write!(f, "from {upstream:?}, set to {:?}, {names:?}, {:?}", self.conninfo, self.fence)
    }
}

/// The fence of a server that starts.
const AT_START: Fence = Fence { mode: FenceMode::Paused, from_ns: 0, until_ns: 0 };

impl Postgres {
    /// A data directory with a checkpoint in it, like those of all others.
    pub fn new(conninfo: Option<u32>) -> Postgres {
        Postgres {
            wal: vec![Record { timeline: 1, id: 0 }],
            flushed: 1,
            standby_signal: conninfo.is_some(),
            conninfo,
            names: Names::default(),
            names_lsn: 0,
            boot: 0,
            up: false,
            role: None,
            promoting: None,
            receiver: None,
            connecting: false,
            senders: BTreeMap::new(),
            backends: BTreeMap::new(),
            under_way: Rc::new(Cell::new(0)),
            fence: AT_START,
            fence_epoch: 0,
            stopped: false,
            stalled: false,
        }
    }

    /// It starts, and recovers.
    pub fn start(&mut self) {
        self.up = true;
        self.boot += 1;
        self.fence = AT_START;
    }

    /// All its processes, and its shared memory, are gone; of its WAL, `kept` is left.
    pub fn end(&mut self, kept: usize) {
        self.wal.truncate(kept);
        self.flushed = kept;
        self.up = false;
        self.boot += 1;
        self.role = None;
        self.promoting = None;
        self.receiver = None;
        self.connecting = false;
        self.senders.clear();
        self.backends.clear();
        self.under_way.set(0);
        self.fence = AT_START;
        self.stopped = false;
        self.names_lsn = self.wal.len();
    }

    /// The timeline of its last WAL.
    pub fn timeline(&self) -> u32 {
        self.wal.last().map_or(0, |record| record.timeline)
    }

    /// What it reports as its LSN.
    pub fn lsn(&self) -> u64 {
        match self.role {
            Some(PgRole::Primary) => self.flushed as u64,
            _ => self.wal.len() as u64,
        }
    }

    /// How far it has come.
    pub fn position(&self) -> Position {
        let ends = (1..self.wal.len())
            .filter(|&at| self.wal[at - 1].timeline != self.wal[at].timeline)
            .map(|at| Switch { timeline: self.wal[at - 1].timeline, ends: at as u64 });
        Position { timeline: self.timeline(), lsn: self.lsn(), history: ends.collect() }
    }

    /// Whether all that `other` has is flushed here.
    pub fn has_all_of(&self, other: &Postgres) -> bool {
        let end = other.wal.len();
        end <= self.flushed && self.wal.get(end.wrapping_sub(1)) == other.wal.last()
    }

    /// Whether it holds this record.
    pub fn holds(&self, lsn: usize, record: Record) -> bool {
        self.wal.get(lsn - 1) == Some(&record)
    }

    /// Whether enough of the standbys that count have WAL up to `lsn`.
    pub fn is_confirmed(&self, lsn: usize) -> bool {
        let has = |sender: &&Sender| {
            sender.confirmed >= lsn && self.names.standbys.contains(&id(sender.standby))
        };
        let standbys: BTreeSet<u32> =
            self.senders.values().filter(has).map(|sender| sender.standby).collect();
        standbys.len() >= self.names.needed as usize
    }

    /// One backend more, or less, is between its look and its end.
    pub fn count(&self, one_more: bool) {
        let count = self.under_way.get();
        self.under_way.set(if one_more { count + 1 } else { count - 1 });
    }
}
