//! The primary's role moves: real servers, real replication, real kills.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgraft_cluster::check::{SOON, equal, expect};
use pgraft_cluster::{Cluster, Node, Options, Result, Stop, wait_for, with};

/// Whether a row can be written on `node` now.
fn writes(node: &Node) -> bool {
    node.session().is_ok_and(|mut session| {
        session.run("SET pgraft.fence_wait = 0").is_ok()
            && session.run("INSERT INTO t VALUES (1)").is_ok()
    })
}

fn await_writes(cluster: &Cluster, ids: &[u32]) -> Result<u32> {
    wait_for(&format!("one of {ids:?} takes writes"), SOON, || {
        let nodes = cluster.nodes().iter().filter(|node| ids.contains(&node.id()));
        Ok(nodes.into_iter().find(|node| writes(node)).map(Node::id))
    })
}

/// Waits until `node`'s server streams from that of `primary`.
fn await_follows(cluster: &Cluster, node: u32, primary: u32) -> Result<()> {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_replication
                        WHERE application_name = 'pgraft_{node}' AND state = 'streaming')"
    );
    wait_for(&format!("node {node} follows node {primary}"), SOON, || {
        Ok(cluster.node(primary).session()?.is_true(&sql)?.then_some(()))
    })
}

fn options(pgraft: &str) -> Options {
    Options { failover: true, pgraft: pgraft.to_owned(), ..Options::default() }
}

/// A cluster whose node 1 takes writes, and which the others follow.
fn formed(name: &str, pgraft: &str) -> Result<Cluster> {
    let mut cluster = Cluster::form(name, options(pgraft))?;
    wait_for("a table", SOON, || {
        Ok(cluster.node(1).session()?.run("CREATE TABLE t (a int)").ok())
    })?;
    await_writes(&cluster, &[1])?;
    for id in [2, 3] {
        await_follows(&cluster, id, 1)?;
    }
    cluster.leader()?;
    let _ = &mut cluster;
    Ok(cluster)
}

#[test]
fn when_the_primary_is_killed_a_standby_takes_over_and_the_other_follows() {
    with(formed("failover-kill", ""), |cluster| {
        let began = Instant::now();
        cluster.node_mut(1).kill();
        let new = await_writes(cluster, &[2, 3])?;
        println!("node {new} takes writes after {} ms", began.elapsed().as_millis());
        await_follows(cluster, 5 - new, new)?;
        // The old one comes back as it was, and commits nothing.
        cluster.node_mut(1).start()?;
        wait_for("node 1 knows that it is deposed", SOON, || {
            let mut session = cluster.node(1).session()?;
            let said = session.value("SELECT last_error FROM pgraft_status()")?;
            Ok(said.filter(|said| said.contains("deposed primary")).map(|_| ()))
        })?;
        let error = cluster.node(1).session()?.error("INSERT INTO t VALUES (2)")?;
        equal(error.sqlstate.as_deref(), Some("25006"), &error.message)?;
        expect(writes(cluster.node(new)), || "the new primary stopped to write".into())
    });
}

#[test]
fn a_planned_move_loses_nothing_and_can_be_made_back() {
    with(formed("failover-move", ""), |cluster| {
        let mut session = cluster.node(3).session()?;
        expect(session.is_true("SELECT pgraft_transfer_leadership(2)")?, || "not moved".into())?;
        equal(await_writes(cluster, &[1, 2, 3])?, 2, "the primary")?;
        await_follows(cluster, 3, 2)?;
        let count = "SELECT count(*) FROM t";
        let (old, new) = (cluster.node(1).session()?.value(count)?, {
            cluster.node(2).session()?.value(count)?
        });
        let number = |n: &Option<String>| n.as_ref().and_then(|n| n.parse::<i64>().ok());
        expect(number(&new) >= number(&old), || format!("{new:?} rows are left of {old:?}"))
    });
}

/// Writes and flushes WAL on `node`, without any commit, until told to stop or the server ends it.
/// Little at a time: a standby of which a record is missing at the end of a segment of WAL, when
/// the timeline changes there, is ended by PostgreSQL (docs/troubleshooting.md).
fn write_without_commit(node: &Node, stop: &AtomicBool) -> Result<()> {
    let mut session = node.session()?;
    let more = "SELECT pg_logical_emit_message(false, 'test', repeat('x', 100), true)";
    session.run(more)?;
    while !stop.load(Ordering::Relaxed) && session.run(more).is_ok() {}
    Ok(())
}

