//! What asking for the leader costs: `pgraft_is_leader()` against the cheapest question that
//! Postgres itself answers from shared memory, `pg_is_in_recovery()`.

use pgraft_cluster::{Account, Cluster, Result};

use crate::pgbench::Pgbench;
use crate::report::Row;
use crate::samples::Pairs;
use crate::setup;

const PAIRS: u32 = 12;
const SECONDS: u32 = 5;
const AIM: f64 = 0.95;

pub fn measure() -> Result<Vec<Row>> {
    setup::form("read", "")?.run(measure_on)
}

fn measure_on(cluster: &mut Cluster) -> Result<Vec<Row>> {
    // Where the answer is true and the lease is read; the primary, as it should be.
    setup::make_leader(cluster, 1)?;
    let pgbench = Pgbench::on(cluster, cluster.node(1))?;
    let account = Account::choose()?;
    let ours = cluster.folder().join("is_leader.sql");
    account.write_file(&ours, "SELECT pgraft_is_leader();\n")?;
    let other = cluster.folder().join("in_recovery.sql");
    account.write_file(&other, "SELECT pg_is_in_recovery();\n")?;

    pgbench.statement(&other, 1)?;
    let mut pairs = Pairs::default();
    for number in 0..PAIRS {
        // The one that goes first changes, so that neither always follows the other's pause.
        let (a, b) = if number % 2 == 0 {
            let a = pgbench.statement(&ours, SECONDS)?;
            (a, pgbench.statement(&other, SECONDS)?)
        } else {
            let b = pgbench.statement(&other, SECONDS)?;
            (pgbench.statement(&ours, SECONDS)?, b)
        };
        eprintln!("  pair {}: {a:.0} and {b:.0} tps, {:.3}", number + 1, a / b);
        pairs.push(a, b);
    }
    Ok(vec![Row {
        figure: "`pgraft_is_leader()` against `pg_is_in_recovery()`, prepared, one client".into(),
        measured: pairs.describe(),
        aim: ">= 0.95",
        met: pairs.met(AIM),
    }])
}
