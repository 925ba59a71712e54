//! Moving the primary's role (DESIGN section 10). The log says who is primary; the leader decides
//! whom it shall name, every node's main thread makes its Postgres what the log says (`Duty`), and
//! the fence lets commits pass only on a primary that leads with a lease.
//!
//! - `leading` — the leader: leadership goes to the primary; if that is lost, the next is sought
//! - `search` — how far each server has come, asked after the loss
//! - `choice` — which of them is the next; pure
//! - `moving` — a planned move, which loses nothing
//! - `obeying` — every node: what its server is to be, and its standing when the leader asks
//! - `fence` — every node: whether its backends may commit

mod choice;
mod fence;
mod leading;
mod moving;
mod obeying;
mod search;

use std::collections::BTreeSet;

use crate::bugs::{self, Bug};
use crate::cluster::Address;
use crate::raft::{LogIndex, NodeId, RoleKind, Term};
use crate::shmem::Fence;
use crate::wire::{Ask, PgRole, Report, Standing};

use super::consensus::Consensus;
use super::duty::Duty;
use super::effects::Effects;
use leading::Lead;
use obeying::Hold;

/// Of a standby that cannot follow.
const DIVERGED: &str = "this server has WAL that the primary's history has not: rewind it with \
                        pg_rewind, see docs/failover.md";

/// What this node remembers for it.
#[derive(Debug)]
pub struct Failover {
    /// Something happened on which a decision may depend.
    pub(super) due: bool,
    /// What main was told last.
    duty: Duty,
    /// What keeps this node's server from it, or from a part of it.
    hindrance: String,
    /// Whether that keeps it from its role.
    blocked: bool,
    /// Until when the server's connection to a primary stays as it is.
    hold: Option<Hold>,
    /// As leader.
    lead: Lead,
    /// How often leadership was offered to the primary, which did not take it.
    hand_backs: u32,
    /// Members whose server said that it is being shut down, and nothing else since.
    stopping: BTreeSet<NodeId>,
    /// What the primary reported last.
    of_primary: Option<(NodeId, Report)>,
    /// Where the membership stands in the log that is applied here.
    members_at: LogIndex,
    /// In which term and for which epoch the fence was open.
    opened: Option<(Term, u64)>,
    /// Whose stream a planned move waits for, and since when.
    awaited: Option<(NodeId, u64)>,
    /// What the page shows.
    shown: Option<(Fence, u32)>,
}

impl Failover {
    /// Of a node that starts: the members it knows stand at `members_at`.
    pub(super) fn new(members_at: LogIndex) -> Failover {
        Failover {
            due: true,
            duty: Duty::default(),
            hindrance: String::new(),
            blocked: false,
            hold: Some(Hold::at_start()).filter(|_| !bugs::on(Bug::RestartForgetsHold)),
            lead: Lead::default(),
            hand_backs: 0,
            stopping: BTreeSet::new(),
            of_primary: None,
            members_at,
            opened: None,
            awaited: None,
            shown: None,
        }
    }

    /// The membership changed with the entry at `index`.
    pub(super) fn members_changed(&mut self, index: LogIndex) {
        self.members_at = index;
    }
}

impl<E: Effects> Consensus<E> {
    /// Whom a planned move names, from when there is no way back: for simulators and tests.
    pub fn naming(&self) -> Option<NodeId> {
        self.failover.lead.moving.as_ref().and_then(moving::Move::naming)
    }

    /// Decides what there is to decide. Called whenever something came in.
    pub(super) fn steer(&mut self) {
        if !std::mem::take(&mut self.failover.due) || !self.config.integration_enabled {
            return;
        }
        if self.leads_knowingly() {
            self.steer_as_leader();
        } else {
            self.failover.lead = Lead::default();
            let primary = self.cluster.primary.map(|primary| primary.node);
            if primary.is_some() && self.node.leader() == primary {
                self.failover.hand_backs = 0; // it took it
            }
        }
        self.give_duty();
    }

    /// Whether this node leads and has applied an entry of its own term: until then it does not
    /// know what former leaders left (Raft §8).
    pub(super) fn leads_knowingly(&self) -> bool {
        self.node.role() == RoleKind::Leader && self.applied_term == self.node.term()
    }

    /// Whether this node leads and is the primary by the log's word.
    pub(super) fn is_leading_primary(&self) -> bool {
        let own = |primary: crate::cluster::Primary| primary.node == self.identity.node;
        self.config.integration_enabled
            && self.leads_knowingly()
            && self.cluster.primary.is_some_and(own)
    }

    /// A member's server, this node's included, told how it is doing.
    pub(super) fn heed_report(&mut self, node: NodeId, report: Report) {
        let failover = &mut self.failover;
        failover.due = true;
        match report.stopping {
            true => failover.stopping.insert(node),
            false => failover.stopping.remove(&node),
        };
        if self.cluster.primary.is_some_and(|primary| primary.node == node) {
            failover.of_primary = Some((node, report));
        }
    }

    /// Why nothing may move, or what this node's server waits for; empty if there is nothing.
    pub(super) fn failover_trouble(&self) -> String {
        let Failover { hindrance, lead, .. } = &self.failover;
        let hindrance = match self.has_diverged() && !hindrance.is_empty() {
            true => DIVERGED,
            false => hindrance,
        };
        let parts = [lead.reason.as_str(), hindrance];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join("; ")
    }

    /// Whether this node's server, a standby, has WAL that the primary's history has not.
    fn has_diverged(&self) -> bool {
        let Report { pg_role, timeline, wal_lsn, .. } = self.report;
        pg_role == Some(PgRole::Standby)
            && self.cluster.end_of(timeline).is_some_and(|end| wal_lsn > end)
    }

    /// What keeps this node's server from its duty, and whether from its role itself.
    pub(super) fn on_hindrance(&mut self, what: String, blocked: bool) {
        self.failover.due = true;
        self.changed |= self.failover.hindrance != what;
        self.failover.hindrance = what;
        self.failover.blocked = blocked;
    }

    /// Whether a Postgres answers where the primary's should.
    pub(super) fn on_probed(&mut self, address: &Address, answers: bool) {
        self.failover.due = true;
        self.failover.lead.probed(address, answers);
    }

    /// The answer to a question of this leader's.
    pub(super) fn on_standing(&mut self, from: NodeId, ask: Ask, standing: Standing) {
        if self.leads_knowingly() && ask.term == self.node.term() {
            self.failover.due = true;
            self.failover.lead.answered(from, &ask, standing);
        }
    }
}
