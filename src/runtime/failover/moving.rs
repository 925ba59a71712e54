//! A planned move of the primary's role: nothing that was committed is lost, in either mode.
//!
//! The fence is paused, commits under way end, what they wrote is flushed, the next primary's
//! server has received it, and only then is it named. Until then the move can be given up, and
//! commits that waited go on; afterwards the log has decided.
//!
//! A primary writes WAL without any commit, too, and sends it to all standbys. So the others are
//! stopped from receiving first: who had more than the next primary would have to be rewound.

use std::collections::BTreeMap;

use crate::bugs::{self, Bug};
use crate::raft::NodeId;
use crate::wire::{Ask, PgRole, Standing};

use super::choice::next_timeline;
use super::search::standing_holds;
use crate::runtime::consensus::Consensus;
use crate::runtime::effects::Effects;
use crate::runtime::event::ToMain;

/// Between two questions for how far the next primary has come, at least.
const ASK_EVERY_NS: u64 = 5_000_000;
/// A standby that says that it receives no WAL may have said so before it was repointed: its
/// reports come once a second.
const REPORT_NS_MAX: u64 = 1_500_000_000;
/// Between two requests to the others to stop receiving.
const FREEZE_EVERY_NS: u64 = 40_000_000;
/// For so long they are waited for: one that does not answer may have to be rewound.
const FREEZE_NS_MAX: u64 = 1_000_000_000;
/// How long a move may keep commits waiting before it is given up.
const MOVE_NS_MAX: u64 = 10_000_000_000;

/// A move under way.
#[derive(Debug)]
pub(super) struct Move {
    /// The next primary.
    pub(super) to: NodeId,
    /// On which this primary writes.
    timeline: u32,
    until_ns: u64,
    step: Step,
    round: u64,
    asked_ns: u64,
    /// The standbys that are neither; and up to where they have received, once they have stopped.
    others: BTreeMap<NodeId, Option<u64>>,
    frozen_ns: u64,
    patient_until_ns: u64,
}

#[derive(Debug)]
enum Step {
    /// Commits under way end.
    Draining,
    /// What they wrote is flushed.
    Flushing,
    /// The next primary receives it, up to here.
    CatchingUp { lsn: u64, seen: Option<u64> },
    /// It is being named: there is no way back.
    Naming,
}

impl Move {
    /// Whether none of the other standbys receives more, as far as can be waited for.
    fn are_others_still(&self, now_ns: u64) -> bool {
        now_ns >= self.patient_until_ns || self.others.values().all(Option::is_some)
    }

    /// Up to where the next primary must have received: what was committed, and what others have.
    fn goal(&self, committed: u64) -> u64 {
        self.others.values().flatten().copied().fold(committed, u64::max)
    }

    /// Whom it names, from when there is no way back.
    pub(super) fn naming(&self) -> Option<NodeId> {
        matches!(self.step, Step::Naming).then_some(self.to)
    }

    pub(super) fn answered(&mut self, from: NodeId, ask: &Ask, standing: &Standing) {
        if let Some(received) = self.others.get_mut(&from)
            && ask.freeze
            && standing_holds(standing)
        {
            // What was primary before, and was not rewound, is not to follow.
            let follows = standing.pg_role == Some(PgRole::Standby)
                && standing.position.timeline == self.timeline;
            *received = Some(if follows { standing.position.lsn } else { 0 });
        }
        if let Step::CatchingUp { seen, .. } = &mut self.step
            && from == self.to
            && ask.round <= self.round
            && standing.pg_role == Some(PgRole::Standby)
            && standing.position.timeline == self.timeline
            && standing.obstacle.is_empty()
        {
            *seen = Some(standing.position.lsn);
        }
    }
}

impl<E: Effects> Consensus<E> {
    /// Whether a planned move is under way.
    pub(in crate::runtime) fn is_moving(&self) -> bool {
        self.failover.lead.moving.is_some()
    }

    /// Whether the server of `to`, which does not receive WAL by its last report, may have begun to
    /// since then.
    pub(in crate::runtime) fn awaits_stream_of(&mut self, to: NodeId) -> bool {
        let now_ns = self.fx.now_ns();
        match self.failover.awaited {
            Some((node, since_ns)) if node == to && now_ns < since_ns + 2 * REPORT_NS_MAX => {
                now_ns < since_ns + REPORT_NS_MAX
            }
            _ => {
                self.failover.awaited = Some((to, now_ns));
                true
            }
        }
    }

