//! Commits that the fence of a primary lets pass, holds up, or comes too late for: what the client
//! is told is true in each case.

use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use pgraft_cluster::check::{SOON, equal, expect};
use pgraft_cluster::{Cluster, Failure, Node, Options, Process, Result, Session, SqlError};
use pgraft_cluster::{wait_for, with};

/// Three quarters of it are the lease; the rest is how long a test has between the end of a lease
/// and the first election.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(4);

fn formed(name: &str) -> Result<Cluster> {
    let options = Options {
        failover: true,
        postgresql: "max_prepared_transactions = 10\n".to_owned(),
        pgraft: format!(
            "raft_election_timeout_ms = {}\nsynchronous_mode = quorum\n",
            ELECTION_TIMEOUT.as_millis()
        ),
        ..Options::default()
    };
    let cluster = Cluster::form(name, options)?;
    let primary = cluster.node(1);
    wait_for("a table", SOON, || {
        let made = primary.session()?.run("CREATE TABLE IF NOT EXISTS t (a int PRIMARY KEY)");
        Ok(made.ok())
    })?;
    wait_for("commits wait for a majority", SOON, || {
        let names = primary.session()?.value("SHOW synchronous_standby_names")?;
        Ok((names.as_deref() == Some("ANY 1 (pgraft_2, pgraft_3)")).then_some(()))
    })?;
    Ok(cluster)
}

/// The processes that bring WAL to the standbys.
fn wal_receivers(cluster: &Cluster) -> Result<Vec<Process>> {
    let receiver = |node: &Node| {
        node.processes().into_iter().find(|process| process.title().contains(" walreceiver"))
    };
    [2, 3]
        .iter()
        .map(|id| wait_for("a WAL receiver", SOON, || Ok(receiver(cluster.node(*id)))))
        .collect()
}

type Running = JoinHandle<Result<std::result::Result<(), SqlError>>>;

/// Runs the last statement in a thread, once the others are done.
fn begin(node: &Node, before: &[&str], sql: &'static str) -> Result<Running> {
    let mut session = Session::connect(node.place.pg_port)?;
    for sql in before {
        session.run(sql)?;
    }
    Ok(std::thread::spawn(move || Ok(session.run(sql))))
}

fn outcome(running: Running) -> Result<std::result::Result<(), SqlError>> {
    running.join().map_err(|_| Failure::new("the thread panicked"))?
}

fn await_waiting(node: &Node, event: &str, wanted: usize) -> Result<()> {
    let sql = format!("SELECT pid FROM pg_stat_activity WHERE wait_event = '{event}'");
    wait_for(&format!("{wanted} wait for {event}"), SOON, || {
        Ok((node.session()?.rows(&sql)?.len() == wanted).then_some(()))
    })
}

fn await_fenced(node: &Node) -> Result<()> {
    // One session: what matters comes at once after.
    let mut session = node.session()?;
    wait_for("the lease has ended", SOON, || {
        Ok(session.is_true("SELECT fenced FROM pgraft_status()")?.then_some(()))
    })
}

/// What has passed the fence and will wait for a standby, of each kind: two rows and one prepared.
fn begin_all(node: &Node) -> Result<Vec<(&'static str, Running)>> {
    let [first, second] = [1, 2].map(|value| format!("BEGIN; INSERT INTO t VALUES ({value})"));
    [(first, "COMMIT"), (second, "PREPARE TRANSACTION 'late'"), ("".into(), COMMIT_EARLY)]
        .into_iter()
        .map(|(before, sql)| Ok((sql, begin(node, &[&before], sql)?)))
        .collect()
}

const COMMIT_EARLY: &str = "COMMIT PREPARED 'early'";

fn prepare_early(node: &Node, value: u32) -> Result<()> {
    let mut session = node.session()?;
    session.run(&format!("BEGIN; INSERT INTO t VALUES ({value})"))?;
    session.run("PREPARE TRANSACTION 'early'")?;
    Ok(())
}

#[test]
fn a_commit_that_ends_after_the_lease_is_not_reported_as_done() {
    with(formed("fence-late"), |cluster| {
        let node = cluster.node(1);
        prepare_early(node, 3)?;
        let receivers = wal_receivers(cluster)?;
        receivers.iter().for_each(|process| process.pause());
        let running = begin_all(node)?;
        await_waiting(node, "SyncRep", 3)?;
        let worker = node.worker().ok_or_else(|| Failure::new("no worker"))?;
        worker.pause();
        await_fenced(node)?;
        receivers.iter().for_each(|process| process.resume());
        for (what, running) in running {
            let Err(error) = outcome(running)? else {
                return Err(Failure::new(format!("{what} was reported as done")));
            };
            equal(error.sqlstate.as_deref(), None, &format!("{what}: {error}"))?;
        }
        let said = "closed a client's connection in place of reporting its commit";
        equal(node.log().matches(said).count(), 3, "lines in the log")?;
        worker.resume();
        cluster.leader().map(|_| ())
    });
}

#[test]
fn a_commit_that_outlasts_its_lease_is_reported_if_the_lease_went_on() {
    with(formed("fence-long"), |cluster| {
        let node = cluster.node(1);
        prepare_early(node, 3)?;
        let receivers = wal_receivers(cluster)?;
        receivers.iter().for_each(|process| process.pause());
        let running = begin_all(node)?;
        await_waiting(node, "SyncRep", 3)?;
        // Longer than any lease that they can have been let pass by.
        sleep(ELECTION_TIMEOUT);
        receivers.iter().for_each(|process| process.resume());
        for (what, running) in running {
            outcome(running)?.map_err(|error| Failure::new(format!("{what}: {error}")))?;
        }
        let rows = node.session()?.value("SELECT count(*) FROM t")?;
        equal(rows.as_deref(), Some("2"), "rows: one is prepared")
    });
}

#[test]
fn a_commit_waits_for_a_lease_that_comes_back() {
    with(formed("fence-back"), |cluster| {
        let node = cluster.node(1);
        let (leader, _) = cluster.leader()?;
        equal(leader, 1, "the leader")?;
        let worker = node.worker().ok_or_else(|| Failure::new("no worker"))?;
        worker.pause();
        await_fenced(node)?;
        let wait = "SET pgraft.fence_wait = '1min'";
        let running = begin(node, &[wait], "INSERT INTO t VALUES (1)")?;
        await_waiting(node, "PgraftFence", 1)?;
        let began = Instant::now();
        worker.resume();
        outcome(running)??;
        println!("committed {:?} after the worker went on", began.elapsed());
        expect(cluster.leader()?.0 == 1, || "another node leads".to_owned())
    });
}
