//! Linearizable reads without the log (dissertation §6.4): the leader notes its commit index, makes
//! sure that it still leads by a round that a majority answers, and lets the read go on.

use super::ProposeError;
use super::message::Body;
use super::node::Node;
use super::ready::ReadReady;
use super::types::{LogIndex, NodeId};
use crate::bugs::{self, Bug};

/// The most reads that wait at one node: as many as there can be backends asking, and more.
pub const READS_MAX: usize = 4096;

/// A read that waits at the leader.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingRead {
    /// Who asks, with its number for the read.
    from: NodeId,
    token: u64,
    /// What must be applied.
    index: LogIndex,
    /// What must be confirmed; it began after the read came.
    round: u64,
}

impl Node {
    /// Asks for a position at which a read is linearizable; the outcome is in `Ready::reads`,
    /// within an election timeout on a follower.
    pub fn read_index(&mut self, token: u64) -> Result<(), ProposeError> {
        let result = match self.leader {
            Some(leader) if leader == self.id() => self.queue_read(self.id(), token),
            Some(_) if self.forwarded.len() >= READS_MAX => Err(ProposeError::Overloaded),
            Some(leader) => {
                self.forwarded.insert(token, self.config.election_timeout_ticks);
                self.send(leader, Body::ReadIndex { token });
                Ok(())
            }
            None => Err(ProposeError::NotLeader { leader: None }),
        };
        self.assert_invariants();
        result
    }

    fn queue_read(&mut self, from: NodeId, token: u64) -> Result<(), ProposeError> {
        let Some(lead) = self.lead() else {
            return Err(ProposeError::NotLeader { leader: self.leader });
        };
        if lead.reads.len() >= READS_MAX {
            return Err(ProposeError::Overloaded);
        }
        // Until the first entry of the term is committed, an older leader's commits may be unknown.
        let index = self.log.commit().max(lead.first);
        // Reads that come before the round's messages leave share the round.
        let round = if self.round_unsent { self.round } else { self.round + 1 };
        if let Some(lead) = self.lead_mut() {
            lead.reads.push(PendingRead { from, token, index, round });
        }
        if round > self.round {
            self.start_round();
        } else {
            self.serve_reads();
        }
        Ok(())
    }

    pub(super) fn on_read_index(&mut self, from: NodeId, token: u64) {
        if self.queue_read(from, token).is_err() {
            self.send(from, Body::ReadIndexAnswer { token, index: None });
        }
    }

    pub(super) fn on_read_answer(&mut self, from: NodeId, token: u64, index: Option<LogIndex>) {
        if self.leader == Some(from) && self.forwarded.remove(&token).is_some() {
            self.out.reads.push(ReadReady { token, index });
        }
    }

    /// Lets every read go whose round is confirmed and whose position is committed.
    pub(super) fn serve_reads(&mut self) {
        let commit = self.log.commit();
        let Some(lead) = self.lead_mut() else { return };
        let confirmed = lead.confirmed;
        let (served, waiting) = lead.reads.drain(..).partition(|r| {
            let confirmed = r.round <= confirmed || bugs::on(Bug::ReadWithoutRound);
            confirmed && r.index <= commit
        });
        lead.reads = waiting;
        let served: Vec<PendingRead> = served;
        for read in served {
            self.answer_read(read, Some(read.index));
        }
    }

    fn answer_read(&mut self, read: PendingRead, index: Option<LogIndex>) {
        let token = read.token;
        if read.from == self.id() {
            self.out.reads.push(ReadReady { token, index });
        } else {
            self.send(read.from, Body::ReadIndexAnswer { token, index });
        }
    }

    /// This node stops leading: whoever waits must ask the next leader.
    pub(super) fn fail_leader_reads(&mut self) {
        let reads = self.lead_mut().map(|lead| std::mem::take(&mut lead.reads)).unwrap_or_default();
        for read in reads {
            self.answer_read(read, None);
        }
    }

    pub(super) fn fail_forwarded_reads(&mut self) {
        for token in std::mem::take(&mut self.forwarded).into_keys() {
            self.out.reads.push(ReadReady { token, index: None });
        }
    }

    /// The question or its answer may be lost.
    pub(super) fn tick_reads(&mut self) {
        let reads = &mut self.out.reads;
        self.forwarded.retain(|token, ticks_left| {
            *ticks_left -= 1;
            if *ticks_left == 0 {
                reads.push(ReadReady { token: *token, index: None });
            }
            *ticks_left > 0
        });
    }
}
