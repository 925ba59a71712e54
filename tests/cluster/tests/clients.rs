//! What docs/failover.md tells clients to do, with libpq itself: `psql` and a list of all servers.

use pgraft_cluster::check::{SOON, equal, expect};
use pgraft_cluster::{Cluster, Options, Result, wait_for, with};

/// What `psql` says to a statement, with these servers in this order.
fn psql(cluster: &Cluster, order: &[u32], more: &str, sql: &str) -> Result<String> {
    let hosts: Vec<String> = order.iter().map(|id| cluster.node(*id).pg_address()).collect();
    let url = format!(
        "postgresql://postgres@{}/postgres?target_session_attrs=read-write&connect_timeout=2{more}",
        hosts.join(",")
    );
    let node = cluster.node(order[0]);
    let said = node.run_program("psql", &["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, &url])?;
    Ok(said.trim().to_owned())
}

const WHERE: &str = "SELECT current_setting('cluster_name')";

#[test]
fn libpq_finds_the_primary_among_all_servers() {
    let options = Options { failover: true, ..Options::default() };
    with(Cluster::form("clients", options), |cluster| {
        let old = cluster.settled_primary(SOON)?;
        equal(psql(cluster, &[3, 2, 1], "", WHERE)?, format!("node{old}"), "the primary")?;
        psql(cluster, &[3, 2, 1], "", "CREATE TABLE t (a int)")?;
        cluster.await_streaming(old, SOON)?;

        cluster.node_mut(old).kill();
        // As a client does: again until it works.
        let others = (1..=3).filter(|id| *id != old);
        let order: Vec<u32> = [old].into_iter().chain(others).collect();
        wait_for("a client gets through", SOON, || {
            Ok(psql(cluster, &order, "", "INSERT INTO t VALUES (1)").ok().map(drop))
        })?;
        let new = cluster.next_primary(Some(old), SOON)?;
        equal(psql(cluster, &order, "", WHERE)?, format!("node{new}"), "the new primary")?;

        // It is back, and fenced. To libpq it is as good as any that is not in recovery and not
        // read-only by its settings: whoever names it first is caught there until it is rewound.
        cluster.node_mut(old).start()?;
        wait_for("the old one knows", SOON, || {
            let sql = format!("SELECT primary_id = {new} AND fenced FROM pgraft_status()");
            Ok(cluster.node(old).session()?.is_true(&sql)?.then_some(()))
        })?;
        let insert = "INSERT INTO t VALUES (2)";
        equal(psql(cluster, &order, "", WHERE)?, format!("node{old}"), "the deposed one, first")?;
        let refused = psql(cluster, &order, "", insert).err().map(|failure| failure.to_string());
        let who = format!("cannot commit: node {new} is the primary");
        let place = format!("its server listens at {}", cluster.node(new).pg_address());
        let says = |said: &String| said.contains(&who) && said.contains(&place);
        expect(refused.as_ref().is_some_and(says), || {
            format!("{refused:?} does not say: {who}, {place}")
        })?;
        // The way out: an order by chance, so that who tries again gets through.
        let by_chance = "&load_balance_hosts=random";
        wait_for("a client gets through by chance", SOON, || {
            Ok(psql(cluster, &order, by_chance, insert).ok().map(drop))
        })?;
        let rows = cluster.node(new).session()?.value("SELECT count(*) FROM t WHERE a = 2")?;
        equal(rows.as_deref(), Some("1"), "rows of the second try")?;
        // Rewound, it is passed by.
        cluster.rejoin(old, new)?;
        cluster.await_streaming(new, SOON)?;
        equal(psql(cluster, &order, "", WHERE)?, format!("node{new}"), "the rewound one, first")
    });
}
