//! Elections: Raft §5.2 and §5.4.1, pre-vote (dissertation §9.6), leases (§4.2.3).

use super::ProposeError;
use super::message::Body;
use super::node::{Cause, Leadership, Node, Role, Suspicion, Votes};
use super::progress::Progress;
use super::quorum::{self, VoteResult};
use super::ready::Note;
use super::types::{EntryId, LogIndex, NodeId, Payload, Term};
use crate::bugs::{self, Bug};

/// Ticks between the ranks of two followers that find the same leader gone: the first has asked and
/// been answered by then.
const RANK_TICKS: u32 = 2;

impl Node {
    /// Campaigns although a leader may be alive, if this node is a voter that does not lead.
    pub fn force_election(&mut self) -> Result<(), ProposeError> {
        if self.lead().is_some() {
            return Err(ProposeError::AlreadyLeader);
        }
        if !self.can_campaign() {
            return Err(ProposeError::NotVoter(self.id()));
        }
        self.pre_campaign(Cause::Forced);
        self.assert_invariants();
        Ok(())
    }

    /// The leader's connection closed and its port refuses a new one. Its voters take turns by
    /// their ids, so that two do not split the vote; those that noticed no longer wait for it.
    pub fn leader_refused(&mut self, leader: NodeId) {
        let known = self.suspicion.is_some_and(|suspicion| suspicion.leader == leader);
        if self.lead().is_none() && self.leader == Some(leader) && !known {
            let ticks_left = 2 * self.config.election_timeout_ticks;
            self.suspicion = Some(Suspicion { leader, ticks_left });
            let me = self.id();
            let before = |voter: &&NodeId| **voter < me && **voter != leader;
            let rank = self.membership().voters.iter().filter(before).count() as u32;
            if self.can_campaign() && rank == 0 {
                self.pre_campaign(Cause::Timeout);
            } else {
                self.campaign_in = self.campaign_in.min(RANK_TICKS * rank.max(1));
            }
        }
        self.assert_invariants();
    }

    pub(super) fn tick_follower(&mut self) {
        self.heard_ticks = self.heard_ticks.saturating_add(1);
        self.lease_ticks = self.lease_ticks.saturating_sub(1);
        self.tick_reads();
        self.suspicion = self.suspicion.and_then(|suspicion| {
            let ticks_left = suspicion.ticks_left.checked_sub(1)?;
            Some(Suspicion { ticks_left, ..suspicion })
        });
        if let Role::PreCandidate(votes) = &mut self.role {
            votes.age_ticks += 1;
            // A forced one goes on beside a living leader, whose heartbeats put the timer off.
            if votes.cause.is_transfer() && votes.age_ticks >= self.config.election_timeout_ticks {
                self.role = Role::Follower;
            }
        }
        if self.is_sole_voter() {
            self.campaign_in = self.campaign_in.min(1);
        }
        self.campaign_in = self.campaign_in.saturating_sub(1);
        if self.campaign_in == 0 {
            self.on_election_timeout();
        }
    }

    fn on_election_timeout(&mut self) {
        if self.can_campaign() {
            return self.pre_campaign(Cause::Timeout);
        }
        if self.heard_ticks >= self.config.election_timeout_ticks {
            self.lose_leader();
        }
        if !matches!(self.role, Role::Follower) {
            self.role = Role::Follower;
        }
        self.reset_timer();
    }

    /// Draws a new election timeout. Alone, there is nobody to wait for; with the leader known to
    /// be gone, only a split vote is to be avoided.
    pub(super) fn reset_timer(&mut self) {
        let (shortest, spread) = match self.suspicion {
            _ if self.is_sole_voter() => (1, 1),
            Some(_) => (self.config.heartbeat_ticks, self.config.heartbeat_ticks + 1),
            None => (self.config.election_timeout_ticks, self.config.election_timeout_ticks),
        };
        self.campaign_in = shortest + self.prng.below(spread);
    }

    /// A non-member never campaigns, nor a learner, nor a node that may have forgotten its votes.
    /// One whose removal is not known to be committed must: the others may need its log, which
    /// holds the removal, to elect anyone at all. It does not count itself (dissertation §4.2.2).
    pub(super) fn can_campaign(&self) -> bool {
        self.may_vote
            && self.lead().is_none()
            && self.log.may_be_voter(self.id())
            && self.term.0.checked_add(1).is_some()
    }

    /// Asks whether a campaign could be won, without disturbing anyone (dissertation §9.6).
    fn pre_campaign(&mut self, cause: Cause) {
        if !cause.is_transfer() {
            self.lose_leader();
        }
        let mut votes = Votes { cause, ..Votes::default() };
        votes.granted.insert(self.id());
        self.role = Role::PreCandidate(votes);
        self.reset_timer();
        self.ask_for_votes(true, cause.is_transfer());
        self.count_votes();
    }

