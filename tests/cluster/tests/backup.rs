//! What docs/operations/backup.md tells an operator to do, done.

use std::fs;
use std::path::Path;

use pgraft_cluster::check::{SOON, await_state, await_voters, equal, expect, leader_among};
use pgraft_cluster::{Cluster, Failure, Node, Options, Result, Session, Stop, wait_for, with};

const DOC: &str = include_str!("../../../docs/operations/backup.md");
const FILE: &str = "/backup/pgraft_kv.copy";
const COPY_OUT: &str = "COPY (SELECT key, value FROM pgraft_kv()) TO '/backup/pgraft_kv.copy';";
const COPY_OUT_LOCAL: &str =
    "COPY (SELECT key, value FROM pgraft_kv(consistent => false)) TO '/backup/pgraft_kv.copy';";
const COPY_IN: [&str; 3] = [
    "CREATE TEMP TABLE kv_copy (key text, value text);",
    "COPY kv_copy FROM '/backup/pgraft_kv.copy';",
    "SELECT count(pgraft_kv_put(key, value)) FROM kv_copy;",
];
const REPLACE: [&str; 2] =
    ["SELECT pgraft_remove_node(3);", "SELECT pgraft_add_node('db3.example.net:7400', 3);"];
const BEGIN: [&str; 2] = ["SELECT pgraft_init();", "SELECT pgraft_start();"];

/// Runs a statement as it stands in the page, with what is the reader's own replaced.
fn run(session: &mut Session, statement: &str, own: &[(&str, &str)]) -> Result<()> {
    let stands = DOC.lines().any(|line| line.trim() == statement);
    expect(stands, || format!("docs/operations/backup.md does not say {statement}"))?;
    let sql = own.iter().fold(statement.to_owned(), |sql, (from, to)| sql.replace(from, to));
    Ok(session.run(&sql)?)
}

fn fill(node: &Node) -> Result<()> {
    let mut session = node.session()?;
    // What text formats like to get wrong.
    session.run("SELECT pgraft_kv_put('tab\tand\\N', E'line\\nbackslash \\\\ Zürich')")?;
    session.run("SELECT pgraft_kv_put('empty', '')")?;
    Ok(session.run(
        "SELECT count(pgraft_kv_put('n/' || n, repeat('x', 3000))) FROM generate_series(1, 50) n",
    )?)
}

/// The store's contents, in a word.
fn contents(node: &Node) -> Result<String> {
    let sql = "SELECT concat(count(*), ' ', md5(string_agg(row(key, value)::text, ','
               ORDER BY key COLLATE \"C\"))) FROM pgraft_kv(false)";
    Ok(node.session()?.value(sql)?.unwrap_or_default())
}

fn await_contents(node: &Node, wanted: &str) -> Result<()> {
    wait_for(&format!("node {} holds what the others hold", node.id()), SOON, || {
        Ok((contents(node)? == wanted).then_some(()))
    })
}

fn set_aside(raft: &Path) -> Result<()> {
    fs::rename(raft, raft.with_extension("aside")).map_err(Failure::while_doing("move it aside"))
}

#[test]
fn a_lost_node_is_replaced_and_gets_the_snapshot() {
    let pgraft = "raft_snapshot_entries = 20\nraft_log_keep_entries = 0\n".to_owned();
    with(Cluster::form("backup-lost", Options { pgraft, ..Options::default() }), |cluster| {
        fill(cluster.node(1))?;
        let wanted = contents(cluster.node(1))?;
        cluster.node_mut(3).stop(Stop::Immediate)?;
        set_aside(&cluster.node(3).raft())?;
        leader_among(cluster, &[1, 2])?;
        let address = cluster.node(3).raft_address();
        for statement in REPLACE {
            let own = [("db3.example.net:7400", address.as_str())];
            run(&mut cluster.node(2).session()?, statement, &own)?;
        }
        cluster.node_mut(3).start()?;
        for statement in BEGIN {
            run(&mut cluster.node(3).session()?, statement, &[])?;
        }
        let votes = "SELECT voter FROM pgraft_get_nodes() WHERE node_id = 3;";
        wait_for("node 3 votes", SOON, || {
            Ok(cluster.node(1).session()?.is_true(votes)?.then_some(()))
        })?;
        run(&mut cluster.node(1).session()?, votes, &[])?;
        await_contents(cluster.node(3), &wanted)?;
        await_voters(cluster, &[1, 2, 3], &[1, 2, 3])
    });
}

#[test]
fn the_stores_contents_go_to_a_file_and_into_another_cluster() {
    with(Cluster::form("backup-copy", Options::default()), |cluster| {
        fill(cluster.node(1))?;
        let wanted = contents(cluster.node(1))?;
        let file = cluster.folder().join("node2/pgraft_kv.copy").display().to_string();
        let own = [(FILE, file.as_str())];
        // A standby's server writes it, and the primary's reads it: they are on one machine here.
        run(&mut cluster.node(2).session()?, COPY_OUT, &own)?;
        cluster.node(1).session()?.run("SELECT pgraft_kv_delete(key) FROM pgraft_kv()")?;
        let mut session = cluster.node(1).session()?;
        for statement in COPY_IN {
            run(&mut session, statement, &own)?;
        }
        cluster.nodes().iter().try_for_each(|node| await_contents(node, &wanted))
    });
}

#[test]
fn a_survivor_of_a_lost_majority_begins_anew_with_what_it_has() {
    with(Cluster::form("backup-majority", Options::default()), |cluster| {
        fill(cluster.node(1))?;
        let wanted = contents(cluster.node(1))?;
        for lost in [2, 3] {
            cluster.node_mut(lost).kill();
        }
        let file = cluster.folder().join("node1/pgraft_kv.copy").display().to_string();
        let own = [(FILE, file.as_str())];
        let survivor = cluster.node(1);
        let mut session = survivor.session()?;
        run(&mut session, COPY_OUT_LOCAL, &own)?;
        session.run("SELECT applied_index FROM pgraft_status()")?;
        session.run("SELECT pgraft_stop()")?;
        set_aside(&survivor.raft())?;
        let text = fs::read_to_string(survivor.conf_file());
        let text = text.map_err(Failure::while_doing("read pgraft.conf"))?;
        let lines =
            text.lines().map(|line| match line.split_once('=').map(|(key, _)| key.trim()) {
                Some("raft_cluster_id") => "raft_cluster_id = anew",
                Some("raft_peer_addresses") => "raft_peer_addresses =",
                _ => line,
            });
        survivor.write_pgraft_conf(&(lines.collect::<Vec<_>>().join("\n") + "\n"))?;
        session.run("SELECT pg_reload_conf()")?;
        for statement in BEGIN {
            run(&mut session, statement, &[])?;
        }
        await_state(survivor, "member")?;
        equal(contents(survivor)?.split(' ').next(), Some("0"), "what a new cluster holds")?;
        for statement in COPY_IN {
            run(&mut session, statement, &own)?;
        }
        equal(contents(survivor)?, wanted, "what the survivor put in again")
    });
}
