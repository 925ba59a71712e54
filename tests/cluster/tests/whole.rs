//! The whole of a cluster, with clients at work: five servers that lose two primaries, a rolling
//! upgrade, storms of restarts, wall clocks that are wrong.

use std::time::Duration;

use pgraft_cluster::check::{SOON, equal, expect};
use pgraft_cluster::clock::now_ns;
use pgraft_cluster::random::{Random, seed};
use pgraft_cluster::writer::{Kind, Pace, Writers};
use pgraft_cluster::{Cluster, Node, Options, Result, Stop, wait_for, with};

/// Nothing is lost in any of these.
fn quorum() -> Options {
    Options {
        failover: true,
        postgresql: "max_prepared_transactions = 50\n".to_owned(),
        pgraft: "synchronous_mode = quorum\n".to_owned(),
        ..Options::default()
    }
}

/// Writers on all nodes, once there is a primary that all follow: they and it.
fn writing(cluster: &Cluster) -> Result<(u32, Writers)> {
    let primary = cluster.settled_primary(SOON)?;
    let kinds = [Kind::Insert, Kind::Block, Kind::Prepared];
    let writers = Writers::start(cluster, cluster.node(primary), &kinds, Pace::default())?;
    writers.ledger().await_commit(primary, SOON)?;
    Ok((primary, writers))
}

/// All is well again, by people's help if need be, and nothing is lost.
fn nothing_is_lost(cluster: &mut Cluster, writers: Writers) -> Result<()> {
    let (primary, rejoined) = cluster.recover()?;
    writers.ledger().await_commit(primary, SOON)?;
    let ledger = writers.stop()?;
    let verdict = ledger.compare(cluster.node(primary))?;
    println!("{verdict}; {rejoined:?}; {}", ledger.failures_in_words());
    expect(verdict.is_one_history() && verdict.lost.is_empty(), || verdict.to_string())
}

#[test]
fn of_five_servers_two_primaries_in_a_row_may_die() {
    let options = Options { nodes: 5, ..quorum() };
    with(Cluster::form("five", options), |cluster| {
        let (first, writers) = writing(cluster)?;
        let names = cluster.node(first).session()?.value("SHOW synchronous_standby_names")?;
        let expected = "ANY 2 (pgraft_2, pgraft_3, pgraft_4, pgraft_5)";
        equal(names.as_deref(), Some(expected), "who commits wait for")?;
        cluster.node_mut(first).kill_all();
        let second = cluster.next_primary(Some(first), SOON)?;
        writers.ledger().await_commit(second, SOON)?;
        cluster.node_mut(second).kill_all();
        let third = cluster.next_primary(Some(second), SOON)?;
        writers.ledger().await_commit(third, SOON)?;
        println!("node {first}, then {second}, then {third}");
        // Three of five are a majority; two are none.
        let fourth = (1..=5).find(|id| ![first, second, third].contains(id)).unwrap_or(0);
        cluster.node_mut(fourth).kill_all();
        let mut session = cluster.node(third).session()?;
        wait_for("two commit nothing any more", SOON, || {
            Ok(session.is_true("SELECT fenced FROM pgraft_status()")?.then_some(()))
        })?;
        cluster.node_mut(fourth).start()?;
        nothing_is_lost(cluster, writers)
    });
}

fn started(node: &Node) -> Result<String> {
    Ok(node.session()?.value("SELECT pg_postmaster_start_time()")?.unwrap_or_default())
}

#[test]
fn all_servers_are_restarted_and_the_primary_moves_once() {
    // In the mode in which a crash may lose something: this must not.
    let options = Options { pgraft: String::new(), ..quorum() };
    with(Cluster::form("upgrade", options), |cluster| {
        let (old, writers) = writing(cluster)?;
        let before: Vec<String> = cluster.nodes().iter().map(started).collect::<Result<_>>()?;
        let named = cluster.last_named()?;
        let standbys: Vec<u32> = (1..=3).filter(|id| *id != old).collect();
        for id in &standbys {
            cluster.node_mut(*id).stop(Stop::Fast)?;
            writers.ledger().await_commit(old, SOON)?;
            cluster.node_mut(*id).start()?;
            cluster.await_streaming(old, SOON)?;
        }
        equal(cluster.last_named()?, named, "the primary while standbys restart")?;
        let new = standbys[0];
        let sql = format!("SELECT pgraft_transfer_leadership({new})");
        expect(cluster.node(old).session()?.is_true(&sql)?, || "not moved".to_owned())?;
        equal(cluster.next_primary(Some(old), SOON)?, new, "the new primary")?;
        writers.ledger().await_commit(new, SOON)?;
        cluster.rejoin(old, new)?;
        cluster.await_streaming(new, SOON)?;
        writers.ledger().await_commit(new, SOON)?;
        for (node, before) in cluster.nodes().iter().zip(before) {
            expect(started(node)? != before, || format!("node {} was not restarted", node.id()))?;
        }
        let once = cluster.last_named()?;
        equal((once.node, once.epoch), (new, named.epoch + 1), "the only move")?;
        nothing_is_lost(cluster, writers)
    });
}

