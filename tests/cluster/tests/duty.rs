//! What each server's worker does to its Postgres when the log says who is primary: promote,
//! repoint, freeze, keep slots and `synchronous_standby_names`.

use std::time::{Duration, Instant};

use pgraft_cluster::check::{equal, expect};
use pgraft_cluster::{Cluster, Failure, Node, Options, Process, Result, wait_for, with};

const SOON: Duration = Duration::from_secs(20);

fn value(node: &Node, sql: &str) -> Result<String> {
    Ok(node.session()?.value(sql)?.unwrap_or_default())
}

/// Waits until a query on a node says so.
fn await_value(node: &Node, sql: &str, wanted: &str) -> Result<()> {
    let mut last = String::new();
    let outcome = wait_for(&format!("node {}: {sql} is {wanted}", node.id()), SOON, || {
        // A server may be in the middle of something.
        last = value(node, sql).unwrap_or_else(|failure| failure.to_string());
        Ok((last == wanted).then_some(()))
    });
    outcome.map_err(|failure| Failure::new(format!("{failure}, it is {last}")))
}

const SLOTS: &str = "SELECT coalesce(string_agg(slot_name || CASE WHEN active THEN '+' ELSE '' END \
     || CASE WHEN restart_lsn IS NULL THEN '' ELSE '!' END, ' ' ORDER BY slot_name), '') \
     FROM pg_replication_slots";
const UPSTREAM: &str = "SELECT status || ' ' || sender_port || ' ' || coalesce(slot_name, '-') \
     FROM pg_stat_wal_receiver";

/// Waits until each of `standbys` streams from `primary` by its slot.
fn await_streaming(cluster: &Cluster, primary: u32, standbys: &[u32]) -> Result<()> {
    let port = cluster.node(primary).place.pg_port;
    for id in standbys {
        let wanted = format!("streaming {port} pgraft_{id}");
        await_value(cluster.node(*id), UPSTREAM, &wanted)?;
    }
    Ok(())
}

/// A row, committed on one of these nodes, whichever it is: which, and how long it took.
fn write_somewhere(cluster: &Cluster, ids: &[u32]) -> Result<(u32, Duration)> {
    let began = Instant::now();
    let id = wait_for("a commit on one of the others", SOON, || {
        for id in ids {
            let Ok(mut session) = cluster.node(*id).session() else { continue };
            if session.run("INSERT INTO written VALUES (2)").is_ok() {
                return Ok(Some(*id));
            }
        }
        Ok(None)
    })?;
    Ok((id, began.elapsed()))
}

/// Kills every process of a server at once.
fn kill_all(cluster: &mut Cluster, id: u32) {
    let node = cluster.node_mut(id);
    node.processes().into_iter().for_each(Process::kill);
    node.kill();
}

fn fail_over(name: &str, options: Options, settled: impl Fn(&Node) -> Result<()>) {
    with(Cluster::form(name, options), |cluster| {
        await_streaming(cluster, 1, &[2, 3])?;
        await_value(cluster.node(1), SLOTS, "pgraft_2+! pgraft_3+!")?;
        await_value(cluster.node(2), SLOTS, "pgraft_1 pgraft_3")?;
        let mut session = cluster.node(1).session()?;
        session.run("SELECT pg_create_physical_replication_slot('mine')")?;
        settled(cluster.node(1))?;
        wait_for("a commit on node 1", SOON, || {
            Ok(session.run("CREATE TABLE IF NOT EXISTS written (n int)").is_ok().then_some(()))
        })?;
        for id in [2, 3] {
            await_value(cluster.node(id), "SELECT count(*) FROM written", "0")?;
        }

        kill_all(cluster, 1);
        let (second, took) = write_somewhere(cluster, &[2, 3])?;
        println!("{name}: node {second} takes commits {took:?} after the kill");
        let third = 5 - second;
        await_streaming(cluster, second, &[third])?;
        await_value(cluster.node(third), "SELECT count(*) FROM written", "1")?;
        let timeline = "SELECT timeline_id::text FROM pg_control_checkpoint()";
        cluster.node(second).session()?.run("CHECKPOINT")?;
        equal(value(cluster.node(second), timeline)?, "2".into(), "its timeline")?;
        await_value(cluster.node(second), SLOTS, &format!("pgraft_1! pgraft_{third}+!"))?;

        // It starts as it was, a primary, and commits nothing.
        cluster.node_mut(1).start()?;
        wait_for("node 1 says what it is", SOON, || {
            let trouble = value(cluster.node(1), "SELECT last_error FROM pgraft_status()")?;
            Ok(trouble.contains("rewind").then_some(()))
        })?;
        let error = cluster.node(1).session()?.error("INSERT INTO written VALUES (3)")?;
        equal(error.sqlstate.as_deref(), Some("25006"), "SQLSTATE")?;
        expect(value(cluster.node(1), SLOTS)?.contains("mine"), || "a slot was dropped".into())
    });
}

