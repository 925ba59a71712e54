//! Log replication and commit: Raft §5.3 and §5.4.2, on both sides, and the heartbeat rounds.

use super::ProposeError;
use super::log::{Splice, entry_bytes};
use super::message::{AppendResult, Body};
use super::node::Node;
use super::progress::ProgressState;
use super::ready::Note;
use super::types::{Entry, EntryId, LogIndex, NodeId, Payload, Term};
use crate::bugs::{self, Bug};

// The leader's side.
impl Node {
    /// Whether a command of this length may be appended now.
    pub(super) fn check_proposal(&self, bytes: usize) -> Result<(), ProposeError> {
        let Some(lead) = self.lead() else {
            return Err(ProposeError::NotLeader { leader: self.leader });
        };
        if lead.transfer.is_some() {
            return Err(ProposeError::Transferring);
        }
        let bytes_max = self.config.append_bytes_max;
        if bytes > bytes_max {
            return Err(ProposeError::TooLarge { bytes, bytes_max });
        }
        if lead.uncommitted_bytes + bytes > self.config.proposals_bytes_max {
            return Err(ProposeError::Overloaded);
        }
        Ok(())
    }

    /// Appends an entry of this leader's; it goes out with the next `Ready`, beside this node's
    /// own write.
    pub(super) fn append_own(&mut self, payload: Payload) -> EntryId {
        let id = EntryId { term: self.term, index: self.log.last().index.next() };
        let entry = Entry { id, payload };
        if let Some(lead) = self.lead_mut() {
            lead.uncommitted_bytes += entry_bytes(&entry);
        }
        self.log.append(entry);
        id
    }

    pub(super) fn tick_leader(&mut self) {
        self.lease_ticks = self.lease_ticks.saturating_sub(1);
        let Some(lead) = self.lead_mut() else { return };
        lead.old_lease_ticks = lead.old_lease_ticks.saturating_sub(1);
        lead.heartbeat_in -= 1;
        let heartbeat = lead.heartbeat_in == 0;
        for progress in lead.progress.values_mut() {
            progress.silent_ticks = progress.silent_ticks.saturating_add(1);
        }
        // Check-quorum (dissertation §6.2): a leader nobody hears must not keep clients waiting.
        if !self.quorum_active() {
            return self.become_follower(self.term, None, "lost contact with a quorum");
        }
        self.tick_transfer();
        self.tick_leaving();
        if heartbeat && self.lead().is_some() {
            let heartbeat_ticks = self.config.heartbeat_ticks;
            if let Some(lead) = self.lead_mut() {
                lead.heartbeat_in = heartbeat_ticks;
            }
            self.start_round();
            self.resend_timeout_now();
        }
    }

    /// Whether a majority of the voters answered within the shortest election timeout.
    pub(super) fn quorum_active(&self) -> bool {
        let timeout = self.config.election_timeout_ticks;
        self.majority_reached(1, |progress| u64::from(progress.silent_ticks < timeout)) == 1
    }

    /// Starts a heartbeat round: whoever answers it followed this leader after now.
    pub(super) fn start_round(&mut self) {
        self.round += 1;
        self.round_unsent = true;
        for peer in self.peers() {
            let Some(progress) = self.progress_of(peer) else { continue };
            match progress.state {
                ProgressState::Replicate | ProgressState::Snapshot => self.send_heartbeat(peer),
                // Its append may be lost. Ask again, without the entries; it serves as heartbeat.
                ProgressState::Probe if progress.paused => self.send_probe(peer),
                // `flush_appends` is about to.
                ProgressState::Probe => {}
            }
        }
        self.confirm_rounds();
    }

    pub(super) fn peers(&self) -> Vec<NodeId> {
        self.lead().map(|lead| lead.progress.keys().copied().collect()).unwrap_or_default()
    }

    fn send_heartbeat(&mut self, peer: NodeId) {
        let (round, commit) = (self.round, self.log.commit());
        let Some(progress) = self.progress_of(peer) else { return };
        let commit = commit.min(progress.matched);
        progress.told_commit = progress.told_commit.max(commit);
        self.send(peer, Body::Heartbeat { commit, round });
    }

