//! Who may connect: the rules that both ends of a handshake apply to the other's `Hello`.
//! Every connection's thread asks; the consensus thread updates what they are judged by.

use crate::bugs::{self, Bug};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::{ConnId, lock};
use crate::cluster::{Address, Uuid};
use crate::raft::NodeId;
use crate::wire::{Hello, PROTOCOL_NEWEST, PROTOCOL_OLDEST, Refusal};

/// The gate of one node, shared by all its connections.
#[derive(Debug)]
pub struct Gate {
    rules: Mutex<Rules>,
    conns: AtomicU64,
}

#[derive(Debug)]
struct Rules {
    /// How this node introduces itself.
    local: Hello,
    /// The members, each with the data directory that joined, once known.
    bindings: BTreeMap<NodeId, Option<Uuid>>,
    /// Nodes that were removed and not added again.
    removed: BTreeSet<NodeId>,
    /// The links that stand, both directions.
    live: BTreeMap<ConnId, (NodeId, Uuid)>,
}

impl Gate {
    /// A gate that knows no members yet.
    pub fn new(local: Hello) -> Gate {
        let rules = Rules {
            local,
            bindings: BTreeMap::new(),
            removed: BTreeSet::new(),
            live: BTreeMap::new(),
        };
        Gate { rules: Mutex::new(rules), conns: AtomicU64::new(1) }
    }

    /// The members or this node's own introduction changed. Links that stand are not judged again;
    /// [`super::Net::disconnect`] ends those of one node.
    pub fn update(
        &self,
        local: Hello,
        bindings: BTreeMap<NodeId, Option<Uuid>>,
        removed: BTreeSet<NodeId>,
    ) {
        let mut rules = lock(&self.rules);
        rules.local = local;
        rules.bindings = bindings;
        rules.removed = removed;
    }

    /// How this node introduces itself to the one reached at `dialled`, or answering (`None`).
    pub fn hello(&self, dialled: Option<&Address>) -> Hello {
        Hello { dialled: dialled.cloned(), ..lock(&self.rules).local.clone() }
    }

    /// Whether a node that introduces itself so may connect now.
    pub fn judge(&self, hello: &Hello) -> Result<(), Refusal> {
        lock(&self.rules).judge(hello)
    }

    /// Whether `node` is a member.
    pub(super) fn is_member(&self, node: NodeId) -> bool {
        lock(&self.rules).bindings.contains_key(&node)
    }

    /// A number for a new connection, unique while the gate exists.
    pub fn next_conn(&self) -> ConnId {
        ConnId(self.conns.fetch_add(1, Ordering::Relaxed))
    }

    /// Judges and, if all is well, counts the link as live until the pass is dropped. One step, so
    /// that of two bearers of one node id that come together only one gets in.
    pub fn enter(self: &Arc<Self>, hello: &Hello, conn: ConnId) -> Result<Pass, Refusal> {
        let mut rules = lock(&self.rules);
        rules.judge(hello)?;
        rules.live.insert(conn, (hello.node, hello.directory));
        Ok(Pass { gate: self.clone(), conn })
    }
}

impl Rules {
    /// In the order in which a reason helps the operator most: what makes the two strangers first.
    fn judge(&self, hello: &Hello) -> Result<(), Refusal> {
        let local = &self.local;
        if hello.oldest > PROTOCOL_NEWEST || hello.newest < PROTOCOL_OLDEST {
            return Err(Refusal::Version);
        }
        if hello.auth_method != 0 {
            return Err(Refusal::Auth);
        }
        if hello.cluster_id != local.cluster_id {
            return Err(Refusal::ClusterId);
        }
        if hello.node == local.node {
            let same = hello.directory == local.directory;
            return Err(if same { Refusal::Oneself } else { Refusal::DuplicateNode });
        }
        if let (Some(theirs), Some(ours)) = (hello.cluster, local.cluster)
            && theirs != ours
        {
            return Err(Refusal::ClusterUuid);
        }
        // What changed since this node last heard it cannot judge: who was away while the members
        // changed must let them in, to hear of it. A wiped or removed node never knows more.
        let knows_more = hello.cluster.is_some()
            && hello.cluster == local.cluster
            && hello.members_at > local.members_at;
        let knows_more = knows_more && !bugs::on(Bug::StaleGate);
        if self.removed.contains(&hello.node) && !knows_more {
            return Err(Refusal::Removed);
        }
        let another = |(node, directory): &(NodeId, Uuid)| {
            *node == hello.node && *directory != hello.directory
        };
        if self.live.values().any(another) {
            return Err(Refusal::DuplicateNode);
        }
        match self.bindings.get(&hello.node) {
            Some(Some(bound))
                if *bound != hello.directory
                    && (!knows_more || bound.is_nil())
                    && !bugs::on(Bug::WipedVotes) =>
            {
                Err(Refusal::WrongDirectory)
            }
            _ => Ok(()),
        }
    }
}