    /// Campaigns (Raft §5.2). This node's own vote counts once it is durable: see `advance`.
    pub(super) fn campaign(&mut self, cause: Cause) {
        // A forced pre-vote goes on beside a living leader, whose log may have removed this node.
        if !self.can_campaign() {
            return self.give_up_campaign();
        }
        self.enter_term(Term(self.term.0 + 1));
        self.lose_leader();
        self.vote = Some(self.id());
        self.role = Role::Candidate(Votes {
            cause,
            lease_left_ms: self.lease_left_ms(),
            ..Votes::default()
        });
        self.reset_timer();
        self.ask_for_votes(false, cause.is_transfer());
    }

    fn ask_for_votes(&mut self, pre_vote: bool, transfer: bool) {
        let term = if pre_vote { Term(self.term.0 + 1) } else { self.term };
        self.note(Note::Campaign { term, pre_vote });
        let body = Body::RequestVote { last: self.log.last(), pre_vote, transfer };
        let mut voters = self.membership().voters.clone();
        voters.remove(&self.id());
        for voter in voters {
            let message = super::Message { term, body: body.clone() };
            let outgoing = super::Outgoing { to: voter, message };
            // To ask for a vote is to promise one's own; to ask for a pre-vote promises nothing.
            if pre_vote {
                self.out.messages.push(outgoing);
            } else {
                self.out.promises.push(outgoing);
            }
        }
    }

    pub(super) fn count_own_vote(&mut self) {
        let durable = (self.stored.term, self.stored.vote) == (self.term, Some(self.id()));
        let me = self.id();
        if let Role::Candidate(votes) = &mut self.role
            && durable
        {
            votes.granted.insert(me);
            self.count_votes();
        }
    }

