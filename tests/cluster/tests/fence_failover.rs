//! The fence through whole failovers: what was let pass before and ends after, and servers on which
//! nobody can connect any more.

use std::thread::JoinHandle;

use pgraft_cluster::check::{SOON, equal, expect, is_error};
use pgraft_cluster::{Cluster, Failure, Node, Options, Process, Result, Session, SqlError};
use pgraft_cluster::{WalFault, wait_for, with};

type Running = JoinHandle<std::result::Result<(), SqlError>>;

/// Commits of each kind, after what comes before them in their session.
const COMMITS: [(&str, &str); 7] = [
    ("", "INSERT INTO t VALUES (11)"),
    ("BEGIN READ WRITE; INSERT INTO t VALUES (12)", "COMMIT"),
    ("BEGIN; INSERT INTO t VALUES (13)", "PREPARE TRANSACTION 'late'"),
    ("", "COMMIT PREPARED 'early'"),
    ("", "COPY t FROM PROGRAM 'echo 15'"),
    ("", "CREATE TABLE late AS SELECT 16 AS a"),
    ("", "DO 'BEGIN INSERT INTO t VALUES (17); COMMIT; END'"),
];

/// Begins all of them, and waits until each has passed the fence and waits for its WAL.
fn begin_all(node: &Node) -> Result<Vec<(&'static str, Running)>> {
    let mut sessions = Vec::new();
    for (before, commit) in COMMITS {
        let mut session = node.session()?;
        session.run(before)?;
        sessions.push((commit, session));
    }
    let mut watcher = node.session()?;
    node.set_wal_fault(Some(WalFault::Hangs))?;
    let run = |(commit, mut session): (&'static str, Session)| {
        (commit, std::thread::spawn(move || session.run(commit)))
    };
    let running = sessions.into_iter().map(run).collect();
    let under_way = "SELECT value >= 7 FROM pgraft_get_metrics() \
                     WHERE metric = 'pgraft_commits_under_way'";
    wait_for("all commits have passed the fence", SOON, || {
        Ok(watcher.is_true(under_way)?.then_some(()))
    })?;
    Ok(running)
}

#[test]
fn who_was_stopped_between_its_looks_is_not_told_of_a_commit_that_is_lost() {
    let options = Options {
        failover: true,
        network: true,
        postgresql: "max_prepared_transactions = 10\n".to_owned(),
        ..Options::default()
    };
    with(Cluster::prepare("fence-stopped", options), |cluster| {
        cluster.prepare_disk_faults()?;
        cluster.start_all()?;
        cluster.init_and_start()?;
        let old = cluster.settled_primary(SOON)?;
        let mut session = cluster.node(old).session()?;
        session.run("CREATE TABLE t (a int)")?;
        session.run("BEGIN; INSERT INTO t VALUES (14)")?;
        session.run("PREPARE TRANSACTION 'early'")?;
        cluster.await_streaming(old, SOON)?;
        let mut open = cluster.node(old).session()?;
        open.run("BEGIN READ WRITE; INSERT INTO t VALUES (18); SAVEPOINT a")?;

        let running = begin_all(cluster.node(old))?;
        let stopped = cluster.node(old).backends_of(&cluster.observer());
        expect(stopped.len() >= COMMITS.len(), || format!("only {} backends", stopped.len()))?;
        stopped.iter().for_each(|backend| backend.pause());
        cluster.isolate(old)?;
        let new = cluster.next_primary(Some(old), SOON)?;
        cluster.node(new).session()?.run("INSERT INTO t VALUES (1)")?;
        // They go on where they were, with a disk that writes what they have committed.
        cluster.node(old).clear_disk_fault()?;
        stopped.iter().for_each(|backend| backend.resume());
        for (commit, running) in running {
            let told = running.join().map_err(|_| Failure::new("a client's thread panicked"))?;
            let Err(error) = told else {
                return Err(Failure::new(format!("{commit} was reported as done")));
            };
            equal(error.sqlstate.as_deref(), None, &format!("{commit}: {error}"))?;
        }
        let said = "closed a client's connection in place of reporting its commit";
        equal(cluster.node(old).log().matches(said).count(), COMMITS.len(), "lines in the log")?;
        let rows = "SELECT string_agg(a::text, ' ' ORDER BY a) FROM t";
        let committed = cluster.node(old).session()?.value(rows)?;
        equal(committed.as_deref(), Some("11 12 14 15 17"), "what the old one has committed")?;

        // What was open all the while, and reads.
        cluster.heal()?;
        let knows = format!("SELECT primary_id = {new} FROM pgraft_status()");
        wait_for("it knows", SOON, || Ok(open.is_true(&knows)?.then_some(())))?;
        let who = format!("cannot commit: node {new} is the primary");
        is_error(&open.error("COMMIT")?, "25006", &[&who])?;
        equal(open.value(rows)?.as_deref(), Some("11 12 14 15 17"), "what it reads")?;
        cluster.rejoin(old, new)?;
        cluster.await_streaming(new, SOON)?;
        for id in [old, new] {
            let mut session = cluster.node(id).session()?;
            equal(session.value(rows)?.as_deref(), Some("1"), "what the cluster has")?;
        }
        let prepared = "SELECT string_agg(gid, ' ') FROM pg_prepared_xacts";
        let prepared = cluster.node(new).session()?.value(prepared)?;
        equal(prepared.as_deref(), Some("early"), "what is prepared")
    });
}