/// A link that stands; dropping it says that it does no more.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    conn: ConnId,
}

impl Drop for Pass {
    fn drop(&mut self) {
        lock(&self.gate.rules).live.remove(&self.conn);
    }
}

/// Why this node refuses the bearer of `hello`, for the log.
pub(super) fn why_refused(refusal: Refusal, hello: &Hello, local: &Hello) -> String {
    let node = hello.node;
    match refusal {
        Refusal::Version => format!(
            "it speaks protocol versions {} to {}, this node {PROTOCOL_OLDEST} to \
             {PROTOCOL_NEWEST}",
            hello.oldest, hello.newest
        ),
        Refusal::ClusterId => format!(
            "its raft_cluster_id is {}, this node's is {}",
            quoted(&hello.cluster_id),
            quoted(&local.cluster_id)
        ),
        Refusal::ClusterUuid => {
            "it belongs to another cluster that has the same raft_cluster_id".to_owned()
        }
        Refusal::DuplicateNode if node == local.node => {
            format!("its raft_node_id {node} is this node's own")
        }
        Refusal::DuplicateNode => {
            format!("another server is connected as node {node}, with another raft_data_dir")
        }
        Refusal::WrongDirectory => format!(
            "its raft_data_dir is not the one that joined as node {node}; remove the node and add \
             it again"
        ),
        Refusal::Removed => format!("node {node} was removed from the cluster"),
        Refusal::Full => "there are too many connections".to_owned(),
        Refusal::Oneself => "it is this node itself".to_owned(),
        Refusal::Auth => {
            format!("it asks for the unknown authentication method {}", hello.auth_method)
        }
    }
}

/// Why the other side refused this node, for the log.
pub(super) fn why_refused_there(refusal: Refusal, local: &Hello) -> String {
    let node = local.node;
    match refusal {
        Refusal::Version => {
            format!(
                "it speaks none of the protocol versions {PROTOCOL_OLDEST} to {PROTOCOL_NEWEST}"
            )
        }
        Refusal::ClusterId => {
            format!("its raft_cluster_id is not {}", quoted(&local.cluster_id))
        }
        Refusal::ClusterUuid => {
            "it belongs to another cluster that has the same raft_cluster_id".to_owned()
        }
        Refusal::DuplicateNode => format!("raft_node_id {node} is taken by another server"),
        Refusal::WrongDirectory => format!(
            "this raft_data_dir is not the one that joined as node {node}; remove the node and add \
             it again"
        ),
        Refusal::Removed => format!("this node, {node}, was removed from the cluster"),
        Refusal::Full => "it has too many connections".to_owned(),
        Refusal::Oneself => "it is this node itself".to_owned(),
        Refusal::Auth => "it does not know the authentication method".to_owned(),
    }
}