    /// An empty append at the follower's next position: does it hold what is before?
    fn send_probe(&mut self, peer: NodeId) {
        self.send_append(peer, 0);
    }

    fn send_append(&mut self, peer: NodeId, bytes_max: usize) {
        let (round, commit) = (self.round, self.log.commit());
        let Some(next) = self.progress_of(peer).map(|progress| progress.next) else { return };
        let Some(prev) = self.log.id_at(next.prev()) else { return self.begin_snapshot(peer) };
        let entries = if bytes_max > 0 { self.log.slice(next, bytes_max) } else { Vec::new() };
        if let Some(progress) = self.progress_of(peer) {
            if let Some(entry) = entries.last() {
                progress.sent(entry.id.index);
            } else if progress.state == ProgressState::Probe {
                progress.paused = true;
            }
            let told = commit.min(LogIndex(prev.index.0 + entries.len() as u64));
            progress.told_commit = progress.told_commit.max(told);
        }
        self.send(peer, Body::AppendEntries { prev, entries, commit, round });
    }

    /// Sends each follower what it lacks and may get now, and news of the commit index. Called once
    /// a `Ready`, so that what was proposed meanwhile goes in one message.
    pub(super) fn flush_appends(&mut self) {
        let (bytes_max, inflight_max) = (self.config.append_bytes_max, self.config.inflight_max);
        let (last, commit) = (self.log.last().index, self.log.commit());
        for peer in self.peers() {
            while self.progress_of(peer).is_some_and(|p| p.may_send(last, inflight_max)) {
                self.send_append(peer, bytes_max);
            }
            self.send_snapshot_piece(peer);
            let Some(progress) = self.progress_of(peer) else { continue };
            let known = commit.min(progress.matched);
            if progress.state == ProgressState::Replicate && progress.told_commit < known {
                self.send_heartbeat(peer);
            }
        }
        self.note_told_removals();
    }

    pub(super) fn on_append_answer(
        &mut self,
        from: NodeId,
        round: u64,
        promise_ms: u32,
        result: AppendResult,
    ) {
        if !self.on_answer(from, round, promise_ms) {
            return;
        }
        match result {
            AppendResult::Accepted { matched } => self.on_accepted(from, round, matched),
            AppendResult::Rejected { prev, hint } => self.on_rejected(from, round, prev, hint),
        }
        self.confirm_rounds();
    }

    /// What every answer says. `false`: it is not for this leader.
    pub(super) fn on_answer(&mut self, from: NodeId, round: u64, promise_ms: u32) -> bool {
        // A round that has not begun is a lie, and would hold for all rounds to come.
        let round = if round <= self.round { round } else { 0 };
        match self.progress_of(from) {
            Some(progress) => {
                progress.answered(round, promise_ms);
                true
            }
            None => false,
        }
    }

    pub(super) fn on_accepted(&mut self, from: NodeId, round: u64, matched: LogIndex) {
        let (last, base, round_now) = (self.log.last().index, self.log.base().index, self.round);
        let Some(progress) = self.progress_of(from) else { return };
        if matched > last {
            return;
        }
        let moved = progress.accepted(matched, round, round_now);
        if progress.state == ProgressState::Snapshot && progress.matched >= base {
            progress.become_replicate();
        }
        if moved {
            self.advance_commit();
            self.on_caught_up(from);
        }
    }

    fn on_rejected(&mut self, from: NodeId, round: u64, prev: LogIndex, hint: EntryId) {
        let (last, round_now) = (self.log.last().index, self.round);
        let ours_at_hint = self.log.id_at(hint.index);
        // Skip, on this side too, the terms that the follower cannot hold (Raft §5.3, end).
        let ours = self.log.latest_at_most(hint.index.min(prev.prev()).min(last), hint.term);
        let Some(progress) = self.progress_of(from) else { return };
        if round <= round_now && progress.proves_loss(hint, ours_at_hint, round) {
            let acknowledged = progress.forget(round_now);
            self.note(Note::ForgotEntries { node: from, acknowledged, holds: hint.index });
        } else if !progress.is_current_rejection(prev, round) {
            return;
        }
        match (ours, self.progress_of(from)) {
            (Some(ours), Some(progress)) => progress.become_probe(ours.index.next()),
            // It can hold nothing that is still in this log.
            _ => self.begin_snapshot(from),
        }
    }

