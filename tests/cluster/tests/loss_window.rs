//! What asynchronous replication may lose is told in bytes of WAL: while the primary lives by a
//! metric, and when it is lost by who names the next.

use pgraft_cluster::check::{SOON, await_process, expect};
use pgraft_cluster::{Cluster, Failure, Node, Options, Process, Result, wait_for, with};

/// More than servers write by themselves within a second.
const MUCH: f64 = 20_000.0;

/// `pgraft_unreplicated_wal_bytes`, as this node has it.
fn unreplicated(node: &Node) -> Result<f64> {
    let sql = "SELECT value FROM pgraft_get_metrics() \
               WHERE metric = 'pgraft_unreplicated_wal_bytes'";
    let value = node.session()?.value(sql)?.unwrap_or_default();
    value.parse().map_err(|_| Failure::new(format!("the metric is \"{value}\"")))
}

/// The bytes that whoever named the next primary says to be missing there.
fn missing(log: &str, lost: u32) -> Option<u64> {
    let begin = format!("node {lost} had reported ");
    let said = log.lines().find_map(|line| line.split_once(&begin))?.1;
    said.split_once(" bytes of WAL more than node ")?.0.parse().ok()
}

#[test]
fn the_loss_window_is_told_before_and_after_a_crash() {
    let options = Options { failover: true, ..Options::default() };
    with(Cluster::form("loss-window", options), |cluster| {
        let old = cluster.settled_primary(SOON)?;
        let standbys: Vec<u32> = (1..=3).filter(|id| *id != old).collect();
        let mut session = cluster.node(old).session()?;
        session.run("CREATE TABLE t (a int, b text)")?;
        cluster.await_streaming(old, SOON)?;
        // What the servers say of themselves is a second old at most.
        wait_for("nothing is missing while nothing is written", SOON, || {
            Ok((unreplicated(cluster.node(old))? == 0.0).then_some(()))
        })?;

        let receivers: Result<Vec<Process>> =
            standbys.iter().map(|id| await_process(cluster.node(*id), "walreceiver")).collect();
        let receivers = receivers?;
        receivers.iter().for_each(|receiver| receiver.pause());
        // More than once: what the first was said by has reached the others when the second is.
        let mut told = MUCH;
        for _ in 0..2 {
            told = wait_for("the metric tells of what is written now", SOON, || {
                session.run("INSERT INTO t VALUES (1, repeat('x', 1000))")?;
                Ok(Some(unreplicated(cluster.node(old))?).filter(|bytes| *bytes > told))
            })?;
        }
        println!("{told} bytes by the metric");

        cluster.node_mut(old).kill_all();
        let said = wait_for("the next primary is named, and what it lacks", SOON, || {
            let logs = standbys.iter().map(|id| cluster.node(*id).log());
            Ok(logs.into_iter().find_map(|log| missing(&log, old)))
        })?;
        println!("{said} bytes by the log");
        expect(said as f64 > MUCH / 2.0, || format!("{said} bytes are told"))?;
        // Nobody is promoted before its receiver has ended.
        receivers.iter().for_each(|receiver| receiver.resume());
        cluster.next_primary(Some(old), SOON).map(drop)
    });
}
