//! What the fence costs writers: a primary with the integration on against one with it off, in
//! turns, as `tpcb` compares with no pgraft.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use pgraft_cluster::{Account, Cluster, Node, Options, Result, wait_for};

use crate::pgbench::Pgbench;
use crate::report::Row;
use crate::samples::Pairs;
use crate::setup;

const SCALE: u32 = 10;
const SECONDS: u32 = 3;
const PAIRS_MAX: u32 = 16;
const AT_MOST: Duration = Duration::from_secs(240);
const READY_AT_MOST: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_millis(500);
const AIM: f64 = 0.99;
const SETTINGS: &str = "fsync = off\nshared_buffers = 256MB\nmax_wal_size = 8GB\n\
     checkpoint_timeout = 1h\nautovacuum = off\nwal_keep_size = 512MB";

pub fn measure() -> Result<Vec<Row>> {
    form(true)?.run(|on| {
        prepare(on)?;
        on.nodes().iter().for_each(Node::pause);
        form(false)?.run(|off| {
            prepare(off)?;
            off.nodes().iter().for_each(Node::pause);
            let rows = measure_on(on, off);
            // Whatever came out: they end in order only if they are awake.
            on.nodes().iter().chain(off.nodes()).for_each(Node::resume);
            rows
        })
    })
}

fn form(failover: bool) -> Result<Cluster> {
    let name = if failover { "bench-fence-on" } else { "bench-fence-off" };
    let postgresql = setup::postgresql(SETTINGS);
    // All of them stand still for seconds, at once: nothing must move by that.
    Cluster::form(name, Options { failover, postgresql, ..Options::calm() })
}

/// Tables, with their pages in the buffers.
fn prepare(cluster: &Cluster) -> Result<()> {
    setup::make_leader(cluster, 1)?;
    cluster.await_streaming(1, READY_AT_MOST)?;
    let pgbench = Pgbench::on(cluster, cluster.node(1))?;
    pgbench.initialize(SCALE)?;
    cluster.node(1).session()?.run("CREATE TABLE single (n int)")?;
    cluster.await_streaming(1, READY_AT_MOST)?;
    pgbench.tpcb(2, SECONDS)?;
    Account::choose()?.write_file(&script(cluster), "INSERT INTO single VALUES (1);\n")?;
    Ok(cluster.node(1).session()?.run("CHECKPOINT")?)
}

fn script(cluster: &Cluster) -> PathBuf {
    cluster.folder().join("single.sql")
}

fn measure_on(on: &Cluster, off: &Cluster) -> Result<Vec<Row>> {
    let mut pairs = [Pairs::default(), Pairs::default()];
    let began = Instant::now();
    for number in 0..PAIRS_MAX {
        if began.elapsed() > AT_MOST {
            break;
        }
        // Strictly in turns: servers that were measured just before are warmer than the others.
        let (a, b) = (one_half(on)?, one_half(off)?);
        for (pairs, (a, b)) in pairs.iter_mut().zip(a.into_iter().zip(b)) {
            eprintln!("  pair {}: {a:.0} and {b:.0} tps, {:.3}", number + 1, a / b);
            pairs.push(a, b);
        }
    }
    let row = |figure: &str, pairs: &Pairs| Row {
        figure: figure.to_owned(),
        measured: pairs.describe(),
        aim: ">= 0.99",
        met: pairs.met(AIM),
    };
    Ok(vec![
        row("The fence on against off: TPC-B, 2 clients", &pairs[0]),
        row("the same: single-row INSERTs, 1 client", &pairs[1]),
    ])
}

/// Wakes these servers, measures TPC-B and INSERTs, and puts them to sleep.
fn one_half(cluster: &Cluster) -> Result<[f64; 2]> {
    cluster.nodes().iter().for_each(Node::resume);
    wait_for("node 1 takes writes", READY_AT_MOST, || {
        Ok(cluster.node(1).session()?.run("INSERT INTO single VALUES (0)").ok())
    })?;
    cluster.await_streaming(1, READY_AT_MOST)?;
    sleep(SETTLE);
    let pgbench = Pgbench::on(cluster, cluster.node(1))?;
    let tpcb = pgbench.tpcb(2, SECONDS)?;
    let inserts = pgbench.statement(&script(cluster), SECONDS)?;
    cluster.nodes().iter().for_each(Node::pause);
    Ok([tpcb, inserts])
}
