//! What the fence costs writers: a primary whose commits it lets pass, against one without pgraft.
//!
//! What counts is the time that the backend was on a core for a transaction, as the kernel has it
//! in nanoseconds: what it waits for (a client, a disk, a core that others have) is not the fence's
//! doing. The two take turns of some hundredths of a second, over connections that stay open, for
//! what else the machine does changes within seconds.

use std::time::{Duration, Instant};

use pgraft_cluster::{Cluster, Failure, Options, Result, Session, wait_for};

use crate::idle::threads_ns;
use crate::pgbench::Pgbench;
use crate::report::Row;
use crate::samples::Pairs;
use crate::setup;

const SCALE: u32 = 10;
const PAIRS: usize = 1500;
const AT_MOST: Duration = Duration::from_secs(120);
const READY_AT_MOST: Duration = Duration::from_secs(60);
const AIM: f64 = 0.99;
const SETTINGS: &str = "fsync = off\nshared_buffers = 256MB\nmax_wal_size = 8GB\n\
     checkpoint_timeout = 1h\nautovacuum = off\nwal_keep_size = 512MB";

/// What is committed, how often in a turn, and the statements of one, as pgbench sends them. `$` is
/// a number that changes.
const KINDS: [(&str, u32, &[&str]); 2] = [
    (
        "TPC-B",
        100,
        &[
            "BEGIN",
            "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = $",
            "SELECT abalance FROM pgbench_accounts WHERE aid = $",
            "UPDATE pgbench_tellers SET tbalance = tbalance + 1 WHERE tid = 1 + $ % 100",
            "UPDATE pgbench_branches SET bbalance = bbalance + 1 WHERE bid = 1 + $ % 10",
            "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime)
             VALUES (1 + $ % 100, 1 + $ % 10, $, 1, CURRENT_TIMESTAMP)",
            "END",
        ],
    ),
    ("single-row INSERTs", 500, &["INSERT INTO single VALUES ($)"]),
];

pub fn measure() -> Result<Vec<Row>> {
    let postgresql = setup::postgresql(SETTINGS);
    let with = Options { failover: true, postgresql: postgresql.clone(), ..Options::calm() };
    Cluster::form("bench-fence-with", with)?.run(|with| {
        let without = Options { preload: false, postgresql, ..Options::default() };
        Cluster::start("bench-fence-without", without)?.run(|without| {
            let (mut with, mut without) = (prepare(with)?, prepare(without)?);
            let mut rows = Vec::new();
            for (name, commits, statements) in KINDS {
                let pairs = compare(&mut with, &mut without, commits, statements)?;
                rows.push(Row {
                    figure: format!("The fence, let through, against no pgraft: {name}, 1 client"),
                    measured: pairs.describe_in("commits a second of a core"),
                    aim: ">= 0.99",
                    met: pairs.met(AIM),
                });
            }
            Ok(rows)
        })
    })
}

/// A connection to a primary, and the process at its other end.
struct Side {
    session: Session,
    backend: u32,
}

/// The primary's tables and procedures, and a connection to it.
fn prepare(cluster: &Cluster) -> Result<Side> {
    let mut session = cluster.node(1).session()?;
    wait_for("node 1 takes writes", READY_AT_MOST, || {
        Ok(session.run("CREATE TABLE IF NOT EXISTS single (n int)").ok())
    })?;
    Pgbench::on(cluster, cluster.node(1))?.initialize(SCALE)?;
    cluster.await_streaming(1, READY_AT_MOST)?;
    session.run("CHECKPOINT")?;
    let backend = session.value("SELECT pg_backend_pid()")?.unwrap_or_default();
    let backend = backend.parse().map_err(|_| Failure::new("no pg_backend_pid()"))?;
    let mut side = Side { session, backend };
    for (_, commits, statements) in KINDS {
        side.rate(commits, statements)?;
    }
    Ok(side)
}

impl Side {
    /// Commits a second of a core.
    fn rate(&mut self, commits: u32, statements: &[&str]) -> Result<f64> {
        let on_core_ns = || Ok::<u64, Failure>(threads_ns(self.backend)?.values().sum());
        let before_ns = on_core_ns()?;
        for commit in 0..commits {
            let number = (1 + commit * 7919 % 1_000_000).to_string();
            for statement in statements {
                self.session.run(&statement.replace('$', &number))?;
            }
        }
        Ok(f64::from(commits) * 1e9 / (on_core_ns()? - before_ns) as f64)
    }
}

fn compare(
    with: &mut Side,
    without: &mut Side,
    commits: u32,
    statements: &[&str],
) -> Result<Pairs> {
    let mut pairs = Pairs::default();
    let began = Instant::now();
    for number in 0..PAIRS {
        if began.elapsed() > AT_MOST {
            break;
        }
        // Who comes second finds what the first left in the machine's caches, and to be sent.
        let (ours, other) = match number % 2 {
            0 => (with.rate(commits, statements)?, without.rate(commits, statements)?),
            _ => {
                let other = without.rate(commits, statements)?;
                (with.rate(commits, statements)?, other)
            }
        };
        pairs.push(ours, other);
    }
    Ok(pairs)
}
