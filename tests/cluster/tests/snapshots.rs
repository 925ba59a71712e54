//! Snapshots on real servers: a node that was away for longer than the log reaches back, a new one,
//! and a directory that does not grow with what was written.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use pgraft_cluster::check::{SOON, await_voters, equal, expect, leader_among};
use pgraft_cluster::{Cluster, Failure, Node, Options, Result, Stop, wait_for, with};

/// A snapshot every few entries, which leaves hardly any of them in the log.
const FEW: &str = "raft_snapshot_entries = 50\nraft_log_keep_entries = 5\n";

fn formed(name: &str) -> Result<Cluster> {
    Cluster::form(name, Options { pgraft: FEW.to_owned(), ..Options::default() })
}

fn others(id: u32) -> Vec<u32> {
    (1..=3).filter(|other| *other != id).collect()
}

/// Puts values of `bytes` at keys `from` to `to`.
fn put(node: &Node, from: u32, to: u32, bytes: u32) -> Result<()> {
    let sql = format!(
        "SELECT count(*) = {to} - {from} + 1 FROM generate_series({from}, {to}) AS n
         WHERE pgraft_kv_put('key/' || n, n || repeat('x', {bytes}))"
    );
    expect(node.session()?.is_true(&sql)?, || format!("not all of {from} to {to} were put"))
}

/// What the node itself holds, in a word.
fn contents(node: &Node) -> Result<String> {
    let sql = "SELECT count(*) || ' ' || md5(string_agg(row(k.*)::text, ',' ORDER BY key))
               FROM pgraft_kv(false) AS k";
    Ok(node.session()?.value(sql)?.unwrap_or_default())
}

fn metric(node: &Node, name: &str) -> Result<f64> {
    let sql = format!("SELECT value FROM pgraft_get_metrics() WHERE metric = '{name}'");
    let value = node.session()?.value(&sql)?;
    value.and_then(|value| value.parse().ok()).ok_or_else(|| Failure::new(format!("no {name}")))
}

fn await_contents(node: &Node, wanted: &str) -> Result<()> {
    wait_for(&format!("node {} holds what the others hold", node.id()), SOON, || {
        Ok((contents(node)? == wanted).then_some(()))
    })
}

#[test]
fn a_node_that_was_away_for_longer_than_the_log_catches_up_by_snapshot() {
    with(formed("snapshots-away"), |cluster| {
        let (leader, term) = cluster.leader()?;
        let (away, other) = (others(leader)[0], others(leader)[1]);
        cluster.node_mut(away).kill();
        // One and a half megabytes: several pieces.
        put(cluster.node(leader), 1, 300, 5000)?;
        let wanted = contents(cluster.node(leader))?;
        let base = metric(cluster.node(leader), "pgraft_snapshots_taken_total")?;
        expect(base >= 5.0, || format!("{base} snapshots of 300 entries"))?;
        cluster.node_mut(away).start()?;
        await_contents(cluster.node(away), &wanted)?;
        equal(metric(cluster.node(away), "pgraft_snapshots_installed_total")?, 1.0, "installed")?;
        equal(metric(cluster.node(leader), "pgraft_snapshots_sent_total")?, 1.0, "sent")?;
        equal(cluster.leader()?, (leader, term), "the leader, whose heartbeats went on")?;
        // It stands on its own: killed, it has all of that from its disk, and it votes.
        cluster.node_mut(away).kill();
        cluster.node_mut(away).start()?;
        await_contents(cluster.node(away), &wanted)?;
        equal(metric(cluster.node(away), "pgraft_snapshots_installed_total")?, 0.0, "again")?;
        cluster.node_mut(other).kill();
        leader_among(cluster, &[leader, away])?;
        put(cluster.node(away), 301, 310, 10)
    });
}

#[test]
fn a_new_node_gets_a_snapshot_and_becomes_a_voter() {
    with(formed("snapshots-new"), |cluster| {
        put(cluster.leader_node()?, 1, 200, 1000)?;
        let id = cluster.add_node()?;
        cluster.node_mut(id).start()?;
        let mut session = cluster.node(id).session()?;
        session.run("SELECT pgraft_init()")?;
        session.run("SELECT pgraft_start()")?;
        let address = cluster.node(id).raft_address();
        let mut other = cluster.node(2).session()?;
        other.run(&format!("SELECT pgraft_add_node('{address}', {id})"))?;
        await_voters(cluster, &[1, 2, 3, id], &[1, 2, 3, id])?;
        await_contents(cluster.node(id), &contents(cluster.node(1))?)?;
        equal(metric(cluster.node(id), "pgraft_snapshots_installed_total")?, 1.0, "installed")
    });
}

