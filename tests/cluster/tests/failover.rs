//! The primary's role moves: real servers, real replication, real kills.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgraft_cluster::check::{SOON, await_process, equal, expect};
use pgraft_cluster::writer::{Kind, Pace, Writers};
use pgraft_cluster::{Cluster, Failure, Node, Options, Result, Status, Stop, wait_for, with};

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

/// For clients that write in each way.
fn options_for_load(pgraft: &str) -> Options {
    let postgresql = "max_prepared_transactions = 20\n".to_owned();
    Options { postgresql, ..options(pgraft) }
}

/// Clients of each node, and who the primary is.
fn load(cluster: &Cluster) -> Result<(Writers, u32)> {
    let primary = cluster.settled_primary(SOON)?;
    let kinds = [Kind::Insert, Kind::Block, Kind::Prepared];
    let writers = Writers::start(cluster, cluster.node(primary), &kinds, Pace::default())?;
    writers.ledger().await_commit(primary, SOON)?;
    Ok((writers, primary))
}

/// Every commit that was acknowledged so far is on this primary, and no other commits.
fn expect_all(cluster: &Cluster, writers: &Writers, primary: u32, what: &str) -> Result<()> {
    let ledger = writers.ledger();
    ledger.await_commit(primary, SOON)?;
    let verdict = ledger.compare(cluster.node(primary))?;
    println!("{what}: {verdict}");
    expect(verdict.is_one_history() && verdict.lost.is_empty(), || format!("{what}: {verdict}"))
}

/// Asks node `asked` to move the role away from `old`. If it is to be node `to`'s, that one lacks
/// what clients have written for a while, and gets it when the move is under way.
fn ask_for_move(
    cluster: &Cluster,
    writers: &Writers,
    (old, asked, to): (u32, u32, Option<u32>),
    sql: &str,
) -> Result<()> {
    let receiver = to.map(|to| await_process(cluster.node(to), "walreceiver")).transpose()?;
    if let Some(receiver) = receiver {
        receiver.pause();
        let before = writers.ledger().count();
        wait_for("commits that it has not", SOON, || {
            Ok((writers.ledger().count() >= before + 20).then_some(()))
        })?;
    }
    let (mut session, sql) = (cluster.node(asked).session()?, sql.to_owned());
    let moving = std::thread::spawn(move || session.is_true(&sql));
    if let (Some(receiver), Some(to)) = (receiver, to) {
        let begun = format!("moving the primary's role to node {to}: commits wait");
        wait_for(&begun, SOON, || Ok(cluster.node(old).log().contains(&begun).then_some(())))?;
        std::thread::sleep(Duration::from_millis(500));
        receiver.resume();
    }
    let moved = moving.join().map_err(|_| Failure::new("who asked for the move panicked"))??;
    expect(moved, || "it was refused".into())
}

/// Moves the role there, and back, and to whom the leader chooses.
fn planned_moves_lose_nothing(name: &str, pgraft: &str) {
    with(Cluster::form(name, options_for_load(pgraft)), |cluster| {
        let (writers, first) = load(cluster)?;
        let other = if first == 1 { 2 } else { 1 };
        let third = 6 - first - other;
        let transfer = |to: u32| format!("SELECT pgraft_transfer_leadership({to})");
        let force = "SELECT pgraft_force_election()".to_owned();
        let moves = [
            ((first, third, Some(other)), transfer(other)),
            ((other, other, Some(first)), transfer(first)),
            ((first, first, None), force),
        ];
        for (who, sql) in moves {
            let (old, asked, to) = who;
            let what = format!("{sql} on node {asked}");
            writers.ledger().await_commit(old, SOON)?;
            ask_for_move(cluster, &writers, who, &sql)
                .map_err(|failure| Failure::new(format!("{what}: {failure}")))?;
            let new = cluster.next_primary(Some(old), SOON)?;
            equal(to.unwrap_or(new), new, "who is the primary")?;
            expect_all(cluster, &writers, new, &what)?;
            cluster.rejoin(old, new)?;
            cluster.await_streaming(new, SOON)?;
        }
        Ok(())
    });
}

#[test]
fn planned_moves_under_load_lose_nothing() {
    planned_moves_lose_nothing("failover-move", "");
}

#[test]
fn planned_moves_under_load_lose_nothing_with_synchronous_mode() {
    planned_moves_lose_nothing("failover-move-sync", "synchronous_mode = quorum\n");
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
        // Longer than it takes a server's reports to come around: nobody takes it for stopping.
        std::thread::sleep(Duration::from_millis(2500));
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

/// Its WAL senders end after the checkpoint, which does not come.
#[test]
fn while_the_primary_is_being_shut_down_nobody_is_promoted_and_then_nothing_is_lost() {
    let grace = "failover_grace_ms = 1000\n";
    with(Cluster::form("failover-slow-stop", options_for_load(grace)), |cluster| {
        let (writers, old) = load(cluster)?;
        let named = cluster.last_named()?;
        let checkpointer = await_process(cluster.node(old), "checkpointer")?;
        checkpointer.pause();
        cluster.node(old).begin_stop(Stop::Fast);
        let said = format!("the primary, node {old}, is being shut down");
        let waits = |node: &Node| {
            let status = Status::of(node)?;
            Ok::<_, Failure>(status.is_leader() && status.get("last_error").contains(&said))
        };
        let others: Vec<u32> = (1..=3).filter(|id| *id != old).collect();
        let leader = wait_for("another leads, and waits", SOON, || {
            for id in &others {
                if waits(cluster.node(*id))? {
                    return Ok(Some(*id));
                }
            }
            Ok(None)
        })?;
        std::thread::sleep(Duration::from_secs(5));
        expect(waits(cluster.node(leader))?, || "it waits no more".into())?;
        equal(cluster.last_named()?, named, "who is named")?;
        expect(cluster.node(old).is_stopping(), || "it has stopped".into())?;
        checkpointer.resume();
        cluster.node_mut(old).await_stop()?;
        let new = cluster.next_primary(Some(old), SOON)?;
        expect_all(cluster, &writers, new, "a fast stop with a slow checkpoint")
    });
}

#[test]
fn a_worker_that_restarts_moves_nothing_and_paused_nobody_is_promoted() {
    with(formed("failover-not", ""), |cluster| {
        let named = cluster.last_named()?;
        // The same standby hands leadership back each time.
        for _ in 0..4 {
            let worker = cluster.node(1).worker().expect("a worker");
            worker.signal(rustix::process::Signal::TERM);
            std::thread::sleep(Duration::from_secs(3));
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
