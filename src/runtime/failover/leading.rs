//! The leader's part: it hands leadership to the primary, or seeks the next one.

use crate::cluster::{Address, Command, Primary, Switch};
use crate::raft::{LogIndex, NodeId, RoleKind};
use crate::wire::{self, Ask, PgRole, Standing};

use super::moving::Move;
use super::search::Search;
use crate::runtime::consensus::Consensus;
use crate::runtime::effects::Effects;

/// How often leadership is offered to a primary that answers before it counts as lost: its own
/// messages come through, and this leader's may not.
const HAND_BACKS_MAX: u32 = 3;
/// Between two looks at whether a lost primary's Postgres answers.
const PROBE_EVERY_NS: u64 = 250_000_000;
/// A look that has not come back after so long never will.
const PROBE_LOST_NS: u64 = 1_000_000_000;
/// What a server is given at least to get over what keeps it from being promoted.
const PROMOTION_NS_MIN: u64 = 1_000_000_000;
/// How long a server that is being shut down may take to: a checkpoint, and its WAL senders.
const STOPPING_NS_MAX: u64 = 60_000_000_000;

/// What a leader has under way; gone with its leadership.
#[derive(Debug, Default)]
pub(super) struct Lead {
    /// Nothing more is proposed before this is applied.
    proposed: LogIndex,
    /// A planned move.
    pub(super) moving: Option<Move>,
    /// The primary is lost, and the next one is sought.
    pub(super) search: Option<Search>,
    /// Servers were asked to receive nothing. Only another epoch lets them go, or another term in
    /// which the primary leads.
    pub(super) frozen: bool,
    /// Since when the primary is missed.
    lost_ns: Option<u64>,
    /// The latest look at whether its Postgres answers.
    probe: Option<Probe>,
    /// Why there is no primary, in words.
    pub(super) reason: String,
}

/// A look at whether a Postgres answers.
#[derive(Debug)]
struct Probe {
    address: Address,
    asked_ns: u64,
    answers: Option<bool>,
}

impl Lead {
    pub(super) fn probed(&mut self, address: &Address, answers: bool) {
        if let Some(probe) = self.probe.as_mut().filter(|probe| probe.address == *address) {
            probe.answers = Some(answers);
        }
    }

    pub(super) fn answered(&mut self, from: NodeId, ask: &Ask, standing: Standing) {
        if let Some(moving) = &mut self.moving {
            moving.answered(from, ask, &standing);
        }
        if let Some(search) = &mut self.search {
            search.answered(from, ask, standing);
        }
    }

    /// Whether the Postgres of the lost primary answered when it was last looked at.
    pub(super) fn is_lost_one_answering(&self) -> bool {
        self.probe.as_ref().is_some_and(|probe| probe.answers == Some(true))
    }

    /// The primary is there.
    fn found(&mut self) {
        self.search = None;
        self.frozen = false;
        self.lost_ns = None;
        self.probe = None;
        self.reason.clear();
    }
}

impl<E: Effects> Consensus<E> {
    pub(super) fn steer_as_leader(&mut self) {
        let waits = self.cluster.applied < self.failover.lead.proposed;
        if waits || self.node.transferring().is_some() {
            return;
        }
        let now_ns = self.fx.now_ns();
        match (&self.failover.lead.moving, self.cluster.primary) {
            (Some(moving), Some(primary)) if primary.node == moving.to => {
                self.failover.lead.moving = None;
            }
            (Some(_), _) => return self.steer_move(now_ns),
            (None, _) => {}
        }
        let before = self.failover.lead.reason.clone();
        match self.cluster.primary {
            None => self.name_first(),
            Some(primary) if primary.node == self.identity.node => self.lead_as_primary(now_ns),
            Some(primary) => self.lead_beside(primary, now_ns),
        }
        self.changed |= before != self.failover.lead.reason;
    }