#[test]
fn the_best_standby_is_promoted_and_the_other_follows_it() {
    let options = Options { failover: true, ..Options::default() };
    fail_over("duty", options, |_| Ok(()));
}

#[test]
fn a_synchronous_cluster_freezes_counts_and_goes_on() {
    let pgraft = "synchronous_mode = quorum\n".to_owned();
    let options = Options { failover: true, pgraft, ..Options::default() };
    fail_over("duty-sync", options, |primary| {
        let sql = "SELECT setting FROM pg_settings WHERE name = 'synchronous_standby_names'";
        await_value(primary, sql, "ANY 1 (pgraft_2, pgraft_3)")
    });
}

/// Which of the nodes is to be the primary, by the last line of their logs that says so.
fn named(cluster: &Cluster, timeline: u32) -> Result<u32> {
    let end = format!(", timeline {timeline}");
    wait_for(&format!("a primary for timeline {timeline}"), SOON, || {
        let found = cluster.running().find_map(|node| {
            let log = node.log();
            let line =
                log.lines().find(|l| l.contains("is to be the primary") && l.ends_with(&end));
            line.and_then(|line| {
                line.split("node ").nth(1)?.split_whitespace().next()?.parse().ok()
            })
        });
        Ok(found)
    })
}

#[test]
fn a_promotion_takes_the_timeline_that_the_log_has_for_it() {
    let options = Options { nodes: 5, failover: true, ..Options::default() };
    with(Cluster::form("duty-timeline", options), |cluster| {
        await_streaming(cluster, 1, &[2, 3, 4, 5])?;
        let mut session = cluster.node(1).session()?;
        wait_for("a commit on node 1", SOON, || {
            Ok(session.run("CREATE TABLE IF NOT EXISTS written (n int)").is_ok().then_some(()))
        })?;
        // Nobody can be promoted: the process that would do it stands still.
        let startup = |node: &Node| {
            let mut all = node.processes().into_iter();
            all.find(|p| p.title().contains("startup")).expect("a startup process")
        };
        for id in 2..=5 {
            await_value(cluster.node(id), "SELECT count(*) FROM written", "0")?;
            startup(cluster.node(id)).pause();
        }
        kill_all(cluster, 1);
        let unlucky = named(cluster, 2)?;
        kill_all(cluster, unlucky);
        let left: Vec<u32> = (2..=5).filter(|id| *id != unlucky).collect();
        for id in &left {
            startup(cluster.node(*id)).resume();
        }
        let (lucky, _) = write_somewhere(cluster, &left)?;
        equal(named(cluster, 3)?, lucky, "who is primary on timeline 3")?;
        let sql = "SELECT string_agg(name, ' ' ORDER BY name) FROM pg_ls_dir('pg_wal') name \
                   WHERE name LIKE '%.history'";
        equal(value(cluster.node(lucky), sql)?, "00000002.history 00000003.history".into(), "")?;

        // Whoever was away finds its way over the number that was never used, and one that was left
        // by a promotion that did not happen does not keep a server from starting.
        let stray = cluster.node(unlucky).data().join("pg_wal/00000004.history");
        std::fs::write(&stray, "# pgraft: placeholder, of a test\n").expect("a file");
        cluster.node_mut(unlucky).start()?;
        let standbys: Vec<u32> = (2..=5).filter(|id| *id != lucky).collect();
        await_streaming(cluster, lucky, &standbys)?;
        for id in standbys {
            await_value(cluster.node(id), "SELECT count(*) FROM written", "1")?;
        }
        expect(!stray.exists(), || "the stray placeholder is still there".into())
    });
}
