//! Whom a standby receives WAL from, if anyone: `primary_conninfo` and `primary_slot_name`, and
//! whether what they ask for happens.

use std::fs;
use std::path::PathBuf;

use pgrx::pg_sys;

use crate::cluster::Address;
use crate::config::Config;
use crate::hand::conninfo::Conninfo;
use crate::hand::errand::Op;
use crate::hand::standby_name;
use crate::pg::{facts, guc, receiver};
use crate::raft::NodeId;
use crate::storage::replace_file;

const CONNINFO: &str = "primary_conninfo";
const SLOT: &str = "primary_slot_name";

/// A receiver that has lived so long with its connection was not refused what it wanted.
const STREAMS_FOR_NS: u64 = 400_000_000;
/// A standby without WAL for so long says so.
const STARVES_AFTER_NS: u64 = 5_000_000_000;
/// How often a standby without a receiver is woken to try again; by itself it waits for
/// `wal_retrieve_retry_interval`, which is 5 s.
const NUDGE_EVERY_NS: u64 = 500_000_000;
/// For as long as this nothing was received by a server whose startup process does not confirm that
/// it has taken in its settings: it takes a look at them many times in it.
const QUIET_NS: u64 = 1_000_000_000;

/// What is known about it.
#[derive(Default)]
pub(super) struct Upstream {
    /// The startup process goes by the settings as they are: it starts no receiver by former ones.
    settled: bool,
    /// Since when there is no receiver.
    quiet_since_ns: Option<u64>,
    /// The receiver's process, and since when it is seen.
    seen: Option<(i32, u64)>,
    /// When it last streamed, or began to be wanted to.
    fed_ns: u64,
    /// From where.
    from: Option<(NodeId, Address)>,
    nudged_ns: u64,
}

impl Upstream {
    /// What is to be done so that it receives from `address`, and what keeps it from that.
    pub(super) fn follow(
        &mut self,
        config: &Config,
        node: NodeId,
        address: &Address,
        now_ns: u64,
    ) -> (Vec<Op>, String) {
        self.settled = false;
        self.quiet_since_ns = None;
        let name = standby_name(config.node_id);
        let wanted = match base(config) {
            Ok(base) => base.to(address, &name).to_string(),
            Err(why) => return (Vec::new(), why),
        };
        let mut ops = Vec::new();
        if conninfo() != wanted {
            ops.push(Op::Set { name: CONNINFO.to_owned(), value: wanted });
        }
        if slot() != name {
            ops.push(Op::Set { name: SLOT.to_owned(), value: name });
        }
        if !ops.is_empty() {
            ops.push(Op::Reload);
        }
        (ops, self.feel(node, address, now_ns))
    }

    /// Looks whether WAL comes from there, and wakes who should fetch it.
    fn feel(&mut self, node: NodeId, address: &Address, now_ns: u64) -> String {
        let from = (node, address.clone());
        if self.from.as_ref() != Some(&from) {
            (self.from, self.fed_ns, self.seen) = (Some(from), now_ns, None);
        }
        self.seen = receiver::streams().map(|pid| match self.seen {
            Some((same, since_ns)) if same == pid => (pid, since_ns),
            _ => (pid, now_ns),
        });
        if let Some((_, since_ns)) = self.seen {
            if now_ns.saturating_sub(since_ns) >= STREAMS_FOR_NS {
                self.fed_ns = now_ns;
            }
        } else if !receiver::runs() && now_ns.saturating_sub(self.nudged_ns) >= NUDGE_EVERY_NS {
            self.nudged_ns = now_ns;
            // SAFETY: sets a latch in shared memory.
            unsafe { pg_sys::WakeupRecovery() };
        }
        match now_ns.saturating_sub(self.fed_ns) >= STARVES_AFTER_NS {
            true => format!("does not receive WAL from node {node} ({address}), see its log"),
            false => String::new(),
        }
    }

    /// Whether somebody should look again soon: WAL is wanted and does not come.
    pub(super) fn starves(&self, now_ns: u64) -> bool {
        self.from.is_some() && self.fed_ns < now_ns
    }

    /// What is to be done so that it receives nothing. `Err`: why it cannot be.
    pub(super) fn freeze(&mut self, now_ns: u64) -> Result<Vec<Op>, String> {
        self.from = None;
        let receives = receiver::runs();
        self.quiet_since_ns = self.quiet_since_ns.filter(|_| !receives).or(match receives {
            true => None,
            false => Some(now_ns),
        });
        if !conninfo().is_empty() {
            self.settled = false;
            self.quiet_since_ns = None;
            keep()?;
            let name = CONNINFO.to_owned();
            return Ok(vec![Op::Set { name, value: String::new() }, Op::Reload, Op::Settle]);
        }
        let quiet = self.quiet_since_ns.is_some_and(|since_ns| now_ns - since_ns >= QUIET_NS);
        self.settled |= quiet;
        Ok(if self.settled { Vec::new() } else { vec![Op::Settle] })
    }

    /// An errand proved that the startup process goes by what the settings were when it was sent.
    pub(super) fn settled(&mut self) {
        self.settled = conninfo().is_empty();
    }

    /// An errand was sent.
    pub(super) fn note_sent(&mut self, ops: &[Op]) {
        let sets = |op: &Op| match op {
            Op::Set { name, value } => name == CONNINFO && !value.is_empty(),
            _ => false,
        };
        if ops.iter().any(sets) {
            self.settled = false;
        }
    }

    /// Whether nothing is received, nor will be.
    pub(super) fn is_frozen(&self) -> bool {
        self.settled && conninfo().is_empty() && !receiver::runs()
    }
}

/// What a connection needs beside the place: from pgraft.conf, or as it is, or as it was before the
/// last freeze.
fn base(config: &Config) -> Result<Conninfo, String> {
    let of = |text: &str, source: &str| {
        let base = Conninfo::parse(text).map(|info| info.base());
        base.map_err(|error| format!("{source} cannot be read: {error}"))
    };
    if !config.replication_conninfo.is_empty() {
        return of(&config.replication_conninfo, "replication_conninfo in pgraft.conf");
    }
    match conninfo() {
        present if present.is_empty() => {
            let kept = fs::read_to_string(kept_file()).unwrap_or_default();
            of(kept.trim_end(), "pgraft.conninfo in the data directory")
        }
        present => of(&present, CONNINFO),
    }
}

/// Keeps what `primary_conninfo` has beside the place before it is emptied. One that cannot be read
/// is kept as it is: whoever needs it says so.
fn keep() -> Result<(), String> {
    let present = conninfo();
    let base = Conninfo::parse(&present).map_or(present, |info| info.base().to_string());
    let path = kept_file();
    let line = format!("{base}\n");
    if fs::read_to_string(&path).is_ok_and(|kept| kept == line) {
        return Ok(());
    }
    replace_file(&path, &line, 0o600).map_err(|error| error.to_string())
}

/// Beside postgresql.auto.conf, which has the same in it otherwise.
fn kept_file() -> PathBuf {
    guc::data_directory().join("pgraft.conninfo")
}

fn conninfo() -> String {
    // SAFETY: a setting's string, replaced only by this thread's own reload.
    unsafe { facts::setting(pg_sys::PrimaryConnInfo) }
}

fn slot() -> String {
    // SAFETY: as in `conninfo`.
    unsafe { facts::setting(pg_sys::PrimarySlotName) }
}
