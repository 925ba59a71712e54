//! Checks that are failures with words of their own, and the waits that most tests share.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use crate::{Cluster, Failure, Node, Process, Result, SqlError, Status, wait_for};

/// For what takes well under a second on an idle machine. A wait that succeeds costs none of it,
/// and a machine on which other things run may stand still for seconds.
pub const SOON: Duration = Duration::from_secs(30);
/// For what a ramd does to its server.
const DID_AT_MOST: Duration = Duration::from_secs(90);

/// A check that is a failure with its own words, so that the logs are kept.
pub fn expect(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Failure::new(what())) }
}

/// Both are the same.
pub fn equal<T: PartialEq + Debug>(left: T, right: T, what: &str) -> Result<()> {
    expect(left == right, || format!("{what}: {left:?} is not {right:?}"))
}

/// The error has this SQLSTATE and says each of these somewhere in message, detail or hint.
pub fn is_error(error: &SqlError, sqlstate: &str, says: &[&str]) -> Result<()> {
    let text = error.to_string();
    expect(error.sqlstate.as_deref() == Some(sqlstate), || format!("{sqlstate} wanted: {text}"))?;
    let missing = says.iter().find(|part| !text.contains(**part));
    expect(missing.is_none(), || format!("{missing:?} is not said by: {text}"))
}

/// Waits for a process of the server's whose title has this in it.
pub fn await_process(node: &Node, title: &str) -> Result<Process> {
    wait_for(&format!("node {} has a {title}", node.id()), SOON, || {
        Ok(node.processes().into_iter().find(|process| process.title().contains(title)))
    })
}

/// Waits for a status row that has what is wanted.
pub fn await_status(node: &Node, what: &str, is: impl Fn(&Status) -> bool) -> Result<Status> {
    wait_for(&format!("node {}: {what}", node.id()), SOON, || {
        let status = Status::of(node)?;
        match is(&status) {
            true => Ok(Some(status)),
            false => Err(Failure::new(format!("{status:?}"))),
        }
    })
}

/// Waits until the node shows this state.
pub fn await_state(node: &Node, state: &str) -> Result<Status> {
    await_status(node, &format!("its state is {state}"), |status| status.get("state") == state)
}

/// Waits until the node's last error says this.
pub fn await_trouble(node: &Node, part: &str) -> Result<Status> {
    let what = format!("its last_error says \"{part}\"");
    await_status(node, &what, |status| status.get("last_error").contains(part))
}

/// The ids in the membership that a node has applied, voters only if asked.
pub fn members(node: &Node, voters: bool) -> Result<BTreeSet<u32>> {
    let sql = format!("SELECT node_id FROM pgraft_get_nodes() WHERE voter OR NOT {voters}");
    let rows = node.session()?.rows(&sql)?;
    Ok(rows.iter().filter_map(|row| row[0].as_deref()?.parse().ok()).collect())
}

/// Waits until each of the nodes `on` has applied that exactly `ids` vote.
pub fn await_voters(cluster: &Cluster, ids: &[u32], on: &[u32]) -> Result<()> {
    let wanted: BTreeSet<u32> = ids.iter().copied().collect();
    for id in on {
        let what = format!("node {id} has the voters {ids:?}");
        wait_for(&what, SOON, || Ok((members(cluster.node(*id), true)? == wanted).then_some(())))
            .map_err(|failure| Failure::new(format!("{failure}\n{}", cluster.table())))?;
    }
    Ok(())
}

/// Waits until these nodes agree on another leader than `old`, of a later term: the followers of
/// one that is gone go on agreeing on it until they notice.
pub fn next_leader_among(
    cluster: &Cluster,
    ids: &[u32],
    (old, term): (u32, u64),
) -> Result<(u32, u64)> {
    wait_for(&format!("nodes {ids:?} agree on a leader after node {old}"), SOON, || {
        let agreed = crate::leader_of(ids.iter().map(|id| cluster.node(*id)))?;
        Ok(agreed.filter(|(next, later)| *next != old && *later > term))
    })
    .map_err(|failure| Failure::new(format!("{failure}\n{}", cluster.table())))
}

/// The leader that these nodes agree on and its term, whatever others say.
pub fn leader_among(cluster: &Cluster, ids: &[u32]) -> Result<(u32, u64)> {
    wait_for(&format!("nodes {ids:?} agree on a leader"), SOON, || {
        crate::leader_of(ids.iter().map(|id| cluster.node(*id)))
    })
    .map_err(|failure| Failure::new(format!("{failure}\n{}", cluster.table())))
}

/// Waits until node 1 is the primary that the others stream from, and has a table.
pub fn ready(cluster: &Cluster) -> Result<()> {
    cluster.next_primary(None, SOON)?;
    let mut session = cluster.node(1).session()?;
    wait_for("a table", SOON, || Ok(session.run("CREATE TABLE t (a int)").ok()))?;
    cluster.await_streaming(1, SOON)
}

/// Waits until a node's ramd did this, with `part` in the line.
pub fn await_did(node: &Node, what: &str, part: &str) -> Result<()> {
    wait_for(&format!("node {}: {what}: {part}", node.id()), DID_AT_MOST, || {
        match node.ramd_did(what, part) {
            0 => Err(Failure::new(node.ramd_history().join("\n"))),
            _ => Ok(Some(())),
        }
    })
}
