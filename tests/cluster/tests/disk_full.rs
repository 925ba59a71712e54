//! ENOSPC and EIO below a node's Raft directory, on a running cluster: the node steps down, says
//! so, tries again by itself, and is back once the disk is; nothing that was confirmed is lost.

mod logs;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use pgraft_cluster::check::{await_state, await_trouble, equal, expect, is_error};
use pgraft_cluster::check::{leader_among, next_leader_among};
use pgraft_cluster::{Cluster, DiskFault, Node, Options, Process, Result, Status, Stop};
use pgraft_cluster::{wait_for, with};
use rustix::process::Signal;

/// The next attempt is at most half a minute away.
const BACK_AT_MOST: Duration = Duration::from_secs(60);

/// Three nodes that lead and follow, on disks that fail on demand.
fn formed(name: &str) -> Result<Cluster> {
    let mut cluster = prepared(name)?;
    cluster.init_and_start()?;
    cluster.leader()?;
    Ok(cluster)
}

/// The same, and pgraft has not been told to start.
fn prepared(name: &str) -> Result<Cluster> {
    let mut cluster = Cluster::prepare(name, Options::calm())?;
    cluster.prepare_disk_faults()?;
    cluster.start_all()?;
    Ok(cluster)
}

fn others(id: u32) -> [u32; 2] {
    match id {
        1 => [2, 3],
        2 => [1, 3],
        _ => [1, 2],
    }
}

/// Members that are never there, added and removed to have something confirmed: their ports are
/// above the range from which Linux takes ports for outgoing connections.
#[derive(Default)]
struct Guests {
    next: u32,
    added: BTreeSet<u32>,
    removed: BTreeSet<u32>,
}

impl Guests {
    fn sql(&mut self) -> (u32, String) {
        let guest = 61_000 + self.next;
        self.next += 1;
        (guest, format!("SELECT pgraft_add_node('127.0.0.1:{guest}', {guest})"))
    }

    /// Adds one and removes the one before, through this node.
    fn change(&mut self, node: &Node) -> Result<()> {
        let (guest, add) = self.sql();
        let mut session = node.session()?;
        session.run(&add)?;
        self.added.insert(guest);
        if let Some(former) = self.added.difference(&self.removed).next().copied() {
            session.run(&format!("SELECT pgraft_remove_node({former})"))?;
            self.removed.insert(former);
        }
        Ok(())
    }

    /// All logs are equal and hold every change that was confirmed.
    fn check(&self, cluster: &mut Cluster) -> Result<()> {
        let commit = logs::await_rest(cluster, BACK_AT_MOST)?;
        cluster.stop_all(Stop::Fast)?;
        let changes = logs::agreed_changes(cluster, commit)?;
        let lost: Vec<_> = self.added.difference(&changes.added).collect();
        expect(lost.is_empty(), || format!("confirmed and lost: the addition of {lost:?}"))?;
        let lost: Vec<_> = self.removed.difference(&changes.removed).collect();
        expect(lost.is_empty(), || format!("confirmed and lost: the removal of {lost:?}"))?;
        for node in cluster.nodes() {
            let bad = ["panicked", "PANIC", "damaged", "lost data", "lost log entries"];
            let log = node.log();
            let found = log.lines().find(|line| bad.iter().any(|b| line.contains(b)));
            expect(found.is_none(), || format!("node {}: {found:?}", node.id()))?;
        }
        Ok(())
    }
}

fn worker(node: &Node) -> Result<Process> {
    wait_for("a worker", BACK_AT_MOST, || Ok(node.worker()))
}

/// The node shows the fault, takes no part, and has tried again in vain.
fn await_failed(node: &Node, fault: DiskFault) -> Result<()> {
    let status = await_trouble(node, fault.words())?;
    equal(status.get("state"), "error", "state")?;
    equal(status.get("role"), "", "role")?;
    equal(status.get("has_quorum"), "f", "has_quorum")?;
    let mut session = node.session()?;
    expect(!session.is_true("SELECT pgraft_is_leader()")?, || "it leads".to_owned())?;
    expect(!session.is_true("SELECT pgraft_is_healthy()")?, || "it is healthy".to_owned())?;
    wait_for("several attempts in vain", BACK_AT_MOST, || {
        Ok(node.log().contains("trying again in 4 s").then_some(()))
    })?;
    let status = await_trouble(node, fault.words())?;
    equal(status.get("state"), "error", "state after several attempts")?;
    let log = node.log();
    expect(log.contains("consensus stops on this node"), || "not in the log".to_owned())?;
    expect(log.contains(fault.words()), || "the reason is not in the log".to_owned())
}

fn leader_fails(name: &str, fault: DiskFault) {
    with(formed(name), |cluster| {
        let (leader, term) = cluster.leader()?;
        let node = cluster.node(leader);
        let process = worker(node)?;
        let mut guests = Guests::default();
        guests.change(node)?;

        node.set_disk_fault(Some(fault))?;
        // What became of it is unknown: the followers may have stored it.
        let (_, add) = guests.sql();
        is_error(&node.session()?.error(&add)?, "40003", &[])?;
        await_failed(node, fault)?;
        let (next, _) = next_leader_among(cluster, &others(leader), (leader, term))?;
        guests.change(cluster.node(next))?;
        let refused = node.session()?.error("SELECT pgraft_remove_node(61000)")?;
        is_error(&refused, "55000", &[fault.words(), "tried again by itself"])?;

        node.set_disk_fault(None)?;
        cluster.leader_within(BACK_AT_MOST)?;
        guests.change(node)?;
        equal(worker(node)?, process, "the worker's process")?;
        guests.check(cluster)
    });
}