    /// Proposes a command; nothing else is decided before it is applied.
    pub(super) fn decide(&mut self, command: &Command) -> bool {
        let mut bytes = Vec::new();
        wire::encode_command(command, &mut bytes);
        // Refused: leadership moves, or too much is under way; decided anew then.
        match self.node.propose(bytes) {
            Ok(entry) => self.failover.lead.proposed = entry.index,
            Err(error) => log::debug!("could not propose {command:?}: {error}"),
        }
        self.failover.lead.proposed > self.cluster.applied
    }

    /// No primary was ever named: it is the one that there is.
    fn name_first(&mut self) {
        let members = self.cluster.members.keys().copied();
        let primaries: Vec<NodeId> =
            members.filter(|node| self.pg_role_of(*node) == Some(PgRole::Primary)).collect();
        let lead = &mut self.failover.lead;
        match primaries.as_slice() {
            [] => lead.reason = "no member's server is a primary".to_owned(),
            [node] if *node == self.identity.node => {
                lead.reason.clear();
                let timeline = self.report.timeline;
                let primary = Primary { node: *node, epoch: 1, timeline };
                self.decide(&Command::SetPrimary { primary });
            }
            [node] => {
                lead.reason.clear();
                self.hand_back(*node);
            }
            several => {
                let names: Vec<String> = several.iter().map(|node| node.to_string()).collect();
                lead.reason =
                    format!("the servers of nodes {} all are primaries", names.join(", "));
            }
        }
    }

    /// What `node`'s server said that it is.
    fn pg_role_of(&self, node: NodeId) -> Option<PgRole> {
        match node == self.identity.node {
            true => self.report.pg_role,
            false => self.links.get(node)?.report.pg_role,
        }
    }

    /// This node leads and is the primary.
    fn lead_as_primary(&mut self, now_ns: u64) {
        if self.report.pg_role == Some(PgRole::Primary) {
            self.failover.hand_backs = 0;
            if let Some(named) = self.cluster.primary.filter(|_| self.failover.lead.frozen) {
                // It was missed, or was to move.
                if self.name_primary(named.node, named.timeline) {
                    self.failover.lead.found();
                }
                return;
            }
            self.failover.lead.found();
            let synchronous = self.config.synchronous;
            if synchronous != self.cluster.synchronous {
                self.decide(&Command::SetSynchronous { synchronous });
            } else if let Some((timeline, fork)) = self.fork_to_tell() {
                self.decide(&Command::SetFork { timeline, fork });
            }
            return;
        }
        // A standby that nothing hinders is being promoted, however much it has to replay.
        let promoting = self.report.pg_role == Some(PgRole::Standby);
        if promoting && !self.failover.blocked {
            self.failover.lead.lost_ns = None;
            return;
        }
        let lost_ns = *self.failover.lead.lost_ns.get_or_insert(now_ns);
        if now_ns >= lost_ns + self.grace_ns().max(PROMOTION_NS_MIN) && self.may_fail_over() {
            self.search(now_ns);
        }
    }

    /// Where this primary's timeline begins, if the log does not know yet.
    fn fork_to_tell(&self) -> Option<(u32, Switch)> {
        let timeline = self.cluster.primary?.timeline;
        let known = self.cluster.timelines.get(&timeline)?;
        let fork = self.report.fork.filter(|_| self.report.timeline == timeline)?;
        known.fork.is_none().then_some((timeline, fork))
    }

    fn grace_ns(&self) -> u64 {
        u64::from(self.config.failover_grace_ms) * 1_000_000
    }

    /// Whether anybody may be promoted without being asked for; if not, the reason is noted.
    fn may_fail_over(&mut self) -> bool {
        let why = if self.cluster.paused {
            "automatic failover is paused, see pgraft_resume()"
        } else if !self.config.auto_failover {
            "auto_failover_enabled is off"
        } else {
            return true;
        };
        let lost = self.cluster.primary.map_or(0, |primary| primary.node.get());
        self.failover.lead.search = None;
        self.failover.lead.reason = format!("the primary, node {lost}, is lost and {why}");
        false
    }

