//! What pgraft costs the writers: TPC-B on a primary that leads a cluster, against the primary of
//! another three servers that are the same but for the library.
//!
//! Both sets of servers are there all the time, and the one that is not measured stands still
//! (SIGSTOP), so that the two are measured within seconds of each other. A restart between them
//! would put half a minute there, in which a machine with other work changes more than pgraft
//! costs. For the same reason nothing waits for the disk: fsync is off, as a disk's scatter hides
//! all else, and where no time goes into waiting, pgraft's share is at its largest. All three
//! nodes' workers run on the cores that are measured.

use std::thread::sleep;
use std::time::{Duration, Instant};

use pgraft_cluster::{Cluster, Node, Options, Result, wait_for};

use crate::idle::threads_ns;
use crate::pgbench::Pgbench;
use crate::report::Row;
use crate::samples::Pairs;
use crate::setup;

const SCALE: u32 = 10;
const CLIENTS: [u32; 2] = [1, 4];
const SECONDS: u32 = 3;
const PAIRS_MAX: u32 = 16;
/// On a machine that is slow to begin with; eight pairs or so are then all there are.
const AT_MOST: Duration = Duration::from_secs(270);
/// Servers that were woken send one another what they missed.
const SETTLE: Duration = Duration::from_millis(500);
const AIM: f64 = 0.98;
const READY_AT_MOST: Duration = Duration::from_secs(30);
/// Buffers for all the data; neither a checkpoint nor a vacuum in the middle of it.
const SETTINGS: &str = "fsync = off\nshared_buffers = 256MB\nmax_wal_size = 8GB\n\
     checkpoint_timeout = 1h\nautovacuum = off\nwal_keep_size = 512MB";

pub fn measure() -> Result<Vec<Row>> {
    setup::form("tpcb", SETTINGS)?.run(|with| {
        prepare(with)?;
        with.nodes().iter().for_each(Node::pause);
        let postgresql = setup::postgresql(SETTINGS);
        let options = Options { preload: false, postgresql, ..Options::default() };
        Cluster::start("bench-tpcb-without", options)?.run(|without| {
            prepare(without)?;
            without.nodes().iter().for_each(Node::pause);
            let rows = measure_on(with, without);
            // Whatever came out: they end in order only if they are awake.
            with.nodes().iter().chain(without.nodes()).for_each(Node::resume);
            rows
        })
    })
}

/// Tables, with their pages in the buffers, on the primary and its standbys.
fn prepare(cluster: &Cluster) -> Result<()> {
    let pgbench = Pgbench::on(cluster, cluster.node(1))?;
    pgbench.initialize(SCALE)?;
    await_standbys(cluster)?;
    pgbench.tpcb(2, SECONDS)?;
    Ok(cluster.node(1).session()?.run("CHECKPOINT")?)
}

fn await_standbys(cluster: &Cluster) -> Result<()> {
    let mut session = cluster.node(1).session()?;
    let sql = "SELECT count(*) = 2 FROM pg_stat_replication WHERE state = 'streaming' \
               AND pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) < 1000000";
    wait_for("both standbys stream", READY_AT_MOST, || Ok(session.is_true(sql)?.then_some(())))
}

fn measure_on(with: &Cluster, without: &Cluster) -> Result<Vec<Row>> {
    let mut pairs = [Pairs::default(), Pairs::default()];
    let mut worker = Worker::default();
    let began = Instant::now();
    for number in 0..PAIRS_MAX {
        if began.elapsed() > AT_MOST {
            break;
        }
        // Strictly in turns: servers that were measured just before are warmer than the others.
        let a = one_half(with, Some(&mut worker))?;
        let b = one_half(without, None)?;
        for (i, pairs) in pairs.iter_mut().enumerate() {
            eprintln!(
                "  pair {}, {} clients: {:.0} and {:.0} tps, {:.3}",
                number + 1,
                CLIENTS[i],
                a[i],
                b[i],
                a[i] / b[i],
            );
            pairs.push(a[i], b[i]);
        }
    }
    let mut rows: Vec<Row> =
        CLIENTS.iter().zip(&pairs).map(|(clients, pairs)| row(*clients, pairs)).collect();
    rows.push(Row::plain(
        "the same, from the other side: the primary's worker's share of a core meanwhile",
        format!("{:.3} %", worker.cpu_ns as f64 / worker.seconds / 1e7),
    ));
    Ok(rows)
}

fn row(clients: u32, pairs: &Pairs) -> Row {
    let plural = if clients == 1 { "" } else { "s" };
    Row {
        figure: format!("TPC-B on the leading primary against no pgraft, {clients} client{plural}"),
        measured: pairs.describe(),
        aim: ">= 0.98",
        met: pairs.met(AIM),
    }
}

/// Wakes these servers, measures once for each number of clients, and puts them to sleep.
fn one_half(cluster: &Cluster, worker: Option<&mut Worker>) -> Result<[f64; 2]> {
    cluster.nodes().iter().for_each(Node::resume);
    if worker.is_some() {
        setup::make_leader(cluster, 1)?;
    }
    await_standbys(cluster)?;
    sleep(SETTLE);
    let pgbench = Pgbench::on(cluster, cluster.node(1))?;
    let mut tps = [0.0; 2];
    let (began, before_ns) = (Instant::now(), worker_ns(cluster)?);
    for (tps, clients) in tps.iter_mut().zip(CLIENTS) {
        *tps = pgbench.tpcb(clients, SECONDS)?;
    }
    if let Some(worker) = worker {
        worker.cpu_ns += worker_ns(cluster)?.saturating_sub(before_ns);
        worker.seconds += began.elapsed().as_secs_f64();
    }
    cluster.nodes().iter().for_each(Node::pause);
    Ok(tps)
}

/// What the primary's worker took while the clients ran. pgraft does nothing in the backends, so
/// this is what it costs them, and a figure that other work on the machine hardly touches.
#[derive(Default)]
struct Worker {
    cpu_ns: u64,
    seconds: f64,
}

/// Nanoseconds on a core so far; none without a worker.
fn worker_ns(cluster: &Cluster) -> Result<u64> {
    let worker = cluster.node(1).worker();
    worker.map_or(Ok(0), |worker| Ok(threads_ns(worker.pid)?.values().sum()))
}
