//! Every node's part: what its server is to be, as a `Duty` for main, and how far it has come when
//! the leader asks.

use std::collections::BTreeSet;

use crate::bugs::{self, Bug};
use crate::raft::{NodeId, Term};
use crate::wire::{Ask, Packet, PgRole, Standing};

use crate::runtime::consensus::Consensus;
use crate::runtime::duty::{Duty, Synchronous, Task};
use crate::runtime::effects::Effects;
use crate::runtime::event::ToMain;

/// The server must not begin to stream from the primary that the log names.
///
/// Once it has told a leader how far it has come, nothing more may be acknowledged with its help to
/// the primary that was lost; so it receives nothing before the next is named, or that one leads
/// again. A restart forgets whether it was so, and so begins with it: whatever the server's
/// settings say stays, until one of the two happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    /// The term of the question; that primary may only lead again in a later one.
    term: Term,
    /// The epoch then; the next primary has a later one.
    epoch: u64,
    /// Whether the server must stop to receive, too.
    freeze: bool,
}

impl Hold {
    pub(super) fn at_start() -> Hold {
        // No epoch is later than this: what is read from the log again is no news.
        Hold { term: Term(0), epoch: u64::MAX, freeze: false }
    }
}

impl<E: Effects> Consensus<E> {
    /// The leader asks how far this node's server has come.
    pub(in crate::runtime) fn on_ask_standing(&mut self, from: NodeId, ask: Ask) {
        if ask.term != self.node.term() || self.node.leader() != Some(from) {
            return;
        }
        if ask.freeze && self.cluster.epoch() > ask.epoch {
            // It came late: its leader has named the next primary already.
            return;
        }
        if ask.freeze {
            // The leader may know of later primaries than this node.
            let Ask { term, epoch, .. } = ask;
            self.failover.hold = Some(Hold { term, epoch, freeze: true });
            self.failover.due = true;
        }
        // First, or main might make its server follow again once it has looked.
        self.give_duty();
        self.look_at_standing(ask);
    }

    /// Main has looked.
    pub(in crate::runtime) fn on_own_standing(&mut self, ask: Ask, standing: Standing) {
        match self.node.leader() {
            Some(leader) if leader == self.identity.node => {
                self.on_standing(leader, ask, standing);
            }
            Some(leader) if ask.term == self.node.term() => {
                self.send(leader, Packet::Standing { ask, standing });
            }
            _ => {}
        }
    }

    /// Tells main what the server is to be, if that changed.
    pub(super) fn give_duty(&mut self) {
        self.release_hold();
        let duty = self.duty();
        if duty != self.failover.duty {
            self.failover.duty = duty.clone();
            self.fx.to_main(ToMain::Duty(Box::new(duty)));
        }
    }

    fn release_hold(&mut self) {
        let (Some(hold), Some(primary)) = (self.failover.hold, self.cluster.primary) else {
            return;
        };
        let leads = self.node.leader() == Some(primary.node) && self.node.has_quorum();
        // While it catches up, this node names primaries that are long gone.
        let current = self.cluster.applied == self.node.commit();
        let again = leads && self.node.term() > hold.term;
        if current && (again || primary.epoch > hold.epoch) {
            self.failover.hold = None;
        }
    }

    fn duty(&self) -> Duty {
        // Of nodes that take no part, and until the log is known again, nothing is asked.
        if !self.is_member() || self.removed {
            return self.failover.duty.clone();
        }
        let others = self.cluster.members.keys().copied().filter(|n| *n != self.identity.node);
        Duty {
            epoch: self.cluster.epoch(),
            task: self.task(),
            slots: others.collect(),
            synchronous: self.synchronous(),
        }
    }

    fn task(&self) -> Task {
        let Some(primary) = self.cluster.primary else { return Task::Nothing };
        if primary.node == self.identity.node {
            // To any other than a leader it may be history that this node was named.
            let begun = self.failover.duty.epoch == primary.epoch
                && matches!(self.failover.duty.task, Task::BePrimary { .. });
            let begun = begun || bugs::on(Bug::PromotedByOldLog);
            return match self.leads_knowingly() || begun {
                true => Task::BePrimary { timeline: primary.timeline },
                false => Task::Nothing,
            };
        }
        match self.failover.hold {
            Some(Hold { freeze: true, .. }) => return Task::Freeze,
            Some(_) => return Task::Nothing,
            None => {}
        }
        let member = self.cluster.members.get(&primary.node);
        match member.and_then(|member| member.pg_address.clone()) {
            Some(address) => Task::Follow { node: primary.node, address },
            None => Task::Nothing,
        }
    }

    /// What `synchronous_standby_names` is to say. A primary changes it only while it has the
    /// lease: else commits that wait would be released, and reported as done, under a rule that
    /// does not hold for the cluster any more.
    fn synchronous(&self) -> Option<Synchronous> {
        let held = self.report.pg_role == Some(PgRole::Standby) || self.is_fence_open();
        let opening = self.is_leading_primary() && self.lease.window() != (0, 0);
        if !held && !opening {
            return self.failover.duty.synchronous.clone();
        }
        let voters = self.cluster.members.values().filter(|member| member.voter);
        let voters: BTreeSet<NodeId> = voters.map(|member| member.id).collect();
        let needed = if self.cluster.synchronous { voters.len() / 2 } else { 0 };
        let standbys = voters.into_iter().filter(|node| *node != self.identity.node).collect();
        Some(Synchronous { needed: needed as u32, standbys, members_at: self.failover.members_at })
    }

    /// Whether, with commits that wait for a majority, the set of voters may change: what was
    /// acknowledged under the present set is on a majority of it.
    pub(in crate::runtime) fn may_change_voters(&self) -> bool {
        !self.config.integration_enabled
            || !self.cluster.synchronous
            || bugs::on(Bug::VotersBeforeConfirmed)
            || (self.is_leading_primary()
                // What is committed may be a change that is not applied yet.
                && self.cluster.applied == self.node.commit()
                && self.report.synchronous_at >= self.failover.members_at)
    }
}
