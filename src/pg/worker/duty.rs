//! What Postgres is to be (`runtime/duty.rs`), made so: looked at again whenever something happened,
//! until nothing is left to do. What needs a database session goes on an errand; the rest, the
//! promotion above all, main does itself.

use std::collections::BTreeSet;
use std::ffi::CStr;

use pgrx::pg_sys;

use crate::cluster::Address;
use crate::hand::conninfo::Conninfo;
use crate::hand::errand::Op;
use crate::hand::pace::Pace;
use crate::hand::slots::{Use, plan};
use crate::hand::standby_name;
use crate::pg::errand::ERRAND_MAX;
use crate::pg::{facts, guc, shared, slots, timelines};
use crate::raft::{LogIndex, NodeId};
use crate::runtime::duty::{Duty, Synchronous, Task};
use crate::storage::replace_file;
use crate::sys;
use crate::wire::{Ask, PgRole, Report};

use super::Worker;

/// How often a promotion that runs, or a WAL receiver that is to end, is looked at: either takes
/// some ten milliseconds.
const WATCH_NS: u64 = 2_000_000;
/// How often everything is looked at while something is amiss.
const LOOK_NS: u64 = 500_000_000;
/// A standby that does not stream for so long says so.
const STREAMS_NS_MAX: u64 = 5_000_000_000;
/// `synchronous_standby_names` is not changed on a primary whose lease has less left than this.
const LEASE_LEFT_NS_MIN: u64 = 50_000_000;

/// What main remembers of it.
#[derive(Debug, Default)]
pub(super) struct Hand {
    duty: Duty,
    /// A standing to be told once the WAL receiver has gone.
    freezing: Option<Ask>,
    /// When the errand that is under way was sent.
    errand_ns: Option<u64>,
    pace: Pace,
    /// The signal to promote was given.
    promoting: Option<u32>,
    /// Since when this standby is to stream and does not.
    dry_ns: Option<u64>,
    /// Why an errand failed last.
    failure: String,
    /// What was told last.
    hindrance: String,
    /// When to look again though nothing happens.
    look_ns: Option<u64>,
    /// The membership for which the names are in force, and what was flushed when they came to be.
    names: Option<(LogIndex, u64)>,
    reported: Report,
}

impl Hand {
    /// When there is something to do even if nobody wakes main.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.look_ns
    }
}

impl Worker {
    /// The consensus thread says what Postgres is to be.
    pub(super) fn take_duty(&mut self, duty: Duty) {
        if duty.task != self.hand.duty.task {
            self.hand.pace.reset();
            self.hand.dry_ns = None;
            self.hand.freezing = None;
        }
        self.hand.duty = duty;
    }

    /// The leader asks how far Postgres has come.
    pub(super) fn take_ask(&mut self, ask: Ask) {
        let standby = facts::role() == Some(PgRole::Standby);
        match ask.freeze && standby {
            true => self.hand.freezing = Some(ask),
            false => self.tell_standing(ask, false),
        }
    }

    /// The leader wants everything flushed that was committed.
    pub(super) fn take_flush(&mut self) {
        if let (Some(runtime), Some(PgRole::Primary)) = (&self.runtime, facts::role()) {
            runtime.flushed(facts::flush_all());
        }
    }

    fn tell_standing(&self, ask: Ask, frozen: bool) {
        if let Some(runtime) = &self.runtime {
            runtime.standing(ask, facts::standing(frozen));
        }
    }

    /// How Postgres is doing, for the others.
    pub(super) fn own_report(&mut self) -> Report {
        let report = facts::report();
        self.look_at_names(&report);
        let (names_at, synchronous_at) = match (self.hand.names, &self.hand.duty.synchronous) {
            (Some((at, lsn)), Some(wanted)) => {
                let confirmed = slots::confirmed(lsn) >= wanted.needed;
                (at, if confirmed { at } else { LogIndex(0) })
            }
            _ => (LogIndex(0), LogIndex(0)),
        };
        Report { names_at, synchronous_at, ..report }
    }

    /// Since when, and for which membership, commits wait for whom they are to.
    fn look_at_names(&mut self, report: &Report) {
        self.hand.names = match (&self.hand.duty.synchronous, self.hand.names) {
            (Some(wanted), names) if setting_names() == wanted_names(wanted) => match names {
                Some((at, _)) if at == wanted.members_at => names,
                _ => Some((wanted.members_at, report.wal_lsn)),
            },
            // What is in force stays so until it is replaced.
            (_, names) => names,
        };
    }

