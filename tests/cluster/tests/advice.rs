//! What a server should be set to before it is needed is said in its log when pgraft starts there.

use pgraft_cluster::check::{SOON, equal, expect};
use pgraft_cluster::{Cluster, Node, Options, Result, wait_for, with};

const NO_REWIND: &str = "pgraft: neither wal_log_hints nor data checksums are on: once this \
                         server is a deposed primary, pg_rewind cannot bring it back";

/// Sets whether a server that is down has data checksums, whatever initdb does by itself.
fn set_checksums(node: &Node, on: bool) -> Result<()> {
    let data = node.data().display().to_string();
    let control = node.run_program("pg_controldata", &["-D", &data])?;
    let version = control.lines().find_map(|line| line.strip_prefix("Data page checksum version:"));
    if version.is_some_and(|version| (version.trim() != "0") != on) {
        let how = if on { "--enable" } else { "--disable" };
        node.run_program("pg_checksums", &[how, "--no-sync", "-D", &data])?;
    }
    Ok(())
}

#[test]
fn a_server_that_pg_rewind_could_not_bring_back_is_told_of_at_start_and_no_other() {
    let options = Options { failover: true, ..Options::default() };
    with(Cluster::prepare("advice", options), |cluster| {
        for (id, hints, checksums) in [(1, "off", false), (2, "off", true), (3, "on", false)] {
            let node = cluster.node(id);
            set_checksums(node, checksums)?;
            node.configure(true, &format!("fsync = off\nwal_log_hints = {hints}\n"))?;
        }
        cluster.start_all()?;
        cluster.init_and_start()?;
        for node in cluster.nodes() {
            // Made by what comes after the advice.
            wait_for("pgraft has made slots", SOON, || {
                let slots = "SELECT count(*) = 2 FROM pg_replication_slots";
                Ok(node.session()?.is_true(slots)?.then_some(()))
            })?;
        }
        wait_for("node 1 is told of", SOON, || {
            Ok(cluster.node(1).log().contains(NO_REWIND).then_some(()))
        })?;
        for id in [2, 3] {
            let log = cluster.node(id).log();
            expect(!log.contains("pg_rewind"), || format!("node {id} is told of:\n{log}"))?;
        }
        // Once, and again by the next worker.
        let told = |cluster: &Cluster| cluster.node(1).log().matches(NO_REWIND).count();
        equal(told(cluster), 1, "lines in the log")?;
        cluster.node_mut(1).stop(pgraft_cluster::Stop::Fast)?;
        cluster.node_mut(1).start()?;
        wait_for("node 1 is told of again", SOON, || Ok((told(cluster) == 2).then_some(())))
    });
}
