//! A message comes in: terms first (Raft §5.1), then to whom it concerns.

use super::message::{Body, Message};
use super::node::Node;
use super::types::NodeId;

impl Node {
    /// Takes in a message. Whatever it says, it cannot make this panic: one that no correct node
    /// could have sent is ignored.
    pub fn step(&mut self, from: NodeId, message: Message) {
        if from != self.id() {
            self.dispatch(from, message);
            self.forget_needless_snapshot();
        }
        self.assert_invariants();
    }

    fn dispatch(&mut self, from: NodeId, message: Message) {
        let Message { term, body } = message;
        match body {
            // Their term is not, or not yet, the sender's own: they must not move this node's.
            Body::RequestVote { last, pre_vote, transfer } => {
                return self.on_request_vote(from, term, last, pre_vote, transfer);
            }
            Body::VoteAnswer { granted: true, pre_vote: true, .. } => {
                return self.on_pre_vote_granted(from, term);
            }
            _ => {}
        }
        if term < self.term {
            return self.on_stale(from, body);
        }
        if term > self.term {
            self.become_follower(term, None, "saw a newer term");
        }
        match body {
            Body::VoteAnswer { granted, pre_vote, lease_left_ms } => {
                self.on_vote_answer(from, granted, pre_vote, lease_left_ms);
            }
            Body::AppendEntries { prev, entries, commit, round } => {
                self.on_append(from, prev, entries, commit, round);
            }
            Body::AppendAnswer { round, promise_ms, result } => {
                self.on_append_answer(from, round, promise_ms, result);
            }
            Body::Heartbeat { commit, round } => self.on_heartbeat(from, commit, round),
            Body::HeartbeatAnswer { round, promise_ms } => {
                self.on_heartbeat_answer(from, round, promise_ms);
            }
            Body::InstallSnapshot { snapshot, offset, data, round } => {
                self.on_install_snapshot(from, snapshot, offset, &data, round);
            }
            Body::SnapshotAnswer { round, promise_ms, last, received } => {
                self.on_snapshot_answer(from, round, promise_ms, last, received);
            }
            Body::TimeoutNow => self.on_timeout_now(from),
            Body::ReadIndex { token } => self.on_read_index(from, token),
            Body::ReadIndexAnswer { token, index } => self.on_read_answer(from, token, index),
            Body::RequestVote { .. } => {}
        }
    }

    /// A message from an older term. A leader of it must learn that it leads no more: without the
    /// answer, a candidate whose term ran ahead could never be led again. The answer acks no round,
    /// or one that was sent in an old term would count in a new one.
    fn on_stale(&mut self, from: NodeId, body: Body) {
        let from_leader = matches!(
            body,
            Body::AppendEntries { .. } | Body::Heartbeat { .. } | Body::InstallSnapshot { .. }
        );
        if from_leader {
            self.send(from, Body::HeartbeatAnswer { round: 0, promise_ms: 0 });
        }
    }
}
