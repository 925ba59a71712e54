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

/// Whom the log named the primary, as an epoch's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Named {
    /// Who.
    pub node: u32,
    /// Each naming has a later one.
    pub epoch: u64,
}

/// `node 2 is to be the primary, epoch 3, timeline 4`, at the end of a line.
fn named(line: &str) -> Option<Named> {
    let (before, after) = line.split_once(" is to be the primary, epoch ")?;
    let node = before.rsplit_once("node ")?.1.parse().ok()?;
    let epoch = after.split(',').next()?.parse().ok()?;
    Some(Named { node, epoch })
}

impl Cluster {
    /// The latest naming of a primary that any server's log tells of.
    pub fn last_named(&self) -> Result<Named> {
        let of = |node: &Node| node.log().lines().filter_map(named).max_by_key(|n| n.epoch);
        let latest = self.nodes().iter().filter_map(of).max_by_key(|named| named.epoch);
        latest.ok_or_else(|| Failure::new("no primary was ever named"))
    }

    /// Waits for a primary from which all others stream: who it is.
    pub fn settled_primary(&self, at_most: Duration) -> Result<u32> {
        let primary = self.next_primary(None, at_most)?;
        self.await_streaming(primary, at_most)?;
        Ok(primary)
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_naming_is_read_from_a_log() {
        let line = "2026-11-27 11:51:21.945 UTC [17] pgraft LOG:  pgraft: node 12 is to be the \
                    primary, epoch 3, timeline 4";
        assert_eq!(named(line), Some(Named { node: 12, epoch: 3 }));
        assert_eq!(named("node 2 has the most WAL: it is to be the primary"), None);
    }
}
