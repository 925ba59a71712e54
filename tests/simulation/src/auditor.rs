//! What must hold of commits: who may make them, and where those that were acknowledged are. The
//! names of the checks stand before the colon of what they panic with; docs/testing.md lists them.

use std::collections::{BTreeMap, BTreeSet};

use pgraft::cluster::{ClusterState, Primary};
use pgraft::raft::NodeId;

use crate::postgres::{Postgres, Record};

/// How long before a pause is known may be named what is named after it: both stand in the log.
const PAUSE_NS: u64 = 3_000_000_000;

/// An acknowledged commit: its LSN and its record.
type Commit = (usize, Record);

/// It sees all servers at once.
#[derive(Debug, Default)]
pub struct Auditor {
    /// The window of each fence, in the world's time, in which commits pass.
    fences: BTreeMap<u32, (u64, u64)>,
    /// Who was promoted onto each timeline.
    promotions: BTreeMap<u32, u32>,
    /// The epoch and the host of the last acknowledged commit.
    last: Option<(u64, u32)>,
    /// Acknowledged, in the order of that.
    acknowledged: Vec<Commit>,
    /// The mode as the node that applied most has it.
    synchronous: bool,
    /// Voters that are removed by force, which gives up what is promised of the others.
    pub forced: BTreeSet<NodeId>,
    /// Acknowledged, and begun, in one period in which every commit waits for a majority.
    safe: Vec<Commit>,
    /// The hosts whose commits wait for a majority since the mode was last changed, each with the
    /// period that began then.
    in_force: BTreeMap<u32, u64>,
    /// Counts these periods.
    periods: u64,
    /// By the epoch and the node of a planned move: what the new primary has to have.
    moves: BTreeMap<(u64, NodeId), Vec<Commit>>,
    /// The primary named last.
    named: Option<Primary>,
    /// Since when automatic failover is known to be paused.
    paused_ns: Option<u64>,
    /// Nobody may be promoted without being asked for.
    pub by_hand: bool,
    /// How far the most advanced state is.
    applied: u64,
    /// How many checks were made.
    pub checks: u64,
}

impl Auditor {
    fn check(&mut self, holds: bool, name: &str, what: impl FnOnce() -> String) {
        self.checks += 1;
        if !holds {
            panic!("{name}: {}", what());
        }
    }

    /// A page shows another fence: when commits pass, in the world's time.
    pub fn fence(&mut self, host: u32, now_ns: u64, window: (u64, u64)) {
        self.fences.insert(host, window);
        if window.1 <= now_ns {
            return;
        }
        let overlaps =
            |other: &(u64, u64)| window.0.max(other.0).max(now_ns) < window.1.min(other.1);
        let other = self.fences.iter().find(|(node, other)| **node != host && overlaps(other));
        let other = other.map(|(node, window)| (*node, *window));
        self.check(other.is_none(), "one fence is open at a time", || {
            format!("commits pass on n{host} in {window:?}, and on {other:?}; it is {now_ns}")
        });
    }

    /// A server's shared memory is gone.
    pub fn closed(&mut self, host: u32) {
        self.fences.remove(&host);
    }

    /// A server was promoted.
    pub fn promoted(&mut self, host: u32, timeline: u32) {
        let before = self.promotions.insert(timeline, host);
        self.check(before.is_none(), "a timeline is given once", || {
            format!("n{host} is promoted onto {timeline}, as was {before:?}")
        });
    }

    /// In which period the commits of that host wait for a majority.
    pub fn period(&self, host: u32) -> Option<u64> {
        self.in_force.get(&host).copied()
    }

    /// A client was told that its commit is done, on that host at that time. What looked at the
    /// fence before the mode was in force, in that period, may have been let go before it was.
    pub fn acknowledged(
        &mut self,
        at: (u32, u64),
        epoch: u64,
        commit: Commit,
        period: Option<u64>,
    ) {
        let (host, now_ns) = at;
        let (last, window) = (self.last, self.fences.get(&host).copied());
        let (before, by) = last.unwrap_or_default();
        // A primary that is named again may have let a commit pass under each epoch.
        let ascends = before < epoch || by == host || last.is_none();
        self.check(ascends, "acknowledged commits do not interleave", || {
            format!(
                "n{host} in epoch {epoch} after n{by} in {before}; its fence {window:?}, {now_ns}"
            )
        });
        self.last = Some((epoch.max(before), host));
        self.acknowledged.push(commit);
        if period.is_some() && period == self.period(host) {
            self.safe.push(commit);
        }
    }

    /// A client is about to be told that its commit is done by a host that names a successor: that
    /// one was found to have all that was committed.
    pub fn told(&mut self, host: u32, successor: Option<NodeId>) {
        self.check(successor.is_none(), "nobody commits while the next is named", || {
            format!("n{host} names {successor:?}")
        });
    }

    /// The primary's commits wait for enough standbys, under the mode that it knows.
    pub fn waits(&mut self, host: u32, state: &ClusterState) {
        if self.synchronous && state.synchronous && !self.in_force.contains_key(&host) {
            self.periods += 1;
            self.in_force.insert(host, self.periods);
        }
    }

    /// A planned move has come to where there is no way back.
    pub fn moves(&mut self, state: &ClusterState, to: NodeId, from: &Postgres) {
        let has = |commit: &&Commit| from.holds(commit.0, commit.1);
        let held = || self.acknowledged.iter().filter(has).copied().collect();
        self.moves.entry((state.epoch() + 1, to)).or_insert_with(held);
    }

    /// A node has applied something.
    pub fn applied(&mut self, now_ns: u64, state: &ClusterState) {
        if state.applied.0 <= self.applied {
            return;
        }
        self.applied = state.applied.0;
        let forced = self.forced.len();
        self.forced.retain(|node| state.members.contains_key(node));
        if state.synchronous != self.synchronous || self.forced.len() != forced {
            self.synchronous = state.synchronous;
            self.in_force.clear();
            self.safe.clear();
        }
        if let Some(primary) = state.primary.filter(|_| state.primary != self.named) {
            self.name(now_ns, primary);
        }
        self.paused_ns = match state.paused {
            true => self.paused_ns.or(Some(now_ns)),
            false => None,
        };
    }

    fn name(&mut self, now_ns: u64, primary: Primary) {
        let before = self.named.replace(primary);
        let planned = self.moves.contains_key(&(primary.epoch, primary.node));
        let paused = self.paused_ns.is_some_and(|since| now_ns > since + PAUSE_NS);
        let same = before.is_none_or(|before| before.node == primary.node);
        let may = same || planned || !(paused || self.by_hand);
        self.check(may, "paused, nobody is named", || {
            format!("{primary:?} after {before:?}; paused: {paused}")
        });
        let epoch = before.map_or(0, |before| before.epoch);
        self.check(primary.epoch > epoch, "epochs ascend", || {
            format!("{primary:?} after {before:?}")
        });
    }

    /// The fence of a primary opens: what must be on it?
    pub fn opens(&mut self, host: u32, epoch: u64, node: NodeId, pg: &Postgres) {
        let lost = self.safe.iter().find(|commit| !pg.holds(commit.0, commit.1)).copied();
        self.check(lost.is_none(), "an acknowledged synchronous commit stays", || {
            format!("n{host} opens in epoch {epoch} without {lost:?}")
        });
        let moved = self.moves.get(&(epoch, node));
        let lost = moved.and_then(|all| all.iter().find(|commit| !pg.holds(commit.0, commit.1)));
        let lost = lost.copied();
        self.check(lost.is_none(), "a planned move loses nothing", || {
            format!("n{host} opens in epoch {epoch} without {lost:?}")
        });
    }
}