#[test]
fn a_leader_with_a_full_disk_steps_down_and_is_back_by_itself() {
    leader_fails("disk-full-leader", DiskFault::Full);
}

#[test]
fn a_leader_whose_fdatasync_fails_steps_down_and_is_back_by_itself() {
    leader_fails("disk-sync-leader", DiskFault::SyncFails);
}

#[test]
fn a_follower_whose_disk_fails_is_missed_by_nobody_and_catches_up() {
    with(formed("disk-follower"), |cluster| {
        let mut guests = Guests::default();
        for fault in [DiskFault::Full, DiskFault::WriteFails] {
            let (leader, _) = cluster.leader()?;
            let node = cluster.node(others(leader)[0]);
            let began = node.log().len();
            node.set_disk_fault(Some(fault))?;
            guests.change(cluster.node(leader))?;
            await_trouble(node, fault.words())?;
            let (now, _) = leader_among(cluster, &others(node.id()))?;
            guests.change(cluster.node(now))?;
            node.set_disk_fault(None)?;
            cluster.leader_within(BACK_AT_MOST)?;
            expect(node.log()[began..].contains("trying again in"), || "no word".to_owned())?;
            guests.change(node)?;
        }
        guests.check(cluster)
    });
}

#[test]
fn a_disk_that_is_full_while_the_cluster_forms_delays_it() {
    with(prepared("disk-forming"), |cluster| {
        cluster.create_extension()?;
        for node in cluster.nodes() {
            node.session()?.run("SELECT pgraft_init()")?;
        }
        // With a full disk a first start is refused, and not tried again.
        let first = cluster.node(1);
        first.set_disk_fault(Some(DiskFault::Full))?;
        let error = first.session()?.error("SELECT pgraft_start()")?;
        is_error(&error, "58030", &[DiskFault::Full.words(), "Free space"])?;
        equal(Status::of(first)?.get("last_error"), error.message.as_str(), "last_error")?;
        first.set_disk_fault(None)?;

        // Full from when they wait for node 2 on: the lowest id writes the genesis entry, and
        // fails, then the other.
        for id in [1, 3] {
            let node = cluster.node(id);
            node.session()?.run("SELECT pgraft_start()")?;
            await_state(node, "forming")?;
            node.set_disk_fault(Some(DiskFault::Full))?;
        }
        cluster.node(2).session()?.run("SELECT pgraft_start()")?;
        await_failed(first, DiskFault::Full)?;
        first.set_disk_fault(None)?;
        wait_for("nodes 1 and 2 lead and follow", BACK_AT_MOST, || {
            pgraft_cluster::leader_of([1, 2].map(|id| cluster.node(id)))
        })?;
        await_failed(cluster.node(3), DiskFault::Full)?;
        cluster.node(3).set_disk_fault(None)?;
        cluster.leader_within(BACK_AT_MOST)?;
        let mut guests = Guests::default();
        guests.change(cluster.node(3))?;
        guests.check(cluster)
    });
}

#[test]
fn start_stop_and_restarts_while_the_disk_is_full() {
    with(formed("disk-start-stop"), |cluster| {
        let fault = DiskFault::Full;
        let (leader, _) = cluster.leader()?;
        let id = others(leader)[0];
        let node = cluster.node(id);
        let mut session = node.session()?;
        let mut guests = Guests::default();
        node.set_disk_fault(Some(fault))?;
        guests.change(cluster.node(leader))?;
        await_trouble(node, fault.words())?;

        // A start says what is wrong, and the node goes on trying; so does the next worker.
        is_error(&session.error("SELECT pgraft_start()")?, "58030", &[fault.words()])?;
        await_trouble(node, "; trying again in ")?;
        is_error(&session.error("SELECT pgraft_init()")?, "58030", &[fault.words()])?;
        await_trouble(node, "; trying again in ")?;
        let old = worker(node)?;
        old.signal(Signal::TERM);
        wait_for("another worker", BACK_AT_MOST, || {
            Ok(node.worker().filter(|new| *new != old).map(|_| ()))
        })?;
        await_trouble(node, "; trying again in ")?;
        node.set_disk_fault(None)?;
        cluster.leader_within(BACK_AT_MOST)?;

        // A stop holds, although it cannot be written down and says so.
        node.set_disk_fault(Some(DiskFault::SyncFails))?;
        guests.change(cluster.node(leader))?;
        await_trouble(node, DiskFault::SyncFails.words())?;
        let error = session.error("SELECT pgraft_stop()")?;
        is_error(&error, "58030", &[DiskFault::SyncFails.words(), "once the server"])?;
        node.set_disk_fault(None)?;
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            let status = Status::of(node)?;
            equal(status.get("state"), "stopped", "state")?;
            equal(status.get("last_error"), error.message.as_str(), "last_error")?;
            std::thread::sleep(Duration::from_millis(50));
        }
        // Now it can be.
        expect(session.is_true("SELECT pgraft_stop()")?, || "pgraft_stop()".to_owned())?;
        cluster.node_mut(id).stop(Stop::Fast)?;
        cluster.node_mut(id).start()?;
        let status = await_state(cluster.node(id), "stopped")?;
        equal(status.get("last_error"), "", "last_error")?;
        cluster.node(id).session()?.run("SELECT pgraft_start()")?;
        cluster.leader_within(BACK_AT_MOST)?;
        guests.check(cluster)
    });
}
