//! The logs of a cluster at rest, read from the nodes' disks: they agree, and say what was changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pgraft::raft::{Entry, LogIndex, Payload};
use pgraft::storage::{FileDisk, Storage};
use pgraft_cluster::check::{equal, expect};
use pgraft_cluster::{Cluster, Failure, Result, Status, wait_for};

/// The changes that the committed part of the logs records.
#[derive(Debug, Default)]
pub struct Changes {
    /// Who was added.
    pub added: BTreeSet<u32>,
    /// Who was removed.
    pub removed: BTreeSet<u32>,
}

/// Waits until all nodes are healthy and equally far; how far.
pub fn await_rest(cluster: &Cluster, at_most: Duration) -> Result<u64> {
    for node in cluster.nodes() {
        wait_for(&format!("node {} is healthy", node.id()), at_most, || {
            Ok(node.session()?.is_true("SELECT pgraft_is_healthy()")?.then_some(()))
        })?;
        equal(Status::of(node)?.get("last_error"), "", "its trouble")?;
    }
    wait_for("all nodes have applied the same", at_most, || {
        let mut far = BTreeSet::new();
        for node in cluster.nodes() {
            let status = Status::of(node)?;
            far.extend(["commit_index", "applied_index"].map(|column| status.number(column)));
        }
        Ok(if far.len() == 1 { far.first().copied() } else { None })
    })
    .map_err(|failure| Failure::new(format!("{failure}\n{}", cluster.table())))
}

/// What the logs of the stopped nodes record up to `commit`, in which all must agree.
pub fn agreed_changes(cluster: &Cluster, commit: u64) -> Result<Changes> {
    let mut agreed: BTreeMap<LogIndex, (u32, Entry)> = BTreeMap::new();
    for node in cluster.nodes() {
        let copy = cluster.folder().join(format!("copy{}", node.id()));
        let log = read_log(&node.raft(), &copy)?;
        let last = log.last().map_or(0, |entry| entry.id.index.0);
        println!("node {}: the log ends with {last}, committed at rest is {commit}", node.id());
        expect(last >= commit, || format!("node {} holds {last} of {commit}", node.id()))?;
        for entry in log.into_iter().filter(|entry| entry.id.index.0 <= commit) {
            let index = entry.id.index;
            let (first, known) = agreed.entry(index).or_insert_with(|| (node.id(), entry.clone()));
            expect(*known == entry, || {
                format!("entry {} of node {} is not node {first}'s", index.0, node.id())
            })?;
        }
    }
    let mut changes = Changes::default();
    for (_, entry) in agreed.values() {
        match command(entry)? {
            Some(pgraft::cluster::Command::AddLearner { member }) => {
                changes.added.insert(member.id.get());
            }
            Some(pgraft::cluster::Command::Remove { node }) => {
                changes.removed.insert(node.get());
            }
            _ => {}
        }
    }
    Ok(changes)
}

/// The log in a stopped node's directory, read from a copy: opening one may cut a torn tail.
fn read_log(dir: &Path, copy: &Path) -> Result<Vec<Entry>> {
    let copied = Command::new("cp").arg("-rT").arg(dir).arg(copy).status();
    expect(copied.is_ok_and(|status| status.success()), || "could not copy the log".to_owned())?;
    let doing = || format!("read the log in \"{}\"", dir.display());
    let disk = FileDisk::open(copy).map_err(Failure::while_doing(doing()))?;
    let (_, recovered) = Storage::open(disk).map_err(Failure::while_doing(doing()))?;
    Ok(recovered.entries)
}

fn command(entry: &Entry) -> Result<Option<pgraft::cluster::Command>> {
    let bytes = match &entry.payload {
        Payload::Empty => return Ok(None),
        Payload::Command(bytes) => bytes,
        Payload::Membership { command, .. } => command,
    };
    let doing = format!("read entry {}", entry.id.index.0);
    pgraft::wire::decode_command(bytes).map(Some).map_err(Failure::while_doing(doing))
}
