//! What a leader knows of one follower, and what it may send to it next.

use std::collections::VecDeque;

use super::types::{EntryId, LogIndex};

/// How a follower is being replicated to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgressState {
    /// Where its log equals the leader's is not known: one append at a time.
    Probe,
    /// It is known: appends are pipelined (dissertation §10.2.1).
    Replicate,
    /// It lacks what the leader dropped: a snapshot goes out, a piece at a time (Raft §7).
    Snapshot,
}

/// A leader's view of one follower, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerProgress {
    /// The last entry known to be durable there and equal to the leader's.
    pub matched: LogIndex,
    /// Whether it answered within the shortest election timeout.
    pub recent_active: bool,
    /// The newest heartbeat round it answered; zero is none.
    pub acked_round: u64,
    /// How it is being replicated to.
    pub state: ProgressState,
}

/// A snapshot on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    /// How much of it the follower has.
    pub(super) offset: u64,
    /// The round in which the piece at `offset` left; `None`: it is due.
    pub(super) sent_round: Option<u64>,
    /// The round that was current when `offset` last moved: only answers to later ones may move it
    /// back.
    moved_round: u64,
}

/// A node on its way out keeps receiving the log until it knows of its removal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    /// Where its removal stands in the log.
    pub(super) removal: LogIndex,
    /// Patience, counted from the removal's commit on.
    pub(super) ticks_left: u32,
    /// The round in which it was first told that the removal is committed.
    pub(super) told_round: Option<u64>,
}

/// Invariants: `matched < next`; `inflight` rises, lies in `matched+1 .. next` and is empty but in
/// `Replicate`; `sending` is there in `Snapshot` and only there; `acknowledged` is zero unless the
/// follower forgot entries.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) matched: LogIndex,
    pub(super) next: LogIndex,
    pub(super) state: ProgressState,
    /// In `Probe`: the append at `next` is on its way.
    pub(super) paused: bool,
    /// In `Snapshot`: how far it is.
    pub(super) sending: Option<Sending>,
    /// The last index of each append on its way.
    inflight: VecDeque<LogIndex>,
    /// The newest round it answered.
    pub(super) acked_round: u64,
    /// For how long it promised, in its last answer to `acked_round`, to vote for nobody else.
    pub(super) promise_ms: u32,
    /// The round that was current when `matched` last moved: whatever was sent in a later round was
    /// sent knowing it.
    matched_round: u64,
    /// The last round in which lost appends were looked for.
    pub(super) checked_round: u64,
    /// The largest commit index told.
    pub(super) told_commit: LogIndex,
    /// Ticks since it last answered (or since the leader began).
    pub(super) silent_ticks: u32,
    /// Whether it answered this leader at all.
    pub(super) heard: bool,
    /// What it had acknowledged before it lost entries; it counts again once it is back there.
    pub(super) acknowledged: LogIndex,
    /// Acks of appends of this round or an earlier one may be from before it lost entries, or
    /// joined.
    distrusted_round: u64,
    pub(super) leaving: Option<Leaving>,
}

impl Progress {
    /// A follower of whom nothing is known; the search starts at the leader's end. Answers to what
    /// was sent in `distrusted_round` or before are not its own, but those of a server that had its
    /// id before.
    pub(super) fn new(last: LogIndex, distrusted_round: u64) -> Progress {
        Progress {
            matched: LogIndex(0),
            next: last.next(),
            state: ProgressState::Probe,
            paused: false,
            sending: None,
            inflight: VecDeque::new(),
            acked_round: 0,
            promise_ms: 0,
            matched_round: 0,
            checked_round: 0,
            told_commit: LogIndex(0),
            silent_ticks: 0,
            heard: false,
            acknowledged: LogIndex(0),
            distrusted_round,
            leaving: None,
        }
    }

    /// What counts for commit: nothing while entries are missing that it had acknowledged.
    pub(super) fn counted(&self) -> LogIndex {
        if self.matched < self.acknowledged { LogIndex(0) } else { self.matched }
    }

    /// Whether an append may go out now.
    pub(super) fn may_send(&self, last: LogIndex, inflight_max: usize) -> bool {
        match self.state {
            ProgressState::Probe => !self.paused,
            ProgressState::Replicate => self.next <= last && self.inflight.len() < inflight_max,
            ProgressState::Snapshot => false,
        }
    }

    /// Notes that an append ending at `end` went out from `next`.
    pub(super) fn sent(&mut self, end: LogIndex) {
        match self.state {
            ProgressState::Probe => self.paused = true,
            ProgressState::Replicate => {
                self.inflight.push_back(end);
                self.next = end.next();
            }
            ProgressState::Snapshot => {}
        }
    }

    /// Back to searching, from `next` on; what was on its way is forgotten.
    pub(super) fn become_probe(&mut self, next: LogIndex) {
        self.state = ProgressState::Probe;
        self.next = next.max(self.matched.next());
        self.paused = false;
        self.sending = None;
        self.inflight.clear();
    }

