//! Which server is the primary, and whether the others follow it.

use std::time::Duration;

use crate::{Cluster, Failure, Node, Result, wait_for};

impl Node {
    /// Whether this server is the primary by the log's word, and commits; `false` for one that is
    /// down or fenced, or whose cluster has not named it yet: if that one dies, nobody follows it.
    pub fn is_open_primary(&self) -> bool {
        let sql = "SELECT NOT pg_is_in_recovery() AND NOT coalesce(fenced, true) \
                   AND coalesce(primary_id = node_id, false) FROM pgraft_status()";
        self.session().and_then(|mut session| Ok(session.is_true(sql)?)).unwrap_or(false)
    }

    /// Whether its server runs as a primary, fenced or not.
    pub fn is_primary(&self) -> bool {
        let sql = "SELECT NOT pg_is_in_recovery()";
        self.session().and_then(|mut session| Ok(session.is_true(sql)?)).unwrap_or(false)
    }
}

impl Cluster {
    /// Waits for a primary that commits, other than `old`.
    pub fn next_primary(&self, old: Option<u32>, at_most: Duration) -> Result<u32> {
        let what = match old {
            Some(old) => format!("a primary after node {old}"),
            None => "a primary".to_owned(),
        };
        wait_for(&what, at_most, || {
            let mut others = self.running().filter(|node| Some(node.id()) != old);
            Ok(others.find(|node| node.is_open_primary()).map(Node::id))
        })
        .map_err(|failure| Failure::new(format!("{failure}\n{}", self.table())))
    }

    /// Waits until every other node streams from that primary, and has what it has now.
    pub fn await_streaming(&self, primary: u32, at_most: Duration) -> Result<()> {
        let mut session = self.node(primary).session()?;
        let lsn = session.value("SELECT pg_current_wal_flush_lsn()")?.unwrap_or_default();
        let others = self.nodes().len() - 1;
        let sql = format!(
            "SELECT count(*) = {others} FROM pg_stat_replication \
             WHERE state = 'streaming' AND replay_lsn >= '{lsn}'"
        );
        wait_for(&format!("all stream from node {primary}"), at_most, || {
            Ok(session.is_true(&sql)?.then_some(()))
        })
        .map_err(|failure| Failure::new(format!("{failure}\n{}", self.table())))
    }
}