/// A primary that has been told to let go writes and sends WAL until its successor is named.
#[test]
fn after_a_planned_move_the_standby_beside_it_has_nothing_to_rewind() {
    with(formed("failover-beside", ""), |cluster| {
        for (old, new) in [(1, 2), (2, 1), (1, 2)] {
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let writer = scope.spawn(|| write_without_commit(cluster.node(old), &stop));
                let moved = cluster.node(3).session().and_then(|mut session| {
                    std::thread::sleep(Duration::from_millis(500));
                    let sql = format!("SELECT pgraft_transfer_leadership({new})");
                    Ok(session.is_true(&sql)?)
                });
                let follows = await_follows(cluster, 3, new);
                stop.store(true, Ordering::Relaxed);
                writer.join().expect("the writer of WAL panicked")?;
                expect(moved?, || "not moved".into())?;
                follows
            })?;
            await_writes(cluster, &[new])?;
            cluster.rejoin(old, new)?;
            await_follows(cluster, old, new)?;
        }
        Ok(())
    });
}

#[test]
fn with_synchronous_mode_commits_wait_for_a_majority_and_survive() {
    with(formed("failover-sync", "synchronous_mode = quorum\n"), |cluster| {
        let names = "SHOW synchronous_standby_names";
        wait_for("the names", SOON, || {
            let found = cluster.node(1).session()?.value(names)?;
            Ok(found.filter(|names| names == "ANY 1 (pgraft_2, pgraft_3)"))
        })?;
        let mut session = cluster.node(1).session()?;
        for _ in 0..100 {
            session.run("INSERT INTO t VALUES (7)")?;
        }
        drop(session);
        cluster.node_mut(1).kill();
        let new = await_writes(cluster, &[2, 3])?;
        let mut session = cluster.node(new).session()?;
        let rows = session.value("SELECT count(*) FROM t WHERE a = 7")?;
        equal(rows.as_deref(), Some("100"), "acknowledged rows")
    });
}

#[test]
fn a_fast_stop_of_the_primary_hands_over() {
    with(formed("failover-stop", ""), |cluster| {
        let mut session = cluster.node(1).session()?;
        for _ in 0..100 {
            session.run("INSERT INTO t VALUES (7)")?;
        }
        drop(session);
        cluster.node_mut(1).stop(Stop::Fast)?;
        let new = await_writes(cluster, &[2, 3])?;
        let mut session = cluster.node(new).session()?;
        let rows = session.value("SELECT count(*) FROM t WHERE a = 7")?;
        equal(rows.as_deref(), Some("100"), "acknowledged rows")
    });
}

/// While clients are connected, a server that is being shut down smartly serves them.
#[test]
fn a_smart_stop_of_the_primary_moves_nothing_until_the_last_client_has_left() {
    with(formed("failover-smart", ""), |cluster| {
        let mut session = cluster.node(1).session()?;
        let postmaster = cluster.node(1).postmaster().expect("a postmaster");
        postmaster.signal(rustix::process::Signal::TERM);
        wait_for("no one is let in", SOON, || Ok(cluster.node(1).session().err().map(drop)))?;
        // Leadership comes back to it.
        expect(cluster.node(2).session()?.is_true("SELECT pgraft_force_election()")?, || {
            "no election".into()
        })?;
        wait_for("node 1 commits again", SOON, || {
            Ok(session.run("INSERT INTO t VALUES (7)").ok())
        })?;
        drop(session);
        let new = await_writes(cluster, &[2, 3])?;
        let rows = cluster.node(new).session()?.value("SELECT count(*) FROM t WHERE a = 7")?;
        equal(rows.as_deref(), Some("1"), "acknowledged rows")
    });
}

#[test]
fn a_worker_that_restarts_moves_nothing_and_paused_nobody_is_promoted() {
    with(formed("failover-not", ""), |cluster| {
        let named = cluster.last_named()?;
        // The same standby hands leadership back each time.
        for _ in 0..5 {
            let worker = cluster.node(1).worker().expect("a worker");
            worker.signal(rustix::process::Signal::TERM);
            std::thread::sleep(Duration::from_secs(4));
            equal(await_writes(cluster, &[1, 2, 3])?, 1, "the primary")?;
        }
        equal(cluster.last_named()?, named, "who was named last")?;
        let mut session = cluster.node(2).session()?;
        expect(session.is_true("SELECT pgraft_pause()")?, || "not paused".into())?;
        cluster.node_mut(1).kill();
        std::thread::sleep(Duration::from_secs(5));
        expect(!writes(cluster.node(2)) && !writes(cluster.node(3)), || "promoted".into())?;
        expect(session.is_true("SELECT pgraft_resume()")?, || "not resumed".into())?;
        await_writes(cluster, &[2, 3]).map(|_| ())
    });
}