    /// The follower gets a snapshot, from its beginning.
    pub(super) fn become_snapshot(&mut self, round_now: u64) {
        self.become_probe(self.matched.next());
        self.state = ProgressState::Snapshot;
        self.sending = Some(Sending { offset: 0, sent_round: None, moved_round: round_now });
    }

    /// The follower holds an entry that the leader has, too: appends go on from there.
    pub(super) fn become_replicate(&mut self) {
        self.become_probe(self.matched.next());
        self.state = ProgressState::Replicate;
    }

    /// The follower says how much of the snapshot it has.
    pub(super) fn received(&mut self, received: u64, round: u64, round_now: u64) {
        let Some(sending) = &mut self.sending else { return };
        // Less than before: it restarted. An answer that was overtaken does not prove that.
        let restarted = received < sending.offset && round > sending.moved_round;
        if received > sending.offset || restarted {
            *sending = Sending { offset: received, sent_round: None, moved_round: round_now };
        }
    }

    /// The link closed: what was on its way is lost, what was learnt is not.
    pub(super) fn lose_link(&mut self) {
        match self.state {
            ProgressState::Probe => self.become_probe(self.next),
            ProgressState::Replicate => self.become_probe(self.matched.next()),
            ProgressState::Snapshot => {
                self.sending.iter_mut().for_each(|sending| sending.sent_round = None);
            }
        }
    }

    /// Takes in an answer to anything: the follower lives and followed this leader in `round`.
    pub(super) fn answered(&mut self, round: u64, promise_ms: u32) {
        self.silent_ticks = 0;
        self.heard = true;
        // What it answers was sent behind the piece, whose own answer did not come: it is lost.
        if let Some(sending) = &mut self.sending
            && sending.sent_round.is_some_and(|sent| sent < round)
        {
            sending.sent_round = None;
        }
        if round >= self.acked_round {
            self.promise_ms =
                if round > self.acked_round { promise_ms } else { self.promise_ms.min(promise_ms) };
            self.acked_round = round;
        }
    }

    /// Takes in an ack; says whether `matched` moved.
    pub(super) fn accepted(&mut self, matched: LogIndex, round: u64, round_now: u64) -> bool {
        if matched < self.matched || round <= self.distrusted_round {
            return false;
        }
        let moved = matched > self.matched;
        if moved {
            self.matched = matched;
            self.matched_round = round_now;
        }
        while self.inflight.front().is_some_and(|end| *end <= matched) {
            self.inflight.pop_front();
        }
        self.next = self.next.max(matched.next());
        if self.state == ProgressState::Probe {
            self.state = ProgressState::Replicate;
            self.next = self.matched.next();
        }
        if self.matched >= self.acknowledged {
            self.acknowledged = LogIndex(0);
        }
        moved
    }

    /// Whether a refusal of an append of `round` shows that acknowledged entries are gone: the
    /// append left when `matched` was already known here, so the ack came before the refusal.
    /// A log that holds the matched entry hints at it or at something behind it. `ours_at_hint` is
    /// `None` where the leader has dropped what stood there, and so can prove nothing by it.
    pub(super) fn proves_loss(
        &self,
        hint: EntryId,
        ours_at_hint: Option<EntryId>,
        round: u64,
    ) -> bool {
        let differs = ours_at_hint.is_some_and(|ours| ours != hint);
        round > self.matched_round
            && (hint.index < self.matched || (hint.index == self.matched && differs))
    }

    /// Starts over with a follower that lost entries; returns what it had acknowledged.
    pub(super) fn forget(&mut self, round_now: u64) -> LogIndex {
        let acknowledged = self.matched.max(self.acknowledged);
        self.acknowledged = acknowledged;
        self.matched = LogIndex(0);
        self.matched_round = round_now;
        self.distrusted_round = round_now;
        acknowledged
    }

    /// Whether a refusal is news: anything else was overtaken by a later answer.
    pub(super) fn is_current_rejection(&self, prev: LogIndex, round: u64) -> bool {
        match self.state {
            ProgressState::Probe => self.next.prev() == prev,
            ProgressState::Replicate => prev > self.matched || round > self.matched_round,
            ProgressState::Snapshot => false,
        }
    }

    pub(super) fn assert_invariants(&self) {
        assert!(self.matched < self.next, "a follower's next entry is one it has");
        let mut before = self.matched;
        for end in &self.inflight {
            assert!(*end >= before && *end < self.next, "an append in flight is out of order");
            before = *end;
        }
        assert!(
            self.state == ProgressState::Replicate || self.inflight.is_empty(),
            "a probed follower has appends in flight"
        );
        assert_eq!(self.state == ProgressState::Snapshot, self.sending.is_some());
    }
}