    /// Does what there is to do now, and says what hinders it.
    pub(super) fn do_duty(&mut self) {
        if self.runtime.is_none() {
            self.hand = Hand::default();
            return;
        }
        let now_ns = sys::now_boottime_ns();
        self.end_errand(now_ns);
        let role = facts::role();
        let mut hindrance = String::new();
        let mut look_ns = None;
        if let Some(timeline) = self.hand.promoting {
            if role == Some(PgRole::Primary) {
                log::info!("this server is promoted, on timeline {timeline}");
                self.hand.promoting = None;
            } else {
                look_ns = Some(now_ns + WATCH_NS);
            }
        }
        match (self.hand.duty.task.clone(), role) {
            (Task::BePrimary { timeline }, Some(PgRole::Standby)) => {
                if self.hand.promoting.is_none()
                    && let Err(why) = self.promote(timeline)
                {
                    hindrance = format!("cannot be promoted: {why}");
                    look_ns = Some(now_ns + LOOK_NS);
                } else {
                    look_ns = Some(now_ns + WATCH_NS);
                }
            }
            (Task::Follow { node, .. }, Some(PgRole::Primary)) => {
                hindrance = format!(
                    "this server is a deposed primary: it must be rewound to follow node {node}, \
                     see docs/failover.md"
                );
            }
            (Task::Follow { node, address }, Some(PgRole::Standby)) => {
                hindrance = self.dry(node, &address, now_ns);
                look_ns = look_ns.or(Some(now_ns + LOOK_NS));
            }
            _ => {}
        }
        let ops = self.ops(role);
        if let Some(ops) = ops.filter(|ops| !ops.is_empty()) {
            self.send_errand(&ops, now_ns);
        }
        if let Some(ask) = self.hand.freezing {
            if is_frozen() {
                self.hand.freezing = None;
                self.tell_standing(ask, true);
            } else {
                look_ns = Some(now_ns + WATCH_NS);
            }
        }
        if self.hand.errand_ns.is_some() || !self.hand.failure.is_empty() {
            let pace_ns = self.hand.pace.due_ns().unwrap_or(now_ns + LOOK_NS);
            look_ns = Some(look_ns.map_or(pace_ns, |look_ns| look_ns.min(pace_ns)));
        }
        if hindrance.is_empty() {
            hindrance.clone_from(&self.hand.failure);
        }
        self.hand.look_ns = look_ns;
        self.tell_hindrance(hindrance);
        self.tell_change();
    }

    fn tell_hindrance(&mut self, hindrance: String) {
        if hindrance != self.hand.hindrance
            && let Some(runtime) = &self.runtime
        {
            if !hindrance.is_empty() {
                log::warn!("{hindrance}");
            }
            self.hand.hindrance.clone_from(&hindrance);
            runtime.hindrance(hindrance);
        }
    }

    /// What the leader waits for is told at once, not with the next second's report.
    fn tell_change(&mut self) {
        let report = self.own_report();
        let told = self.hand.reported;
        let same = Report { wal_lsn: told.wal_lsn, ..report } == told;
        if let Some(runtime) = self.runtime.as_ref().filter(|_| !same) {
            self.hand.reported = report;
            runtime.report(report);
        }
    }

    /// Gives the signal, as `pg_promote()` does.
    fn promote(&mut self, timeline: u32) -> Result<(), String> {
        if let Some(obstacle) = facts::obstacle() {
            return Err(obstacle);
        }
        timelines::prepare(facts::report().timeline, timeline)?;
        let signal = guc::data_directory().join("promote");
        std::fs::write(&signal, "")
            .map_err(|error| format!("\"{}\": {error}", signal.display()))?;
        log::info!("promoting this server to timeline {timeline}");
        // SAFETY: the postmaster is this process's parent, and knows the signal.
        unsafe { libc::kill(pg_sys::PostmasterPid, libc::SIGUSR1) };
        self.hand.promoting = Some(timeline);
        Ok(())
    }

    /// Why this standby does not stream, once it should have for a while.
    fn dry(&mut self, node: NodeId, address: &Address, now_ns: u64) -> String {
        if facts::is_receiving() {
            self.hand.dry_ns = None;
            return String::new();
        }
        let since_ns = *self.hand.dry_ns.get_or_insert(now_ns);
        match now_ns >= since_ns + STREAMS_NS_MAX {
            true => format!(
                "this standby receives no WAL from node {node} ({address}); see the server's log, \
                 and docs/failover.md if it must be rewound"
            ),
            false => String::new(),
        }
    }

    /// What an errand is to do; `None`: nothing can be done now.
    fn ops(&mut self, role: Option<PgRole>) -> Option<Vec<Op>> {
        let role = role?;
        let Duty { task, slots: members, synchronous, epoch } = self.hand.duty.clone();
        if epoch == 0 {
            return None;
        }
        let standby = role == PgRole::Standby;
        let frozen = self.hand.freezing.is_some() || task == Task::Freeze;
        let mut settings = Vec::new();
        match task {
            _ if standby && frozen => {
                if !setting(c"primary_conninfo").is_empty() {
                    self.keep_conninfo();
                    settings.push(set("primary_conninfo", String::new()));
                }
            }
            Task::Follow { address, .. } if standby => {
                let (conninfo, slot) = (self.conninfo(&address), self.own_name());
                if setting(c"primary_conninfo") != conninfo {
                    self.keep_conninfo();
                    settings.push(set("primary_conninfo", conninfo));
                }
                if setting(c"primary_slot_name") != slot {
                    settings.push(set("primary_slot_name", slot));
                }
            }
            _ => {}
        }
        if let Some(wanted) = &synchronous {
            let (now, then) = (setting_names(), wanted_names(wanted));
            // Names of the operator's own are left alone while commits wait for nobody.
            let ours = now.contains("pgraft_");
            if now != then && (wanted.needed > 0 || ours) && (standby || holds_lease()) {
                settings.push(set("synchronous_standby_names", then));
            }
        }
        if !settings.is_empty() {
            settings.push(Op::Reload);
        }
        // A promotion is not to wait for slots, nor a freeze.
        let hurried = self.hand.promoting.is_some() || self.hand.freezing.is_some();
        let held = if standby { Use::Wait } else { Use::Hold };
        if !hurried {
            settings.extend(plan(&slots::all(), &members, held));
        }
        Some(settings)
    }