    /// This node leads, and another is the primary.
    fn lead_beside(&mut self, primary: Primary, now_ns: u64) {
        let node = primary.node;
        let report = self.links.get(node).map(|link| link.report).unwrap_or_default();
        let present = self.node.membership().voters.contains(&node) && self.is_alive(node);
        let stopping = self.failover.stopping.contains(&node);
        let takes = present && !stopping && !self.refuses_leadership();
        match report.pg_role.filter(|_| takes) {
            Some(PgRole::Primary) => {
                self.failover.lead.found();
                self.hand_back(node);
            }
            // Named, and not promoted yet: it is to be.
            Some(PgRole::Standby) if report.timeline < primary.timeline => {
                self.failover.lead.found();
                self.hand_back(node);
            }
            // It was primary, and was started again as a standby.
            Some(PgRole::Standby) if self.may_fail_over() => self.search(now_ns),
            Some(PgRole::Standby) => {}
            None => self.miss(node, stopping, now_ns),
        }
    }

    /// Whether the primary was offered leadership often enough.
    pub(super) fn refuses_leadership(&self) -> bool {
        self.failover.hand_backs >= HAND_BACKS_MAX
    }

    /// Leadership belongs to the primary.
    fn hand_back(&mut self, node: NodeId) {
        if self.node.transfer_leadership(node).is_ok() {
            self.failover.hand_backs += 1;
            log::info!("handing leadership to node {node}, whose server is the primary");
        }
    }

    /// The primary does not answer. If its Postgres does, it has only lost its worker, commits
    /// nothing meanwhile, and is given some time; so is one that is being shut down.
    fn miss(&mut self, node: NodeId, stopping: bool, now_ns: u64) {
        let lost_ns = *self.failover.lead.lost_ns.get_or_insert(now_ns);
        if !self.may_fail_over() {
            return;
        }
        let patience_ns = if stopping { STOPPING_NS_MAX } else { self.grace_ns() };
        if self.failover.lead.search.is_none() && now_ns < lost_ns + patience_ns {
            match self.postgres_answers(node, now_ns) {
                Some(false) => {}
                None => return,
                Some(true) => {
                    let what = if stopping { "is being shut down" } else { "has lost its worker" };
                    self.failover.lead.reason = format!(
                        "the primary, node {node}, {what}, and its PostgreSQL answers: waiting"
                    );
                    return;
                }
            }
        }
        self.search(now_ns);
    }

    /// Whether the Postgres of `node` answers, as of a moment ago; `None`: that is being asked.
    fn postgres_answers(&mut self, node: NodeId, now_ns: u64) -> Option<bool> {
        let member = self.cluster.members.get(&node);
        let Some(address) = member.and_then(|member| member.pg_address.clone()) else {
            return Some(false);
        };
        let probe = self.failover.lead.probe.as_ref().filter(|probe| probe.address == address);
        let (answers, due_ns) = match probe {
            None => (None, now_ns),
            Some(Probe { answers: Some(false), .. }) => return Some(false),
            Some(Probe { answers, asked_ns, .. }) => {
                let pause_ns = if answers.is_some() { PROBE_EVERY_NS } else { PROBE_LOST_NS };
                (*answers, asked_ns + pause_ns)
            }
        };
        if now_ns >= due_ns {
            self.fx.probe(&address);
            self.failover.lead.probe = Some(Probe { address, asked_ns: now_ns, answers });
        }
        answers
    }

    /// Names the next primary.
    pub(super) fn name_primary(&mut self, node: NodeId, timeline: u32) -> bool {
        debug_assert_eq!(self.node.role(), RoleKind::Leader);
        let epoch = self.cluster.epoch() + 1;
        self.failover.hand_backs = 0;
        self.failover.lead.lost_ns = None;
        self.failover.lead.frozen = false;
        self.decide(&Command::SetPrimary { primary: Primary { node, epoch, timeline } })
    }
}
