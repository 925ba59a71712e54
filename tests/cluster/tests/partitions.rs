//! Real partitions: each node has a network namespace, and packets are lost without a word.

use std::time::{Duration, Instant};

use pgraft_cluster::check::{SOON, expect, next_leader_among};
use pgraft_cluster::{Cluster, Node, Options, Result, wait_for, with};

/// From the cut on: the lease of a leader that nobody answers has run out. A second is the rule.
const LEASE_AT_MOST: Duration = Duration::from_secs(2);
/// Twice the longest election timeout.
const A_WHILE: Duration = Duration::from_secs(4);

fn networked(name: &str) -> Result<Cluster> {
    Cluster::form(name, Options { network: true, ..Options::default() })
}

fn others(id: u32) -> [u32; 2] {
    match id {
        1 => [2, 3],
        2 => [1, 3],
        _ => [1, 2],
    }
}

fn is_leader(node: &Node) -> Result<bool> {
    Ok(node.session()?.is_true("SELECT pgraft_is_leader()")?)
}

/// Waits until `old` does not lead any more, in time since `began`, and one of `ids` does.
fn another_leads(cluster: &Cluster, old: u32, ids: [u32; 2], began: Instant) -> Result<u32> {
    let left = LEASE_AT_MOST.saturating_sub(began.elapsed());
    wait_for(&format!("node {old} leads no more"), left, || {
        Ok((!is_leader(cluster.node(old))?).then_some(()))
    })?;
    let alone = began.elapsed();
    // Elections have chance in them, and those who hear a leader wait until it has let go.
    let new = wait_for(&format!("one of {ids:?} leads"), SOON, || {
        for id in ids {
            if is_leader(cluster.node(id))? {
                return Ok(Some(id));
            }
        }
        Ok(None)
    })?;
    println!(
        "node {old} led no more {alone:?} after the cut, node {new} did {:?}",
        began.elapsed()
    );
    Ok(new)
}

#[test]
fn a_leader_that_is_cut_off_leads_no_more_and_another_does() {
    with(networked("partition-leader"), |cluster| {
        let (old, term) = cluster.leader()?;
        // Open before, so that the connection of the test's own is what goes on.
        let mut session = cluster.node(old).session()?;
        expect(session.is_true("SELECT pgraft_is_leader()")?, || "it does not lead".to_owned())?;
        let began = Instant::now();
        cluster.isolate(old)?;
        another_leads(cluster, old, others(old), began)?;
        expect(!session.is_true("SELECT pgraft_is_leader()")?, || "two lead".to_owned())?;
        let healthy = "SELECT pgraft_is_healthy()";
        wait_for("the old one notices", SOON, || Ok((!session.is_true(healthy)?).then_some(())))?;

        cluster.heal()?;
        let (leader, _) = cluster.leader_after(term, SOON)?;
        expect(leader != old, || "the others' leader was unseated".to_owned())?;
        wait_for("the old one is back", SOON, || Ok(session.is_true(healthy)?.then_some(())))
    });
}

#[test]
fn what_a_leader_sends_to_one_follower_is_lost() {
    with(networked("partition-one-way-out"), |cluster| {
        let (leader, term) = cluster.leader()?;
        let [deaf, other] = others(leader);
        cluster.cut(leader, deaf)?;
        // It hears nobody, the others hear each other: they refuse it their votes.
        wait_for("the follower misses its leader", SOON, || {
            let sql = "SELECT pgraft_get_leader()";
            let heard = cluster.node(deaf).session()?.value(sql)?;
            Ok((heard.as_deref() == Some("0")).then_some(()))
        })?;
        let until = Instant::now() + A_WHILE;
        while Instant::now() < until {
            expect(is_leader(cluster.node(leader))?, || "the leader was unseated".to_owned())?;
            std::thread::sleep(Duration::from_millis(100));
        }
        expect(is_leader(cluster.node(leader))?, || "the leader was unseated".to_owned())?;
        cluster.heal()?;
        let after = cluster.leader_within(SOON)?;
        expect(after == (leader, term), || format!("{after:?} leads, with node {other}"))
    });
}

#[test]
fn what_followers_send_to_their_leader_is_lost() {
    with(networked("partition-one-way-in"), |cluster| {
        // One of them: the leader has the other.
        let (leader, term) = cluster.leader()?;
        let [dumb, other] = others(leader);
        cluster.cut(dumb, leader)?;
        let until = Instant::now() + A_WHILE;
        while Instant::now() < until {
            expect(is_leader(cluster.node(leader))?, || "the leader was unseated".to_owned())?;
            std::thread::sleep(Duration::from_millis(100));
        }
        // Both: nobody answers any more, so it has no lease, and lets go.
        let began = Instant::now();
        cluster.cut(other, leader)?;
        let new = another_leads(cluster, leader, [dumb, other], began)?;
        expect(!is_leader(cluster.node(leader))?, || "two lead".to_owned())?;
        let next = next_leader_among(cluster, &[dumb, other], (leader, term))?;
        expect(next.0 == new, || format!("node {} leads", next.0))?;
        cluster.heal()?;
        cluster.leader_after(term, SOON).map(drop)
    });
}

#[test]
fn a_connection_over_a_cut_stalls_and_goes_on_when_it_heals() {
    let options = Options {
        network: true,
        nodes: 2,
        postgresql: "wal_sender_timeout = 0\nwal_receiver_timeout = 0\n".to_owned(),
        ..Options::default()
    };
    with(Cluster::start("partition-stall", options), |cluster| {
        let mut primary = cluster.node(1).session()?;
        let streaming = "SELECT pid FROM pg_stat_replication WHERE state = 'streaming'";
        let sender = wait_for("node 2 streams", SOON, || Ok(primary.value(streaming)?))?;
        cluster.cut(1, 2)?;
        primary.run("CREATE TABLE written_while_cut (n int)")?;
        std::thread::sleep(Duration::from_secs(2));
        let there = "SELECT to_regclass('written_while_cut') IS NOT NULL";
        let mut standby = cluster.node(2).session()?;
        expect(!standby.is_true(there)?, || "the cut lets WAL through".to_owned())?;
        cluster.heal()?;
        wait_for("the WAL arrives", SOON, || Ok(standby.is_true(there)?.then_some(())))?;
        let after = primary.value(streaming)?;
        expect(after.as_deref() == Some(sender.as_str()), || format!("{after:?}, was {sender}"))
    });
}
