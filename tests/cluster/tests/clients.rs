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

        // It is back, and fenced. It is not in recovery, but says that it only reads: it is passed
        // by, whoever names it first.
        cluster.node_mut(old).start()?;
        wait_for("the old one knows", SOON, || {
            let sql = format!("SELECT primary_id = {new} AND fenced FROM pgraft_status()");
            Ok(cluster.node(old).session()?.is_true(&sql)?.then_some(()))
        })?;
        equal(psql(cluster, &order, "", WHERE)?, format!("node{new}"), "the deposed one, first")?;
        // Who goes there all the same is told where to go instead.
        let mut session = cluster.node(old).session()?;
        let refused = session.error("INSERT INTO t VALUES (2)")?;
        equal(refused.sqlstate.as_deref(), Some("25006"), &refused.message)?;
        let place = format!("its server listens at {}", cluster.node(new).pg_address());
        let says = |said: &String| {
            said.contains(&format!("node {new} is the primary")) && said.contains(&place)
        };
        expect(refused.detail.as_ref().is_some_and(says), || format!("{refused}"))?;
        // Other messages of that kind are none of pgraft's business.
        let warning = "DO $$ BEGIN RAISE WARNING 'to you' USING ERRCODE = '25006'; END $$";
        for _ in 0..3 {
            session.run(warning)?;
        }
        session.run("SET default_transaction_read_only = off")?;
        let refused = session.error("INSERT INTO t VALUES (2)")?;
        equal(refused.sqlstate.as_deref(), Some("25006"), &refused.message)?;
        expect(refused.message.contains("cannot commit"), || format!("{refused}"))?;
        // As docs/failover.md has it, on one's own account.
        session.run("SET pgraft.fence = off")?;
        session.run("INSERT INTO t VALUES (0)")?;
        // libpq goes on to the next host in a new connection only.
        psql(cluster, &order, "", "INSERT INTO t VALUES (3)")?;
        let rows = cluster.node(new).session()?.value("SELECT count(*) FROM t WHERE a > 1")?;
        equal(rows.as_deref(), Some("1"), "rows since it is back")?;
        // Rewound, it is passed by.
        cluster.rejoin(old, new)?;
        cluster.await_streaming(new, SOON)?;
        equal(psql(cluster, &order, "", WHERE)?, format!("node{new}"), "the rewound one, first")
    });
}

/// A server that is primary again without having been anything else in between.
#[test]
fn a_session_that_only_reads_says_so_on_the_primary_too() {
    let options = Options { failover: true, ..Options::default() };
    with(Cluster::form("clients-again", options), |cluster| {
        let primary = cluster.settled_primary(SOON)?;
        cluster.node(primary).session()?.run("CREATE TABLE t (a int)")?;
        cluster.await_streaming(primary, SOON)?;
        // The next one is named and cannot be promoted.
        let next = (1..=3).find(|id| *id != primary).expect("three nodes");
        let processes = cluster.node(next).processes();
        let startup = processes.into_iter().find(|process| process.title().contains("startup"));
        startup.expect("a startup process").signal(rustix::process::Signal::STOP);
        let mut asking = cluster.node(primary).session()?;
        asking.run("SET pgraft.command_timeout = '30s'")?;
        let sql = format!("SELECT pgraft_transfer_leadership({next})");
        let asked = std::thread::spawn(move || asking.value(&sql).map(drop));
        wait_for("the next one is named", SOON, || {
            let sql = format!("SELECT primary_id = {next} FROM pgraft_status()");
            Ok(cluster.node(primary).session()?.is_true(&sql)?.then_some(()))
        })?;
        let mut session = cluster.node(primary).session()?;
        cluster.node_mut(next).kill();
        wait_for("the first one takes writes again", SOON, || {
            Ok(cluster.node(primary).session()?.run("INSERT INTO t VALUES (1)").ok())
        })?;
        let refused = session.error("INSERT INTO t VALUES (2)")?;
        equal(refused.sqlstate.as_deref(), Some("25006"), &refused.message)?;
        equal(refused.hint.as_deref(), Some("Connect anew."), &format!("{refused}"))?;
        // How the move ended is not what this is about.
        let _ = asked.join().expect("the asking thread panicked");
        Ok(())
    });
}
