//! What each request does on the node that carries it out: the rules of `pgraft_add_node`,
//! `pgraft_remove_node`, `pgraft_transfer_leadership`, `pgraft_force_election` and `pgraft_stop`.

use crate::cluster::{Address, Answer, Command, Done, Member, Request};
use crate::raft::{EntryId, MembershipChange, NodeId, ProposeError, RoleKind};
use crate::shmem::MEMBERS_MAX;
use crate::wire::{self, PgRole, Report};

use super::consensus::Consensus;
use super::effects::Effects;
use super::failures;
use super::requests::Stage;

/// What became of a request when it was begun.
pub enum Step {
    /// It is over.
    Over(Answer),
    /// It goes on in this stage.
    Now(Stage),
}

fn noticed(value: bool, notice: String) -> Step {
    Step::Over(Ok(Done { value, notice, ..Done::default() }))
}

fn warned(warning: String) -> Step {
    Step::Over(Ok(Done { value: false, warning, ..Done::default() }))
}

impl<E: Effects> Consensus<E> {
    /// A request on a node whose cluster is not formed: the guide adds nodes right after the start.
    pub(super) fn while_unformed(&self, request: &Request) -> Step {
        match request {
            Request::AddNode { node, address } if self.will_be_founder(*node, address) => {
                noticed(true, format!("node {node} will be a member once the cluster is formed"))
            }
            _ => Step::Now(Stage::Waiting),
        }
    }

    fn will_be_founder(&self, node: NodeId, address: &Address) -> bool {
        let seen = self.links.at(address);
        self.config.peer_addresses.contains(address) && seen.is_none_or(|seen| seen == node)
    }

    /// A request on the leader.
    pub(super) fn command(&mut self, request: &Request) -> Step {
        match request {
            Request::AddNode { node, address } => self.add_node(*node, address),
            Request::RemoveNode { node, force } => self.remove_node(*node, *force),
            Request::TransferLeadership { node } => self.transfer(*node),
            Request::SetPaused { paused } => self.set_paused(*paused),
            // The others are of one node only and never come here.
            _ => Step::Over(Err(failures::not_leader())),
        }
    }

    fn add_node(&mut self, node: NodeId, address: &Address) -> Step {
        let members = &self.cluster.members;
        if let Some(known) = members.get(&node) {
            return match known.raft_address == *address {
                true => noticed(true, format!("node {node} is already a member of the cluster")),
                false => Step::Over(Err(failures::id_taken(node, &known.raft_address))),
            };
        }
        if let Some(other) = members.values().find(|member| member.raft_address == *address) {
            return Step::Over(Err(failures::address_taken(address, other.id)));
        }
        if members.len() >= MEMBERS_MAX {
            return Step::Over(Err(failures::too_many_members(MEMBERS_MAX)));
        }
        let member = Member {
            id: node,
            name: String::new(),
            raft_address: address.clone(),
            pg_address: None,
            directory: None,
            system_identifier: None,
            voter: false,
        };
        self.change(MembershipChange::AddLearner(node), &Command::AddLearner { member })
    }

    fn remove_node(&mut self, node: NodeId, force: bool) -> Step {
        let Some(member) = self.cluster.members.get(&node) else {
            return noticed(false, format!("node {node} is not a member of the cluster"));
        };
        let is_primary = self.cluster.primary.is_some_and(|primary| primary.node == node);
        let others = self.cluster.members.len() > 1;
        if is_primary && others && self.config.integration_enabled && !force {
            return Step::Over(Err(failures::is_the_primary(node)));
        }
        if member.voter && !force && !self.may_change_voters() {
            // Acknowledged commits are not yet known to be on a majority of those who are left.
            return Step::Now(Stage::Waiting);
        }
        if member.voter && !force {
            let left: Vec<NodeId> =
                self.node.membership().voters.iter().copied().filter(|v| *v != node).collect();
            let alive = left.iter().filter(|voter| self.is_alive(**voter)).count();
            if !left.is_empty() && alive <= left.len() / 2 {
                return Step::Over(Err(failures::would_lose_quorum(node, alive, left.len())));
            }
        }
        self.change(MembershipChange::Remove(node), &Command::Remove { node })
    }

    /// As leader: whether `node` answered lately.
    pub(super) fn is_alive(&self, node: NodeId) -> bool {
        node == self.identity.node
            || self.node.progress().any(|(peer, progress)| peer == node && progress.recent_active)
    }

    fn change(&mut self, change: MembershipChange, command: &Command) -> Step {
        let mut bytes = Vec::new();
        wire::encode_command(command, &mut bytes);
        proposed(self.node.propose_membership(change, bytes))
    }

    fn transfer(&mut self, node: NodeId) -> Step {
        if node == self.identity.node {
            return noticed(true, format!("node {node} is the leader already"));
        }
        match self.cluster.members.get(&node) {
            None => Step::Over(Err(failures::unknown_node(node))),
            Some(member) if !member.voter => Step::Over(Err(failures::not_a_voter(node))),
            Some(_) if !self.is_alive(node) => Step::Over(Err(failures::not_alive(node))),
            Some(_) if self.config.integration_enabled => self.move_primary(node),
            Some(_) => self.hand_over(node),
        }
    }

