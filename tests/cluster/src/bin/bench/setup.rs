//! The clusters that are measured, and who leads them.

use std::time::Duration;

use pgraft_cluster::{Cluster, Options, Result, leader_of, wait_for};

/// A leader that is asked to hand over does so within an election timeout.
const HANDOVER_AT_MOST: Duration = Duration::from_secs(20);

/// Three nodes as users have them: pgraft's defaults, and a Postgres that waits for its disk,
/// unlike that of the tests.
pub fn form(name: &str, more: &str) -> Result<Cluster> {
    let options = Options { postgresql: postgresql(more), ..Options::default() };
    Cluster::form(&format!("bench-{name}"), options)
}

/// The lines of postgresql.conf for [`form`]; the later of two lines for one setting counts.
pub fn postgresql(more: &str) -> String {
    format!("fsync = on\n{more}\n")
}

/// Makes this node the leader, if it is not.
pub fn make_leader(cluster: &Cluster, id: u32) -> Result<()> {
    wait_for(&format!("node {id} leads"), HANDOVER_AT_MOST, || {
        if leader_of(cluster.nodes())?.is_some_and(|(leader, _)| leader == id) {
            return Ok(Some(()));
        }
        let mut session = cluster.node(id).session()?;
        session.run(&format!("SELECT pgraft_transfer_leadership({id})"))?;
        Ok(None)
    })
}