/// A stranger's text for the log: escaped, and no longer than a name has any reason to be.
fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 64;
    let mut quoted = String::from("\"");
    text.chars().take(CHARS_MAX).for_each(|c| quoted.extend(c.escape_debug()));
    quoted.push_str(if text.chars().nth(CHARS_MAX).is_some() { "...\"" } else { "\"" });
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::LogIndex;

    fn uuid(n: u8) -> Uuid {
        Uuid::from_bytes([n; 16])
    }

    fn hello(node: i64, directory: u8) -> Hello {
        Hello {
            oldest: PROTOCOL_OLDEST,
            newest: PROTOCOL_NEWEST,
            cluster_id: "main".to_owned(),
            cluster: None,
            members_at: LogIndex(0),
            node: NodeId::new(node).unwrap(),
            directory: uuid(directory),
            name: format!("node{node}"),
            raft_address: None,
            raft_port: 7400,
            pg_port: 5432,
            system_identifier: None,
            dialled: None,
            auth_method: 0,
            challenge: [0; 16],
        }
    }

    fn gate() -> Arc<Gate> {
        let gate = Gate::new(hello(1, 1));
        let id = |n| NodeId::new(n).unwrap();
        let bindings = [(id(1), Some(uuid(1))), (id(2), Some(uuid(2))), (id(3), None)];
        let local = Hello { cluster: Some(uuid(100)), ..hello(1, 1) };
        gate.update(local, bindings.into(), [id(9)].into());
        Arc::new(gate)
    }

    #[test]
    fn members_newcomers_and_the_unformed_come_in() {
        let gate = gate();
        assert_eq!(gate.judge(&hello(2, 2)), Ok(()));
        assert_eq!(gate.judge(&hello(3, 77)), Ok(()), "not bound to a directory yet");
        assert_eq!(gate.judge(&hello(4, 4)), Ok(()), "no member yet");
        let same_cluster = Hello { cluster: Some(uuid(100)), ..hello(2, 2) };
        assert_eq!(gate.judge(&same_cluster), Ok(()));
    }

    #[test]
    fn each_rule_has_its_refusal() {
        let gate = gate();
        let cases = [
            (Hello { oldest: 2, newest: 3, ..hello(2, 2) }, Refusal::Version),
            (Hello { oldest: 0, newest: 0, ..hello(2, 2) }, Refusal::Version),
            (Hello { auth_method: 1, ..hello(2, 2) }, Refusal::Auth),
            (Hello { cluster_id: "other".to_owned(), ..hello(2, 2) }, Refusal::ClusterId),
            (Hello { cluster: Some(uuid(101)), ..hello(2, 2) }, Refusal::ClusterUuid),
            (hello(1, 1), Refusal::Oneself),
            (hello(1, 5), Refusal::DuplicateNode),
            (hello(9, 9), Refusal::Removed),
            (hello(2, 3), Refusal::WrongDirectory),
        ];
        for (hello, refusal) in cases {
            assert_eq!(gate.judge(&hello), Err(refusal), "{hello:?}");
            assert!(!why_refused(refusal, &hello, &gate.hello(None)).is_empty());
            assert!(!why_refused_there(refusal, &gate.hello(None)).is_empty());
        }
    }

    #[test]
    fn who_knows_of_later_changes_is_not_judged_by_earlier_ones() {
        let gate = gate();
        let id = |n| NodeId::new(n).unwrap();
        let bindings = [(id(1), Some(uuid(1))), (id(2), Some(uuid(2))), (id(4), Some(uuid(0)))];
        let local = Hello { cluster: Some(uuid(100)), members_at: LogIndex(5), ..hello(1, 1) };
        gate.update(local, bindings.into(), [id(9)].into());
        let at =
            |index, hello| Hello { cluster: Some(uuid(100)), members_at: LogIndex(index), ..hello };
        assert_eq!(gate.judge(&at(5, hello(2, 3))), Err(Refusal::WrongDirectory));
        assert_eq!(gate.judge(&at(6, hello(2, 3))), Ok(()), "added again meanwhile");
        assert_eq!(gate.judge(&at(5, hello(9, 9))), Err(Refusal::Removed));
        assert_eq!(gate.judge(&at(6, hello(9, 9))), Ok(()), "added again meanwhile");
        assert_eq!(gate.judge(&at(6, hello(4, 4))), Err(Refusal::WrongDirectory), "distrusted");
        let stranger = Hello { members_at: LogIndex(6), ..hello(2, 3) };
        assert_eq!(gate.judge(&stranger), Err(Refusal::WrongDirectory), "of no cluster");
    }

    #[test]
    fn a_live_node_id_with_another_directory_is_a_duplicate_until_the_link_ends() {
        let gate = gate();
        let conn = gate.next_conn();
        let pass = gate.enter(&hello(4, 4), conn).unwrap();
        assert_eq!(gate.judge(&hello(4, 5)), Err(Refusal::DuplicateNode));
        assert_eq!(gate.judge(&hello(4, 4)), Ok(()), "itself again is no duplicate");
        drop(pass);
        assert_eq!(gate.judge(&hello(4, 5)), Ok(()));
    }

    #[test]
    fn a_strangers_text_cannot_write_the_log() {
        let text = quoted(&format!("a\n2026-01-01 LOG: {}", "x".repeat(5000)));
        assert!(text.len() < 80 && text.starts_with("\"a\\n2026") && text.ends_with("...\""));
    }
}