/// Takes every connection that there is.
fn use_up(node: &Node) -> Result<Vec<Session>> {
    let mut taken = Vec::new();
    loop {
        match node.session() {
            Ok(session) => taken.push(session),
            Err(failure) => {
                let text = failure.to_string();
                expect(text.contains("too many clients"), || text.clone())?;
                return Ok(taken);
            }
        }
    }
}

fn await_writes(session: &mut Session, what: &str) -> Result<()> {
    wait_for(&format!("commits {what}"), SOON, || {
        Ok(session.run("INSERT INTO t VALUES (1)").ok().map(drop))
    })
}

fn await_worker(node: &Node, other: Option<Process>) -> Result<Process> {
    wait_for("a worker", SOON, || Ok(node.worker().filter(|worker| Some(*worker) != other)))
}

#[test]
fn nobody_can_connect_any_more_and_the_fence_and_a_failover_work() {
    let options = Options { failover: true, ..Options::default() };
    with(Cluster::form("fence-connections", options), |cluster| {
        let old = cluster.settled_primary(SOON)?;
        cluster.node(old).session()?.run("CREATE TABLE t (a int)")?;
        cluster.await_streaming(old, SOON)?;
        let mut taken = Vec::new();
        for node in cluster.nodes() {
            let sessions = use_up(node)?;
            expect(sessions.len() > 50, || format!("{} connections", sessions.len()))?;
            taken.push((node.id(), sessions));
        }
        let mut first = |id: u32| {
            let at = taken.iter().position(|(node, _)| *node == id).expect("a node");
            taken[at].1.pop().expect("a session")
        };
        let mut sessions: Vec<(u32, Session)> = [1, 2, 3].map(|id| (id, first(id))).into();
        let of_old = &mut sessions[old as usize - 1].1;

        // A worker that stands still, and one that is another.
        let worker = await_worker(cluster.node(old), None)?;
        worker.pause();
        wait_for("the lease has ended", SOON, || {
            Ok(of_old.is_true("SELECT fenced FROM pgraft_status()")?.then_some(()))
        })?;
        of_old.run("SET pgraft.fence_wait = 0")?;
        is_error(&of_old.error("INSERT INTO t VALUES (1)")?, "25006", &["cannot commit"])?;
        worker.resume();
        await_writes(of_old, "when the worker goes on")?;
        worker.signal(rustix::process::Signal::TERM);
        await_worker(cluster.node(old), Some(worker))?;
        await_writes(of_old, "with another worker")?;
        equal(cluster.last_named()?.node, old, "the primary")?;

        cluster.node_mut(old).kill_all();
        let new = wait_for("another takes writes", SOON, || {
            for (id, session) in &mut sessions {
                if *id != old && session.run("INSERT INTO t VALUES (2)").is_ok() {
                    return Ok(Some(*id));
                }
            }
            Ok(None)
        })?;
        let third = 6 - old - new;
        let follows = format!(
            "SELECT EXISTS (SELECT FROM pg_stat_replication
                            WHERE application_name = 'pgraft_{third}' AND state = 'streaming')"
        );
        let of_new = &mut sessions[new as usize - 1].1;
        wait_for("the third follows", SOON, || Ok(of_new.is_true(&follows)?.then_some(())))?;
        // It was so to the end.
        let Err(failure) = cluster.node(new).session() else {
            return Err(Failure::new("there was a connection left"));
        };
        let text = failure.to_string();
        expect(text.contains("too many clients"), || text)
    });
}