    pub(super) fn on_heartbeat_answer(&mut self, from: NodeId, round: u64, promise_ms: u32) {
        if !self.on_answer(from, round, promise_ms) {
            return;
        }
        let round = round.min(self.round);
        let Some(progress) = self.progress_of(from) else { return };
        // Appends may have been lost with none behind them to show it. Once a round, ask.
        let waits = progress.matched < progress.next.prev() && progress.checked_round < round;
        if progress.state == ProgressState::Replicate && waits {
            progress.checked_round = round;
            self.send_probe(from);
        }
        self.confirm_rounds();
    }

    /// Commits what a majority has stored, this node included once it has. Only an entry of the
    /// current term is committed by counting; those before it follow (Raft §5.4.2).
    pub(super) fn advance_commit(&mut self) {
        let reached = self.majority_reached(self.log.stable().0, |progress| progress.counted().0);
        let reached = LogIndex(reached);
        let own = self.log.term_at(reached) == self.term || bugs::on(Bug::CommitOldTerm);
        if reached <= self.log.commit() || !own {
            return;
        }
        let committed_bytes = self.log.bytes_between(self.log.commit(), reached);
        self.log.commit_to(reached);
        if let Some(lead) = self.lead_mut() {
            lead.uncommitted_bytes -= committed_bytes;
        }
        self.serve_reads();
        self.step_down_if_removed();
    }

    /// Finds the newest round that a majority answered; this node answers itself at once.
    pub(super) fn confirm_rounds(&mut self) {
        let confirmed = self.majority_reached(self.round, |progress| progress.acked_round);
        let Some(lead) = self.lead_mut() else { return };
        lead.confirmed = lead.confirmed.max(confirmed);
        if !lead.transfer.as_ref().is_some_and(|transfer| transfer.told) {
            lead.confirmed_for_lease = lead.confirmed;
        }
        self.serve_reads();
    }
}

// The follower's side.
impl Node {
    pub(super) fn on_append(
        &mut self,
        from: NodeId,
        prev: EntryId,
        entries: Vec<Entry>,
        commit: LogIndex,
        round: u64,
    ) {
        if !well_formed(prev, &entries, self.term) || !self.heard_leader(from) {
            return;
        }
        let promise_ms = self.promise_ms();
        match self.log.splice(prev, entries) {
            Splice::Matched(matched) => {
                self.verified = self.verified.max(matched).min(self.log.last().index);
                self.log.commit_to(commit.min(matched));
                let result = AppendResult::Accepted { matched };
                self.send_stored(from, Body::AppendAnswer { round, promise_ms, result });
            }
            Splice::Missing(hint) => {
                let result = AppendResult::Rejected { prev: prev.index, hint };
                self.send_following(from, Body::AppendAnswer { round, promise_ms, result });
            }
            Splice::Contradiction(index) => self.note(Note::Contradiction { leader: from, index }),
        }
    }

    pub(super) fn on_heartbeat(&mut self, from: NodeId, commit: LogIndex, round: u64) {
        if !self.heard_leader(from) {
            return;
        }
        let promise_ms = self.promise_ms();
        self.log.commit_to(commit.min(self.verified));
        if commit <= self.verified {
            return self.send_following(from, Body::HeartbeatAnswer { round, promise_ms });
        }
        // The leader thinks that this node acked what it does not know to have: it restarted. Ask
        // to be probed.
        let result = AppendResult::Rejected { prev: commit, hint: self.log.last() };
        self.send_following(from, Body::AppendAnswer { round, promise_ms, result });
    }
}

/// Whether a leader of `term` could have sent these: consecutive, terms that never fall.
fn well_formed(prev: EntryId, entries: &[Entry], term: Term) -> bool {
    let mut before = prev;
    for entry in entries {
        let next = before.index.0.checked_add(1).map(LogIndex);
        if Some(entry.id.index) != next || entry.id.term < before.term || entry.id.term.0 == 0 {
            return false;
        }
        before = entry.id;
    }
    before.term <= term && (prev.index.0 == 0) == (prev.term.0 == 0)
}