    /// With the integration on, leadership and the primary's role go together.
    fn move_primary(&mut self, to: NodeId) -> Step {
        if self.is_moving() || self.node.transferring().is_some() {
            return Step::Now(Stage::Waiting);
        }
        match self.cluster.primary {
            // Not named yet, or leadership is on its way to it: whoever leads then goes on.
            None => Step::Now(Stage::Waiting),
            Some(primary) if primary.node == to => Step::Now(Stage::Waiting),
            Some(primary) if !self.is_leading_primary() => {
                Step::Over(Err(failures::no_primary_to_move(primary.node, &self.trouble())))
            }
            Some(_) if self.report.pg_role != Some(PgRole::Primary) => Step::Now(Stage::Waiting),
            Some(_) if !self.streams(to) => match self.awaits_stream_of(to) {
                true => Step::Now(Stage::Waiting),
                false => Step::Over(Err(failures::does_not_stream(to))),
            },
            Some(_) => {
                self.begin_move(to);
                Step::Now(Stage::HandingOver { to, term: self.node.term() })
            }
        }
    }

    /// Whether the server of `node` receives WAL from this node's, going by its last report.
    fn streams(&self, node: NodeId) -> bool {
        self.links.get(node).is_some_and(|link| {
            let Report { pg_role, receiving, timeline, .. } = link.report;
            pg_role == Some(PgRole::Standby) && receiving && timeline == self.report.timeline
        })
    }

    fn set_paused(&mut self, paused: bool) -> Step {
        let mut bytes = Vec::new();
        wire::encode_command(&Command::SetPaused { paused }, &mut bytes);
        proposed(self.node.propose(bytes))
    }

    fn hand_over(&mut self, to: NodeId) -> Step {
        let term = self.node.term();
        match self.node.transfer_leadership(to) {
            Ok(()) => Step::Now(Stage::HandingOver { to, term }),
            Err(error) => retried_or_refused(error),
        }
    }

    /// The live voter with the longest log, this node aside.
    fn most_advanced_voter(&self) -> Option<NodeId> {
        let voters = &self.node.membership().voters;
        self.node
            .progress()
            .filter(|(peer, progress)| {
                *peer != self.identity.node && voters.contains(peer) && progress.recent_active
            })
            .max_by_key(|(_, progress)| progress.matched)
            .map(|(peer, _)| peer)
    }

    /// Whom leadership goes to when nobody is named: with the primary's role, to the standby that
    /// has received the most.
    fn give_away(&mut self) -> Option<Step> {
        // When the server is shut down, its WAL senders see to it that nothing is lost, and who
        // is primary is decided afterwards.
        if !self.is_leading_primary() || self.report.stopping {
            return self.most_advanced_voter().map(|to| self.hand_over(to));
        }
        let voters = self.node.membership().voters.iter().copied();
        let able = voters.filter(|node| self.is_alive(*node) && self.streams(*node));
        let wal_lsn = |node: &NodeId| self.links.get(*node).map_or(0, |link| link.report.wal_lsn);
        able.max_by_key(wal_lsn).map(|to| self.move_primary(to))
    }

    /// A leader hands over; any other voter campaigns although a leader may be alive.
    pub(super) fn force_election(&mut self, now_ns: u64) -> Step {
        if !self.is_member() {
            return Step::Over(Err(failures::not_a_member(&self.trouble())));
        }
        let timeout_ns = u64::from(self.config.election_timeout_ms) * 1_000_000;
        if self.requests.forced_ns.is_some_and(|last| now_ns < last + timeout_ns) {
            return Step::Over(Err(failures::forced_too_soon(self.config.election_timeout_ms)));
        }
        if self.node.role() == RoleKind::Leader {
            let Some(step) = self.give_away() else {
                return warned("there is no other live voter that could lead".to_owned());
            };
            if matches!(step, Step::Now(Stage::HandingOver { .. })) {
                self.requests.forced_ns = Some(now_ns);
            }
            return step;
        }
        let after = self.node.term();
        self.requests.forced_ns = Some(now_ns);
        let until_ns = now_ns + 2 * timeout_ns;
        match self.node.force_election() {
            Ok(()) => Step::Now(Stage::Electing { after, until_ns }),
            Err(error) => Step::Over(Err(failures::refused(&error))),
        }
    }

    /// Before it stops, a leader hands over, if there is someone to hand over to.
    pub(super) fn stop(&mut self) -> Step {
        let over = || Step::Over(Ok(Done { value: true, ..Done::default() }));
        if self.node.role() != RoleKind::Leader {
            return over();
        }
        match self.give_away() {
            Some(Step::Now(stage @ Stage::HandingOver { .. })) => Step::Now(stage),
            _ => over(),
        }
    }
}

fn proposed(outcome: Result<EntryId, ProposeError>) -> Step {
    match outcome {
        Ok(entry) => Step::Now(Stage::Proposed(entry)),
        Err(error) => retried_or_refused(error),
    }
}

/// Some refusals pass by themselves: another change is under way, or leadership just moved.
fn retried_or_refused(error: ProposeError) -> Step {
    match error {
        ProposeError::NotLeader { .. }
        | ProposeError::ChangeInProgress
        | ProposeError::NoCommitInTerm
        | ProposeError::Transferring
        | ProposeError::Overloaded => Step::Now(Stage::Waiting),
        error => Step::Over(Err(failures::refused(&error))),
    }
}