#[test]
fn a_leader_that_dies_while_it_sends_one_is_replaced_and_the_next_sends_it() {
    with(formed("snapshots-leader"), |cluster| {
        let (leader, term) = cluster.leader()?;
        let away = others(leader)[0];
        cluster.node_mut(away).kill();
        put(cluster.node(leader), 1, 400, 8000)?;
        let wanted = contents(cluster.node(leader))?;
        cluster.node_mut(away).start()?;
        cluster.node_mut(leader).kill();
        // The one that has all must win, with the vote of the one that is behind.
        let (next, _) = cluster.leader_after(term, SOON)?;
        equal(next, others(leader)[1], "the next leader")?;
        await_contents(cluster.node(away), &wanted)?;
        put(cluster.node(away), 401, 410, 10)?;
        cluster.node_mut(leader).start()?;
        let wanted = contents(cluster.node(next))?;
        await_contents(cluster.node(leader), &wanted)
    });
}

#[test]
fn a_node_killed_again_and_again_while_it_catches_up_holds_what_the_others_hold() {
    with(formed("snapshots-killed"), |cluster| {
        let (leader, _) = cluster.leader()?;
        let away = others(leader)[0];
        let mut last = 0;
        for pause_ms in [0, 20, 50, 100, 200, 400] {
            cluster.node_mut(away).kill();
            put(cluster.node(leader), last + 1, last + 120, 4000)?;
            last += 120;
            cluster.node_mut(away).spawn()?;
            thread::sleep(Duration::from_millis(500 + pause_ms));
        }
        cluster.node_mut(away).kill();
        cluster.node_mut(away).start()?;
        let wanted = contents(cluster.node(leader))?;
        await_contents(cluster.node(away), &wanted)?;
        let log = cluster.node(away).log();
        let bad = ["panicked", "PANIC", "damaged", "lost data", "lost log entries"];
        let found = bad.iter().find(|word| log.contains(**word));
        expect(found.is_none(), || format!("{found:?} in the log of node {away}"))
    });
}

/// The bytes of a folder's files.
fn bytes_in(folder: &Path) -> Result<u64> {
    let doing = format!("look into {}", folder.display());
    let mut bytes = 0;
    for entry in fs::read_dir(folder).map_err(Failure::while_doing(&doing))? {
        let entry = entry.map_err(Failure::while_doing(&doing))?;
        // A file may go while we look.
        let Ok(about) = entry.metadata() else { continue };
        bytes += if about.is_dir() { bytes_in(&entry.path())? } else { about.len() };
    }
    Ok(bytes)
}

/// The largest directory of any node.
fn largest(cluster: &Cluster) -> Result<u64> {
    let sizes: Result<Vec<u64>> =
        cluster.nodes().iter().map(|node| bytes_in(&node.raft())).collect();
    Ok(sizes?.into_iter().max().unwrap_or(0))
}

/// 5,000 values of 8 kB by default. PGRAFT_WRITES=1000000 makes it a million of 200 bytes, with
/// the settings that a cluster has by default: for the figure in docs/operations/backup.md.
#[test]
fn the_directory_does_not_grow_with_what_was_written() {
    const WRITERS: u32 = 10;
    let million = std::env::var("PGRAFT_WRITES").ok().and_then(|writes| writes.parse().ok());
    let (writes, bytes, most) = million.map_or((5000, 8000, 24 << 20), |n| (n, 200, 64 << 20));
    let pgraft = if million.is_some() { String::new() } else { FEW.to_owned() };
    let options = Options { pgraft, ..Options::default() };
    with(Cluster::form("snapshots-bounded", options), |cluster| {
        let rounds = writes / WRITERS / 100;
        let mut seen = 0;
        thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|_| {
                    let node = cluster.node(1);
                    scope.spawn(move || (0..rounds).try_for_each(|_| put(node, 1, 100, bytes)))
                })
                .collect();
            while writers.iter().any(|writer| !writer.is_finished()) {
                seen = seen.max(largest(cluster)?);
                thread::sleep(Duration::from_millis(100));
            }
            writers.into_iter().try_for_each(|writer| writer.join().expect("a writer"))
        })?;
        let wanted = contents(cluster.node(1))?;
        for node in cluster.nodes() {
            await_contents(node, &wanted)?;
        }
        seen = seen.max(largest(cluster)?);
        println!("{writes} writes of {bytes} bytes: raft_data_dir had at most {seen} bytes");
        // Full segments that a snapshot is about to free, one that is written, and the snapshot,
        // twice for a moment.
        expect(seen < most, || format!("a directory had {seen} bytes"))?;
        // And what is there is all there is to start from.
        cluster.stop_all(Stop::Fast)?;
        cluster.start_all()?;
        cluster.leader()?;
        cluster.nodes().iter().try_for_each(|node| await_contents(node, &wanted))
    });
}