    fn own_name(&self) -> String {
        self.config.as_ref().map_or(String::new(), |config| standby_name(config.node_id))
    }

    /// How this standby connects to the server at `address`: what pgraft.conf says beside where, or
    /// what `primary_conninfo` said before pgraft had it.
    fn conninfo(&self, address: &Address) -> String {
        let config = self.config.as_ref().map_or("", |config| config.replication_conninfo.as_str());
        let own = setting(c"primary_conninfo");
        let kept = std::fs::read_to_string(kept_conninfo()).unwrap_or_default();
        let bases = [config, own.as_str(), kept.trim_end()];
        let base = bases.into_iter().find(|base| !base.is_empty()).unwrap_or("");
        let base = Conninfo::parse(base).unwrap_or_default();
        base.to(address, &self.own_name()).to_string()
    }

    /// What the setting says beside where outlives its being cleared.
    fn keep_conninfo(&self) {
        let now = setting(c"primary_conninfo");
        if let Ok(parsed) = Conninfo::parse(&now)
            && !parsed.base().is_empty()
            && let Err(error) =
                replace_file(&kept_conninfo(), &format!("{}\n", parsed.base()), 0o600)
        {
            log::warn!("{error}");
        }
    }

    fn send_errand(&mut self, ops: &[Op], now_ns: u64) {
        if self.hand.errand_ns.is_some() || !self.hand.pace.allows(now_ns) {
            return;
        }
        match shared::errand_area().send(ops) {
            Ok(()) => self.hand.errand_ns = Some(now_ns),
            Err(why) => self.errand_failed(why, now_ns),
        }
    }

    fn end_errand(&mut self, now_ns: u64) {
        let Some(sent_ns) = self.hand.errand_ns else { return };
        let area = shared::errand_area();
        let late = now_ns >= sent_ns + ERRAND_MAX.as_nanos() as u64;
        let outcome = match area.outcome() {
            None if late => Err("it did not end in time".to_owned()),
            None => return,
            Some(outcome) => outcome,
        };
        area.forget();
        self.hand.errand_ns = None;
        match outcome {
            Ok(()) => {
                // The settings come by SIGHUP, a moment later: not again before.
                self.hand.pace.reset();
                self.hand.failure.clear();
            }
            Err(why) => self.errand_failed(why, now_ns),
        }
    }

    fn errand_failed(&mut self, why: String, now_ns: u64) {
        self.hand.pace.failed(now_ns);
        self.hand.failure = format!("could not change this server's settings or slots: {why}");
    }
}

/// Where the connection's other parameters are kept while `primary_conninfo` is empty.
fn kept_conninfo() -> std::path::PathBuf {
    guc::data_directory().join("pgraft.conninfo")
}

fn set(name: &str, value: String) -> Op {
    Op::Set { name: name.to_owned(), value }
}

/// A setting as this process has it.
fn setting(name: &CStr) -> String {
    // SAFETY: the main thread; the text is Postgres' own until the next change, copied here.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        if value.is_null() {
            return String::new();
        }
        CStr::from_ptr(value).to_string_lossy().into_owned()
    }
}

fn setting_names() -> String {
    setting(c"synchronous_standby_names")
}

/// `ANY 1 (pgraft_2, pgraft_3)`; empty for none.
fn wanted_names(wanted: &Synchronous) -> String {
    let names = |standbys: &BTreeSet<NodeId>| {
        standbys.iter().map(|node| standby_name(*node)).collect::<Vec<String>>().join(", ")
    };
    match wanted.needed {
        0 => String::new(),
        needed => format!("ANY {needed} ({})", names(&wanted.standbys)),
    }
}

/// Whether the fence is open, and for a while yet.
fn holds_lease() -> bool {
    let later_ns = sys::now_boottime_ns() + LEASE_LEFT_NS_MIN;
    let page = shared::get_or_raise().page();
    !page.is_fenced(later_ns) || page.is_leader(later_ns)
}

/// Whether this standby receives nothing and will not begin to.
fn is_frozen() -> bool {
    // SAFETY: reads shared memory under its spinlock.
    let runs = unsafe { pg_sys::WalRcvRunning() };
    setting(c"primary_conninfo").is_empty() && !runs
}