    fn count_votes(&mut self) {
        let voters = &self.membership().voters;
        match &self.role {
            Role::PreCandidate(votes) => {
                let cause = votes.cause;
                match quorum::vote_result(voters, &votes.granted, &votes.refused) {
                    VoteResult::Won => self.campaign(cause),
                    // With a leader beside it, this node goes back to following it.
                    VoteResult::Lost => self.give_up_campaign(),
                    VoteResult::Pending => {}
                }
            }
            Role::Candidate(votes) => {
                match quorum::vote_result(voters, &votes.granted, &votes.refused) {
                    VoteResult::Won if votes.granted.contains(&self.id()) => self.become_leader(),
                    VoteResult::Lost => self.give_up_campaign(),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn give_up_campaign(&mut self) {
        self.role = Role::Follower;
        self.reset_timer();
    }

    pub(super) fn on_pre_vote_granted(&mut self, from: NodeId, term: Term) {
        if let Role::PreCandidate(votes) = &mut self.role
            && self.term.0.checked_add(1) == Some(term.0)
        {
            votes.refused.remove(&from);
            votes.granted.insert(from);
            self.count_votes();
        }
    }

    pub(super) fn on_vote_answer(
        &mut self,
        from: NodeId,
        granted: bool,
        pre_vote: bool,
        lease_left_ms: u32,
    ) {
        match (&mut self.role, pre_vote) {
            (Role::PreCandidate(votes), true) if !granted && !votes.granted.contains(&from) => {
                votes.refused.insert(from);
            }
            (Role::Candidate(votes), false) if granted => {
                votes.lease_left_ms = votes.lease_left_ms.max(lease_left_ms);
                votes.granted.insert(from);
            }
            (Role::Candidate(votes), false) if !votes.granted.contains(&from) => {
                votes.refused.insert(from);
            }
            _ => return,
        }
        self.count_votes();
    }

    pub(super) fn on_request_vote(
        &mut self,
        from: NodeId,
        term: Term,
        last: EntryId,
        pre_vote: bool,
        transfer: bool,
    ) {
        // A living leader is not to be disturbed, not even by a newer term (dissertation §4.2.3).
        let leased = self.holds_lease() && !transfer;
        if !pre_vote && term > self.term && !leased {
            self.become_follower(term, None, "saw a newer term");
        }
        let free = match self.vote {
            Some(vote) => vote == from,
            None => self.leader.is_none(),
        };
        let refusal = if term < self.term {
            Some("its term is over")
        } else if !self.may_vote {
            Some("this node may not vote")
        } else if leased {
            Some("a leader is alive")
        } else if term == self.term && !free {
            Some("already voted")
        } else if last < self.log.last() && !bugs::on(Bug::VoteForShorterLog) {
            Some("its log is behind")
        } else {
            None
        };
        let lease_left_ms = self.lease_left_ms();
        let answer = |granted| Body::VoteAnswer { granted, pre_vote, lease_left_ms };
        match refusal {
            Some(why) => {
                self.note(Note::VoteRefused { candidate: from, term, why });
                self.send(from, answer(false));
            }
            None if pre_vote => {
                let message = super::Message { term, body: answer(true) };
                self.out.messages.push(super::Outgoing { to: from, message });
            }
            None => {
                self.vote = Some(from);
                self.reset_timer();
                self.send_stored(from, answer(true));
            }
        }
    }

    /// Whether a leader may count on this node to elect no other.
    fn holds_lease(&self) -> bool {
        self.lead().is_some() || (self.lease_ticks > 0 && self.suspicion.is_none())
    }

    /// A leader of the current term spoke. `false`: it cannot be one, ignore what it says.
    pub(super) fn heard_leader(&mut self, from: NodeId) -> bool {
        if self.lead().is_some() || self.leader.is_some_and(|leader| leader != from) {
            return false;
        }
        let forced = matches!(&self.role, Role::PreCandidate(votes) if votes.cause.is_transfer());
        if !forced {
            self.role = Role::Follower;
        }
        self.leader = Some(from);
        self.heard_ticks = 0;
        self.promised_ticks = self.config.election_timeout_ticks;
        if !bugs::on(Bug::NoLeaseOfVoters) {
            self.lease_ticks = self.lease_ticks.max(self.promised_ticks);
        }
        self.suspicion = None;
        self.reset_timer();
        if self.noted_leader != Some((self.term, from)) {
            self.noted_leader = Some((self.term, from));
            self.note(Note::FollowsLeader { term: self.term, leader: from });
        }
        true
    }

    /// Nobody is known to lead; reads on their way to the leader fail.
    fn lose_leader(&mut self) {
        self.leader = None;
        self.fail_forwarded_reads();
    }

    fn enter_term(&mut self, term: Term) {
        debug_assert!(term > self.term);
        self.term = term;
        self.vote = None;
        self.verified = LogIndex(0);
    }

    /// Stops whatever this node was doing; in a newer term it also forgets its vote.
    pub(super) fn become_follower(
        &mut self,
        term: Term,
        leader: Option<NodeId>,
        why: &'static str,
    ) {
        let was_leader = self.lead().is_some();
        if term > self.term {
            self.enter_term(term);
        }
        if was_leader {
            self.fail_leader_reads();
            self.note(Note::SteppedDown { term, why });
            self.heard_ticks = u32::MAX;
        }
        self.lose_leader();
        self.leader = leader;
        // A newer term alone does not put a follower's own campaign off: the candidate may be one
        // that cannot win.
        if !matches!(self.role, Role::Follower) {
            self.role = Role::Follower;
            self.reset_timer();
        }
    }

    /// Starts to lead: probes everyone, and appends the entry that will show what is committed
    /// (Raft §5.2, §8).
    fn become_leader(&mut self) {
        let Role::Candidate(votes) = &self.role else {
            unreachable!("only a candidate becomes leader")
        };
        let old_lease_left_ms =
            if votes.cause == Cause::Handover { 0 } else { votes.lease_left_ms };
        let last = self.log.last().index;
        let membership = self.membership();
        let peers = membership.voters.iter().chain(&membership.learners);
        let me = self.id();
        let progress = peers
            .filter(|peer| **peer != me)
            .map(|peer| (*peer, Progress::new(last, self.round)))
            .collect();
        let lead = Leadership {
            progress,
            confirmed: 0,
            confirmed_for_lease: 0,
            heartbeat_in: self.config.heartbeat_ticks,
            old_lease_ticks: old_lease_ticks(old_lease_left_ms, self.config.tick_ms),
            uncommitted_bytes: self.log.bytes_between(self.log.commit(), last),
            first: last.next(),
            transfer: None,
            reads: Vec::new(),
        };
        self.role = Role::Leader(Box::new(lead));
        self.leader = Some(me);
        self.suspicion = None;
        self.noted_leader = Some((self.term, me));
        self.note(Note::BecameLeader { term: self.term, old_lease_left_ms });
        self.append_own(Payload::Empty);
        self.start_round();
    }
}

/// So many ticks surely last so long: the first may come at once.
fn old_lease_ticks(left_ms: u32, tick_ms: u32) -> u32 {
    if left_ms == 0 { 0 } else { left_ms.div_ceil(tick_ms).saturating_add(1) }
}