    /// Begins to move the primary's role, and leadership with it, from this node to `to`.
    pub(in crate::runtime) fn begin_move(&mut self, to: NodeId) {
        let until_ns = self.fx.now_ns() + MOVE_NS_MAX;
        log::info!("moving the primary's role to node {to}: commits wait");
        let step = Step::Draining;
        let others = self.cluster.members.keys().copied();
        let others = others.filter(|node| *node != to && *node != self.identity.node);
        self.failover.lead.moving = Some(Move {
            to,
            timeline: self.report.timeline,
            until_ns,
            step,
            round: 0,
            asked_ns: 0,
            others: others.filter(|node| self.is_alive(*node)).map(|node| (node, None)).collect(),
            frozen_ns: 0,
            patient_until_ns: 0,
        });
        self.failover.due = true;
        // From here on none passes, and those that did are counted.
        self.show_fence();
    }

    /// What was committed is flushed.
    pub(in crate::runtime) fn on_flushed(&mut self, lsn: u64) {
        if let Some(moving) = &mut self.failover.lead.moving
            && matches!(moving.step, Step::Flushing)
        {
            moving.step = Step::CatchingUp { lsn, seen: None };
            self.failover.due = true;
        }
    }

    pub(super) fn steer_move(&mut self, now_ns: u64) {
        let Some(moving) = &mut self.failover.lead.moving else { return };
        let to = moving.to;
        // What was proposed is applied: it named nobody.
        let came_to_nothing = matches!(moving.step, Step::Naming);
        if came_to_nothing || !self.cluster.members.contains_key(&to) {
            return self.give_up_move("it is no member any more");
        }
        if now_ns >= moving.until_ns {
            let what = match moving.step {
                Step::Draining => "commits under way did not end",
                Step::Flushing => "WAL was not flushed",
                Step::CatchingUp { .. } | Step::Naming => "its server did not receive all WAL",
            };
            return self.give_up_move(&format!("{what} in time"));
        }
        match &moving.step {
            Step::Draining
                if self.fx.commits_under_way() == 0 || bugs::on(Bug::MoveWithoutDraining) =>
            {
                moving.step = Step::Flushing;
                // Not before: a commit under way may wait for these.
                moving.patient_until_ns = now_ns + FREEZE_NS_MAX;
                self.fx.to_main(ToMain::WantFlush);
                self.freeze_others(now_ns);
            }
            Step::CatchingUp { lsn, seen, .. }
                if moving.are_others_still(now_ns)
                    && seen.is_some_and(|seen| seen >= moving.goal(*lsn))
                    || bugs::on(Bug::MoveWithoutWal) =>
            {
                let timeline = next_timeline(&self.cluster, &BTreeMap::new());
                if self.name_primary(to, timeline) {
                    log::info!("node {to} has all WAL: it is to be the primary");
                    if let Some(moving) = &mut self.failover.lead.moving {
                        moving.step = Step::Naming;
                    }
                }
            }
            Step::CatchingUp { .. } if now_ns >= moving.asked_ns + ASK_EVERY_NS => {
                moving.asked_ns = now_ns;
                moving.round += 1;
                let (term, round) = (self.node.term(), moving.round);
                let ask = Ask { term, round, epoch: self.cluster.epoch(), freeze: false };
                self.ask_standing(to, ask);
                self.freeze_others(now_ns);
            }
            _ => {}
        }
    }

    /// Asks those who receive still to stop.
    fn freeze_others(&mut self, now_ns: u64) {
        let Some(moving) = &mut self.failover.lead.moving else { return };
        if now_ns < moving.frozen_ns + FREEZE_EVERY_NS {
            return;
        }
        moving.frozen_ns = now_ns;
        moving.round += 1;
        let (term, round) = (self.node.term(), moving.round);
        let ask = Ask { term, round, epoch: self.cluster.epoch(), freeze: true };
        let open = moving.others.iter().filter(|(_, received)| received.is_none());
        let open: Vec<NodeId> = open.map(|(node, _)| *node).collect();
        self.failover.lead.frozen |= !open.is_empty();
        for node in open {
            self.ask_standing(node, ask);
        }
    }

    fn give_up_move(&mut self, why: &str) {
        if let Some(moving) = self.failover.lead.moving.take() {
            self.failover.lead.frozen = moving.frozen_ns > 0 && !moving.others.is_empty();
            log::warn!("the primary's role is not moved to node {}: {why}", moving.to);
            self.failover.due = true;
        }
    }
}