#[test]
fn storms_of_restarts_pass() {
    with(Cluster::form("storms", quorum()), |cluster| {
        let (_, writers) = writing(cluster)?;
        // Each makes Postgres start all its processes anew, on all three at once.
        for _ in 0..5 {
            let ids = [1, 2, 3];
            let old = ids.map(|id| cluster.node(id).worker());
            old.iter().flatten().for_each(|worker| worker.kill());
            for (id, old) in ids.into_iter().zip(old) {
                wait_for(&format!("another worker on node {id}"), SOON, || {
                    Ok(cluster.node(id).worker().filter(|worker| Some(*worker) != old))
                })?;
            }
        }
        let (primary, _) = cluster.recover()?;
        writers.ledger().await_commit(primary, SOON)?;

        let mut random = Random::new(seed());
        for _ in 0..3 {
            let mut ids = [1, 2, 3];
            random.shuffle(&mut ids);
            for id in ids {
                let how = [Stop::Fast, Stop::Immediate][random.below(2)];
                let node = cluster.node_mut(id);
                wait_for("it has begun to start", SOON, || Ok(node.is_running().then_some(())))?;
                node.stop(how)?;
                // Not waited for: what comes next finds it in whatever state it is.
                node.spawn()?;
            }
        }
        cluster.nodes_mut().iter_mut().try_for_each(Node::await_start)?;
        nothing_is_lost(cluster, writers)
    });
}

/// By how many seconds a server's wall clock differs from the machine's.
fn clock_of(node: &Node) -> Result<f64> {
    let sql = "SELECT extract(epoch FROM clock_timestamp())";
    let theirs = node.session()?.value(sql)?.and_then(|seconds| seconds.parse().ok());
    let ours = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Ok(theirs.unwrap_or(f64::NAN) - ours.map_or(0.0, |since| since.as_secs_f64()))
}

#[test]
fn wall_clocks_that_are_set_change_nothing() {
    with(Cluster::prepare("clocks", quorum()), |cluster| {
        cluster.prepare_clock_steps()?;
        cluster.start_all()?;
        cluster.init_and_start()?;
        let (old, writers) = writing(cluster)?;
        let named = cluster.last_named()?;
        let standby = if old == 1 { 2 } else { 1 };
        const HOUR: i64 = 3600;
        for (id, step) in [(old, HOUR), (old, -2 * HOUR), (standby, 24 * HOUR), (standby, -HOUR)] {
            let began_ns = now_ns();
            cluster.node(id).set_clock(step)?;
            let differs = clock_of(cluster.node(id))?;
            expect((differs - step as f64).abs() < 60.0, || format!("{differs} s"))?;
            std::thread::sleep(Duration::from_secs(2));
            writers.ledger().await_commit(old, SOON)?;
            cluster.await_streaming(old, SOON)?;
            equal(cluster.last_named()?, named, &format!("a step of {step} s on node {id}"))?;
            let acks = writers.ledger().acks().into_iter().map(|ack| ack.acked_ns);
            let times: Vec<u64> = acks.filter(|at| *at >= began_ns).collect();
            let gap = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
            println!("{step} s on node {id}: no commit for {} ms", gap / 1_000_000);
        }
        // And with clocks an hour apart.
        cluster.node_mut(old).kill_all();
        let new = cluster.next_primary(Some(old), SOON)?;
        writers.ledger().await_commit(new, SOON)?;
        nothing_is_lost(cluster, writers)
    });
}
