//! What pgraft costs the writers: TPC-B on a primary that leads a cluster, against the same
//! server without the library. The standbys are the same in both, with pgraft running.

use std::time::Duration;

use pgraft_cluster::{Cluster, Result, Stop, leader_of, wait_for};

use crate::pgbench::Pgbench;
use crate::report::Row;
use crate::samples::Pairs;
use crate::setup;

const SCALE: u32 = 10;
const PAIRS: u32 = 6;
const SECONDS: u32 = 8;
/// Fills the buffers of a server that has just been started.
const WARM_UP_SECONDS: u32 = 3;
const CLIENTS: [u32; 2] = [1, 4];
const AIM: f64 = 0.98;
const READY_AT_MOST: Duration = Duration::from_secs(30);
/// Buffers for all the data, and no checkpoint while it is measured.
const SETTINGS: &str =
    "shared_buffers = 256MB\nmax_wal_size = 4GB\ncheckpoint_timeout = 1h\nautovacuum = off";

pub fn measure() -> Result<Vec<Row>> {
    setup::form("tpcb", SETTINGS)?.run(measure_on)
}

fn measure_on(cluster: &mut Cluster) -> Result<Vec<Row>> {
    Pgbench::on(cluster, cluster.node(1))?.initialize(SCALE)?;
    let mut pairs = [Pairs::default(), Pairs::default()];
    for number in 0..PAIRS {
        // With, without; without, with; ...: a drift of the machine does not favour one.
        let first_is_with = number % 2 == 0;
        let first = one_half(cluster, first_is_with)?;
        let second = one_half(cluster, !first_is_with)?;
        let (with, without) = if first_is_with { (first, second) } else { (second, first) };
        for (i, pairs) in pairs.iter_mut().enumerate() {
            let (a, b) = (with[i], without[i]);
            let clients = CLIENTS[i];
            eprintln!(
                "  pair {}, {clients} clients: {a:.0} and {b:.0} tps, {:.3}",
                number + 1,
                a / b
            );
            pairs.push(a, b);
        }
    }
    Ok(CLIENTS
        .iter()
        .zip(&pairs)
        .map(|(clients, pairs)| {
            let plural = if *clients == 1 { "" } else { "s" };
            Row::aimed(
                format!("TPC-B on the leading primary against no pgraft, {clients} client{plural}"),
                pairs.describe(),
                ">= 0.98",
                pairs.ratio() >= AIM,
            )
        })
        .collect())
}

/// Restarts the primary with or without the library and measures once for each number of clients.
fn one_half(cluster: &mut Cluster, with: bool) -> Result<[f64; 2]> {
    let primary = cluster.node_mut(1);
    primary.stop(Stop::Fast)?;
    primary.configure(with, &setup::postgresql(SETTINGS))?;
    primary.start()?;
    if with {
        setup::make_leader(cluster, 1)?;
    } else {
        let rest = || cluster.nodes().iter().filter(|node| node.id() != 1);
        wait_for("the standbys agree on a leader", READY_AT_MOST, || leader_of(rest()))?;
    }
    let mut session = cluster.node(1).session()?;
    wait_for("both standbys stream", READY_AT_MOST, || {
        let sql = "SELECT count(*) = 2 FROM pg_stat_replication WHERE state = 'streaming'";
        Ok(session.is_true(sql)?.then_some(()))
    })?;
    let pgbench = Pgbench::on(cluster, cluster.node(1))?;
    pgbench.tpcb(2, WARM_UP_SECONDS)?;
    session.run("CHECKPOINT")?;
    drop(session);
    let mut tps = [0.0; 2];
    for (tps, clients) in tps.iter_mut().zip(CLIENTS) {
        *tps = pgbench.tpcb(clients, SECONDS)?;
    }
    Ok(tps)
}
