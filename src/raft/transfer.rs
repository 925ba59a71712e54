//! Handing leadership over (dissertation §3.10).

use super::ProposeError;
use super::message::Body;
use super::node::{Cause, Node};
use super::types::NodeId;
use crate::bugs::{self, Bug};

/// A hand-over under way.
#[derive(Debug)]
pub(super) struct Transfer {
    to: NodeId,
    ticks_left: u32,
    /// Whether `TimeoutNow` went out, after which another leader may be elected any moment.
    pub(super) told: bool,
}

impl Node {
    /// Hands leadership to a voter: it first gets all of the log, then campaigns. Proposals are
    /// refused meanwhile. After an election timeout it is given up; if the voter was told to
    /// campaign by then, this node steps down and campaigns itself.
    pub fn transfer_leadership(&mut self, to: NodeId) -> Result<(), ProposeError> {
        let Some(lead) = self.lead() else {
            return Err(ProposeError::NotLeader { leader: self.leader });
        };
        if to == self.id() {
            return Err(ProposeError::AlreadyLeader);
        }
        match &lead.transfer {
            Some(transfer) if transfer.to == to => return Ok(()),
            Some(_) => return Err(ProposeError::Transferring),
            None => {}
        }
        if !self.membership().contains(to) {
            return Err(ProposeError::UnknownNode(to));
        }
        if !self.membership().voters.contains(&to) {
            return Err(ProposeError::NotVoter(to));
        }
        let ticks_left = self.config.election_timeout_ticks;
        if let Some(lead) = self.lead_mut() {
            lead.transfer = Some(Transfer { to, ticks_left, told: false });
        }
        self.on_caught_up(to);
        self.assert_invariants();
        Ok(())
    }

    /// To whom leadership is being handed over.
    pub fn transferring(&self) -> Option<NodeId> {
        self.lead()?.transfer.as_ref().map(|transfer| transfer.to)
    }

    /// `peer` may now have all of the log: if it is to lead, tell it.
    pub(super) fn on_caught_up(&mut self, peer: NodeId) {
        let last = self.log.last().index;
        let Some(lead) = self.lead_mut() else { return };
        let Some(transfer) = &mut lead.transfer else { return };
        let matched = lead.progress.get(&peer).map(|progress| progress.counted());
        let caught_up = matched == Some(last) || bugs::on(Bug::TransferWithoutLog);
        let lease_over = lead.old_lease_ticks == 0 || bugs::on(Bug::TransferIgnoresLease);
        let ready = caught_up && lease_over;
        if transfer.to == peer && ready && !transfer.told {
            transfer.told = true;
            self.send(peer, Body::TimeoutNow);
        }
    }

    /// The message may be lost: again with each heartbeat. One too many is of an old term.
    pub(super) fn resend_timeout_now(&mut self) {
        let told = self.lead().and_then(|lead| lead.transfer.as_ref()).filter(|t| t.told);
        if let Some(to) = told.map(|transfer| transfer.to) {
            self.send(to, Body::TimeoutNow);
        }
    }

    /// Gives a transfer up in the end. Once `TimeoutNow` went out it can arrive any time, and who
    /// gets it waits for no lease, so this node may never again count on one in this term: it asks
    /// for the next term itself, in which that message is stale.
    pub(super) fn tick_transfer(&mut self) {
        let Some(lead) = self.lead_mut() else { return };
        let Some(transfer) = &mut lead.transfer else { return };
        transfer.ticks_left -= 1;
        let (to, told) = (transfer.to, transfer.told);
        if transfer.ticks_left > 0 {
            // The old lease may have been what it waited for.
            return self.on_caught_up(to);
        }
        lead.transfer = None;
        if told {
            self.become_follower(self.term, None, "the handover failed");
            self.campaign(Cause::Handover);
        }
    }

    /// The leader hands over to this node: no pre-vote, no lease, at once.
    pub(super) fn on_timeout_now(&mut self, from: NodeId) {
        let from_leader = self.leader.is_none_or(|leader| leader == from);
        if from_leader && self.can_campaign() {
            self.campaign(Cause::Handover);
        }
    }
}
