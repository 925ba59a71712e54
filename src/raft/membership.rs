//! Who takes part: one server at a time (Raft §6, dissertation chapter 4), and genesis.

use super::ProposeError;
use super::config::MEMBERS_MAX;
use super::message::Body;
use super::node::Node;
use super::progress::{Leaving, Progress, ProgressState};
use super::types::{Entry, EntryId, LogIndex, Membership, MembershipChange, NodeId, Payload, Term};
use crate::bugs::{self, Bug};

/// What a learner may lack of what is committed and still count as caught up: little enough to
/// arrive in one or two appends, enough that a busy cluster can promote at all.
pub const PROMOTE_LAG_MAX: u64 = 64;

impl Node {
    /// Makes this node, whose log is empty, hold `genesis` as its first entry, and lets it vote.
    /// All first members must be given the same entry.
    pub fn bootstrap(&mut self, genesis: Entry) -> Result<(), ProposeError> {
        if self.log.last() != EntryId::default() {
            return Err(ProposeError::NotEmpty);
        }
        let first = EntryId { term: Term(1), index: LogIndex(1) };
        let Payload::Membership { membership, .. } = &genesis.payload else {
            return Err(ProposeError::InvalidGenesis);
        };
        let size = membership.voters.len() + membership.learners.len();
        if genesis.id != first
            || membership.voters.is_empty()
            || !membership.voters.is_disjoint(&membership.learners)
            || !membership.contains(self.id())
        {
            return Err(ProposeError::InvalidGenesis);
        }
        if size > MEMBERS_MAX {
            return Err(ProposeError::TooManyMembers);
        }
        self.term = self.term.max(Term(1));
        self.log.append(genesis);
        self.may_vote = true;
        self.reset_timer();
        self.assert_invariants();
        Ok(())
    }

    /// Appends a step of the membership with the operation on the state machine that goes with it.
    pub fn propose_membership(
        &mut self,
        change: MembershipChange,
        command: Vec<u8>,
    ) -> Result<EntryId, ProposeError> {
        self.check_proposal(command.len())?;
        if self.log.membership_index() > self.log.commit() && !bugs::on(Bug::TwoChanges) {
            return Err(ProposeError::ChangeInProgress);
        }
        // Without this, two leaders' uncommitted changes may have majorities that do not meet
        // (Ongaro, "bug in single-server membership changes", raft-dev, 2015).
        if !self.committed_in_term() && !bugs::on(Bug::ChangeBeforeCommit) {
            return Err(ProposeError::NoCommitInTerm);
        }
        let membership = self.changed_membership(change)?;
        let id = self.append_own(Payload::Membership { membership, command });
        self.follow_membership(id.index);
        // Fewer voters may make an older entry's majority complete.
        self.advance_commit();
        // A new member's answers count from here on.
        self.start_round();
        self.assert_invariants();
        Ok(id)
    }

    fn changed_membership(&self, change: MembershipChange) -> Result<Membership, ProposeError> {
        let mut next = self.membership().clone();
        match change {
            MembershipChange::AddLearner(node) => {
                if next.contains(node) {
                    return Err(ProposeError::AlreadyMember(node));
                }
                if next.voters.len() + next.learners.len() >= MEMBERS_MAX {
                    return Err(ProposeError::TooManyMembers);
                }
                next.learners.insert(node);
            }
            MembershipChange::Promote(node) => {
                if next.voters.contains(&node) {
                    return Err(ProposeError::AlreadyMember(node));
                }
                if !next.learners.remove(&node) {
                    return Err(ProposeError::UnknownNode(node));
                }
                if !self.is_caught_up(node) {
                    return Err(ProposeError::NotCaughtUp(node));
                }
                next.voters.insert(node);
            }
            MembershipChange::Remove(node) => {
                if !next.contains(node) {
                    return Err(ProposeError::UnknownNode(node));
                }
                next.learners.remove(&node);
                if next.voters.remove(&node) && next.voters.is_empty() {
                    return Err(ProposeError::LastVoter(node));
                }
            }
        }
        Ok(next)
    }

    /// Whether a learner would not hold up commits as a voter (dissertation §4.2.1).
    fn is_caught_up(&self, node: NodeId) -> bool {
        let timeout = self.config.election_timeout_ticks;
        let Some(progress) = self.lead().and_then(|lead| lead.progress.get(&node)) else {
            return false;
        };
        progress.heard
            && progress.silent_ticks < timeout
            && progress.state == ProgressState::Replicate
            && progress.counted() > LogIndex(0)
            && progress.counted().0 + PROMOTE_LAG_MAX >= self.log.commit().0
    }

    /// Brings the leader's list of followers in line with the membership just appended at `index`.
    fn follow_membership(&mut self, index: LogIndex) {
        let membership = self.membership().clone();
        let (me, ticks_left) = (self.id(), self.config.election_timeout_ticks);
        let round = self.round;
        let Some(lead) = self.lead_mut() else { return };
        for (node, progress) in &mut lead.progress {
            if !membership.contains(*node) && progress.leaving.is_none() {
                let leaving = Leaving { removal: index, ticks_left, told_round: None };
                progress.leaving = Some(leaving);
            }
        }
        for node in membership.voters.iter().chain(&membership.learners) {
            let known = lead.progress.get(node).is_some_and(|p| p.leaving.is_none());
            if *node != me && !known {
                lead.progress.insert(*node, Progress::new(index.prev(), round));
            }
        }
    }

    /// Remembers in which round a leaving node was told that its removal is committed.
    pub(super) fn note_told_removals(&mut self) {
        let round = self.round;
        let Some(lead) = self.lead_mut() else { return };
        for progress in lead.progress.values_mut() {
            if let Some(leaving) = &mut progress.leaving
                && progress.told_commit >= leaving.removal
            {
                leaving.told_round.get_or_insert(round);
            }
        }
    }

    /// Lets go of those who know that they are removed, or could not be told in time. What answers
    /// a later round than the one it was told in has got the message.
    pub(super) fn tick_leaving(&mut self) {
        let commit = self.log.commit();
        let Some(lead) = self.lead_mut() else { return };
        lead.progress.retain(|_, progress| {
            let acked_round = progress.acked_round;
            let Some(leaving) = &mut progress.leaving else { return true };
            if commit >= leaving.removal {
                leaving.ticks_left = leaving.ticks_left.saturating_sub(1);
            }
            leaving.ticks_left > 0 && leaving.told_round.is_none_or(|told| acked_round <= told)
        });
    }

    /// A leader that its own log no longer lists led only to commit that (dissertation §4.2.2). It
    /// tells the others, and lets the best of them campaign at once.
    pub(super) fn step_down_if_removed(&mut self) {
        let removed = !self.is_voter() && self.log.membership_index() <= self.log.commit();
        let Some(lead) = self.lead() else { return };
        if !removed {
            return;
        }
        let lead_old_lease = lead.old_lease_ticks;
        let voters = &self.membership().voters;
        let others = lead.progress.iter().filter(|(node, _)| voters.contains(node));
        let best = others.max_by_key(|(_, progress)| progress.counted()).map(|(node, _)| *node);
        self.start_round();
        self.flush_appends();
        let may_hand_over = lead_old_lease == 0;
        if let Some(best) = best.filter(|_| may_hand_over) {
            self.send(best, Body::TimeoutNow);
        }
        self.become_follower(self.term, None, "removed");
    }
}
