//! pgraft's page, as ramd reads it: attached read-only, and anew when what is there is no longer
//! fresh. What is not fresh is unknown, and so is what is not our server's: another one of this
//! machine may have been given the same key.

use std::path::PathBuf;

use pgraft::shmem::{FenceMode, MemberView, SysvReader, View, attach_readonly};
use pgraft::sys::now_boottime_ns;
use pgraft::wire::PgRole;

use crate::overview::{FenceState, Member, Page};
use crate::server::works_in;

/// Whose page it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The node.
    pub node_id: u32,
    /// Its cluster.
    pub cluster_id: String,
    /// The data directory of its server: what both say may be said by two.
    pub data: PathBuf,
}

/// The page under one key.
#[derive(Debug)]
pub struct PageReader {
    key: i32,
    owner: Owner,
    reader: Option<SysvReader>,
}

impl PageReader {
    /// Nothing is attached yet. Key 0 names none.
    pub fn new(key: i32, owner: Owner) -> PageReader {
        PageReader { key, owner, reader: None }
    }

    /// What the page says now. `Err`: why that is unknown, in words.
    pub fn look(&mut self) -> Result<Page, String> {
        // A worker that began again has another segment: the one that is attached never gets fresh.
        if let Some(page) = self.reader.as_ref().and_then(|reader| self.read(reader).ok()) {
            return Ok(page);
        }
        self.reader = None;
        let reader = attach_readonly(self.key).map_err(|error| error.to_string())?;
        let page = self.read(&reader);
        self.reader = Some(reader);
        page
    }

    fn read(&self, reader: &SysvReader) -> Result<Page, String> {
        let (pid, _) = reader.page().creator();
        let page = look(reader, &self.owner)?;
        // Last: a worker that has ended says more.
        match works_in(pid, &self.owner.data) {
            true => Ok(page),
            false => Err(format!(
                "shared memory key {} holds the page of another server (process {pid}), which \
                 needs another postgresql_shmem_key",
                self.key
            )),
        }
    }
}

fn look(reader: &SysvReader, owner: &Owner) -> Result<Page, String> {
    let shared = reader.page();
    if !shared.is_valid() {
        return Err("the page is of another version of pgraft".to_owned());
    }
    if !reader.creator_lives() {
        return Err("the page was left behind by a worker that has ended".to_owned());
    }
    let before_ns = now_boottime_ns();
    let fence = shared.fence();
    let primary_id = shared.primary_id();
    let view = shared.view().ok_or("the page is being written, and its writer stands still")?;
    // After all was read: what was fresh then was fresh while it was read.
    let now_ns = now_boottime_ns();
    if !shared.is_fresh(now_ns) {
        let age_ms = shared.heartbeat_age_ns(now_ns).map(|age_ns| age_ns / 1_000_000);
        return Err(match age_ms {
            Some(age_ms) => format!("pgraft's worker gave no sign of life for {age_ms} ms"),
            None => "pgraft's worker has not begun, or has ended".to_owned(),
        });
    }
    owner.is_of(&view)?;
    let lease_until_ns = view.core().leader_until_ns();
    let heartbeat_age_ms = shared.heartbeat_age_ns(before_ns).unwrap_or(0) / 1_000_000;
    let View { state, role, term, leader, has_quorum, voters, reachable, .. } = view;
    Ok(Page {
        state: state.name(),
        role: role.name(),
        term,
        leader_id: leader,
        has_quorum,
        voters,
        reachable,
        last_index: view.last_index,
        commit_index: view.commit,
        applied_index: view.applied,
        fence: match fence.mode {
            FenceMode::Off => FenceState::Off,
            FenceMode::Closed => FenceState::Closed,
            FenceMode::Paused => FenceState::Paused,
            FenceMode::Open => FenceState::Open,
        },
        writes_from_ns: fence.from_ns,
        writes_until_ns: fence.until_ns,
        lease_until_ns,
        primary_id,
        last_error: view.last_error,
        heartbeat_age_ms,
        worker_pid: shared.worker_pid().unwrap_or(0),
        paused: view.paused,
        members: view.members.into_iter().map(member).collect(),
    })
}

impl Owner {
    /// Whether the page says that it is of this node. A worker that could not read its
    /// configuration says neither.
    fn is_of(&self, view: &View) -> Result<(), String> {
        let id = [0, self.node_id].contains(&view.node_id);
        let cluster = ["", &self.cluster_id].contains(&view.cluster_id.as_str());
        match id && cluster {
            true => Ok(()),
            false => Err(format!(
                "the page is of another server, node {} of cluster \"{}\", and this is node {} of \
                 cluster \"{}\"",
                view.node_id, view.cluster_id, self.node_id, self.cluster_id
            )),
        }
    }
}

fn member(view: MemberView) -> Member {
    let host = match view.address.contains(':') {
        true => format!("[{}]", view.address),
        false => view.address,
    };
    Member {
        id: view.id,
        name: view.name,
        raft_address: format!("{host}:{}", view.port),
        pg_address: view.pg_address,
        voter: view.voter,
        reachable: view.reachable,
        pg_role: view.pg_role.map(|role| match role {
            PgRole::Primary => "primary",
            PgRole::Standby => "standby",
        }),
        wal_lsn: view.wal_lsn,
        last_contact_unix_us: view.last_contact_unix_us,
        round_trip_us: view.counters.round_trip_us,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_another_node_or_cluster_is_not_ours() {
        let owner = Owner { node_id: 2, cluster_id: "shop".into(), data: PathBuf::new() };
        let says = |node_id, cluster: &str| {
            owner.is_of(&View { node_id, cluster_id: cluster.into(), ..View::default() })
        };
        assert_eq!((says(2, "shop"), says(0, "")), (Ok(()), Ok(())));
        for (node_id, cluster) in [(1, "shop"), (2, "other")] {
            let why = says(node_id, cluster).unwrap_err();
            assert!(why.contains(&format!("node {node_id} of cluster \"{cluster}\"")), "{why}");
        }
    }
}
