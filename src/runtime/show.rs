//! The node's view of itself and of the cluster, as shared memory shows it.

use crate::cluster::Member;
use crate::raft::{NodeId, RoleKind};
use crate::shmem::{Core, MemberView, NodeState, RoleCode, View};
use crate::wire::Refusal;

use super::consensus::Consensus;
use super::effects::Effects;

impl<E: Effects> Consensus<E> {
    /// Publishes what changed: nearly always only the lease and the log's positions. Where these
    /// moved, how far the members are moved along; that is shown at the next tick, as making the
    /// whole view takes longer than all else that a commit asks of this thread.
    pub(super) fn show(&mut self) {
        self.show_fence();
        let core = self.core();
        let moved = Core {
            lease_start_ns: core.lease_start_ns,
            lease_expires_ns: core.lease_expires_ns,
            last_index: core.last_index,
            commit: core.commit,
            applied: core.applied,
            ..self.shown
        };
        let little = core == moved && !self.changed;
        self.behind |= core.last_index != self.shown.last_index || core.commit != self.shown.commit;
        self.shown = core;
        if little {
            self.fx.publish_core(&core);
        } else {
            self.changed = false;
            self.behind = false;
            let view = self.view(core);
            self.fx.publish(&view);
        }
    }

    fn core(&self) -> Core {
        // Shown only once it holds: a reader compares the clock with its end alone.
        let now = self.fx.now_ns();
        let (lease_start_ns, lease_expires_ns) = match self.lease.window() {
            window if window.0 <= now => window,
            _ => (0, 0),
        };
        let voters = || self.cluster.members.values().filter(|member| member.voter);
        Core {
            state: self.state(),
            role: match self.node.role() {
                _ if self.failed.is_some() || self.is_unformed() => RoleCode::None,
                RoleKind::Follower => RoleCode::Follower,
                RoleKind::PreCandidate | RoleKind::Candidate => RoleCode::Candidate,
                RoleKind::Leader => RoleCode::Leader,
                RoleKind::Learner => RoleCode::Learner,
            },
            term: self.node.term().0,
            leader: self.heard_leader().map_or(0, |leader| leader.get()),
            lease_start_ns,
            lease_expires_ns,
            has_quorum: self.failed.is_none()
                && self.node.has_quorum()
                && self.heard_leader().is_some(),
            voters: voters().count() as u32,
            reachable: voters().filter(|member| self.is_reachable(member.id)).count() as u32,
            last_index: self.node.last().index.0,
            commit: self.node.commit().0,
            applied: self.cluster.applied.0,
            paused: self.cluster.paused,
        }
    }

    /// The leader, if it was heard within an election timeout. One that led to commit its own
    /// removal has stepped down with that.
    fn heard_leader(&self) -> Option<NodeId> {
        let leader = self.node.leader().filter(|leader| !self.cluster.removed.contains(leader));
        leader.filter(|&leader| leader == self.identity.node || self.node.has_quorum())
    }

    /// Whether `node` answers this leader, or is connected to this follower.
    fn is_reachable(&self, node: NodeId) -> bool {
        match self.node.role() {
            _ if node == self.identity.node => true,
            RoleKind::Leader => self.is_alive(node),
            _ => self.links.get(node).is_some(),
        }
    }

    fn view(&self, core: Core) -> View {
        let leader = self.heard_leader().and_then(|leader| self.address_of(leader));
        let rest = View {
            leader_address: leader.map_or(String::new(), |address| address.to_string()),
            last_error: self.trouble(),
            node_id: self.identity.node.get(),
            node_name: self.config.node_name.clone(),
            cluster_id: self.config.cluster_id.clone(),
            pg_role: self.report.pg_role,
            wal_lsn: self.report.wal_lsn,
            members: self.cluster.members.values().map(|m| self.member_view(m)).collect(),
            ..View::default()
        };
        core.into_view(rest)
    }

    fn member_view(&self, member: &Member) -> MemberView {
        let own = member.id == self.identity.node;
        let link = self.links.get(member.id);
        let progress = self.node.progress().find(|(peer, _)| *peer == member.id);
        let report = if own { Some(self.report) } else { link.map(|link| link.report) };
        MemberView {
            id: member.id.get(),
            name: member.name.clone(),
            address: member.raft_address.host().to_owned(),
            port: member.raft_address.port(),
            voter: member.voter,
            reachable: Some(self.is_reachable(member.id)),
            last_contact_unix_us: match own {
                true => Some(self.fx.unix_us()),
                false => link.map(|link| link.last_contact_unix_us),
            },
            matched: match own {
                true => Some(self.node.last().index.0),
                false => progress.map(|(_, progress)| progress.matched.0),
            },
            pg_address: member.pg_address.as_ref().map_or(String::new(), |a| a.to_string()),
            pg_role: report.and_then(|report| report.pg_role),
            wal_lsn: report.map_or(0, |report| report.wal_lsn),
            counters: self.fx.peer_counters(member.id, link.map_or(0, |l| l.round_trip_us)),
        }
    }

    /// What keeps this node from being a healthy member, in words; empty if nothing does.
    pub(super) fn trouble(&self) -> String {
        if let Some(failed) = &self.failed {
            return failed.clone();
        }
        if let Some((address, refusal)) = self.links.refusals().next() {
            return format!("{address} refused this node: {}", refusal_text(refusal));
        }
        match self.state() {
            NodeState::Forming => {
                let missing: Vec<String> =
                    self.missing_peers().iter().map(|peer| peer.to_string()).collect();
                match missing.is_empty() {
                    true => "waiting for all peers to see the same set of nodes".to_owned(),
                    false => format!("waiting for {}", missing.join(", ")),
                }
            }
            NodeState::Joining => "waiting for pgraft_add_node() on a member".to_owned(),
            NodeState::Removed => "this node was removed from the cluster".to_owned(),
            _ if !self.node.has_quorum() => match self.unreached() {
                unreached if unreached.is_empty() => "no leader is known".to_owned(),
                unreached => format!("no quorum: not reached: {unreached}"),
            },
            _ => match self.distrusted.first() {
                Some(node) => format!("node {node} lost log entries: remove it and add it again"),
                None => match self.snapshots.trouble() {
                    Some(why) => format!("could not take a snapshot: {why}"),
                    None => self.failover_trouble(),
                },
            },
        }
    }
}

/// Why a handshake was refused, for people.
pub fn refusal_text(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Version => "the protocol versions have none in common",
        Refusal::ClusterId => "it has another raft_cluster_id",
        Refusal::ClusterUuid => {
            "it belongs to a cluster of the same name that was formed apart from this one"
        }
        Refusal::DuplicateNode => "another live node has this raft_node_id",
        Refusal::WrongDirectory => {
            "raft_data_dir is not the directory that joined (wiped, restored or of another node); \
             remove the node from the cluster and add it again"
        }
        Refusal::Removed => "the node was removed from the cluster",
        Refusal::Full => "it has too many connections",
        Refusal::Oneself => "it is this node itself",
        Refusal::Auth => "the authentication methods have none in common",
    }
}
