//! A primary that was replaced comes back as docs/failover.md has it for people, and writers'
//! ledgers say what became of their rows.

use std::thread::sleep;
use std::time::Duration;

use pgraft_cluster::check::{SOON, equal, expect};
use pgraft_cluster::writer::{Kind, Pace, Writers};
use pgraft_cluster::{Cluster, Options, Rejoined, with};

const A_WHILE: Duration = Duration::from_millis(500);

fn prepared_transactions() -> String {
    "max_prepared_transactions = 20\n".to_owned()
}

#[test]
fn a_server_that_wrote_after_another_was_promoted_is_rewound() {
    // Without pgraft's failover: both commit, and the ledger has to find that.
    let options = Options { postgresql: prepared_transactions(), ..Options::default() };
    with(Cluster::form("rejoin-by-hand", options), |cluster| {
        let kinds = [Kind::Insert, Kind::Block, Kind::Prepared];
        let writers = Writers::start(cluster, cluster.node(1), &kinds, Pace::default())?;
        writers.ledger().await_commit(1, SOON)?;
        cluster.await_streaming(1, SOON)?;
        cluster.node(2).session()?.run("SELECT pg_promote()")?;
        writers.ledger().await_commit(2, SOON)?;
        writers.ledger().await_commit(1, SOON)?;
        sleep(A_WHILE);
        cluster.node_mut(1).kill();
        let new = cluster.node(2);
        let verdict = writers.ledger().compare(new)?;
        println!("{verdict}");
        expect(!verdict.double.is_empty() && !verdict.lost.is_empty(), || {
            "two primaries were not noticed".to_owned()
        })?;

        equal(cluster.rejoin(1, 2)?, Rejoined::Rewound, "node 1")?;
        cluster.rejoin(3, 2)?;
        cluster.await_streaming(2, SOON)?;
        writers.ledger().await_commit(2, SOON)?;
        let ledger = writers.stop()?;
        let verdict = ledger.compare(cluster.node(2))?;
        println!("{verdict}; failures: {:?}", ledger.failures());
        equal(verdict.lost.len(), 0, "rows that were lost since the last verdict")
    });
}

#[test]
fn a_killed_primary_is_replaced_and_comes_back_as_a_standby() {
    let options =
        Options { failover: true, postgresql: prepared_transactions(), ..Options::default() };
    with(Cluster::form("rejoin", options), |cluster| {
        let old = cluster.next_primary(None, SOON)?;
        let kinds = [Kind::Insert, Kind::Prepared];
        let writers = Writers::start(cluster, cluster.node(old), &kinds, Pace::default())?;
        writers.ledger().await_commit(old, SOON)?;
        cluster.await_streaming(old, SOON)?;
        cluster.node_mut(old).kill();
        let new = cluster.next_primary(Some(old), SOON)?;
        writers.ledger().await_commit(new, SOON)?;
        cluster.rejoin(old, new)?;
        cluster.await_streaming(new, SOON)?;
        let ledger = writers.stop()?;
        let verdict = ledger.compare(cluster.node(new))?;
        println!("{verdict}; failures: {:?}", ledger.failures());
        expect(verdict.is_one_history(), || verdict.to_string())
    });
}
