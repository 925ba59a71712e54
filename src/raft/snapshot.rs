//! Snapshots (Raft §7, dissertation §5): dropping what one stands for, sending it in pieces to a
//! follower that needs what was dropped, and taking one in.
//!
//! Raft knows a snapshot by its description only. Its bytes are the state machine's: whoever sends
//! `InstallSnapshot` puts the piece in, and here they pass through to the `Ready` that installs it.

use super::message::Body;
use super::node::{Node, is_well_formed};
use super::progress::{Progress, ProgressState};
use super::ready::Note;
use super::types::{EntryId, LogIndex, Membership, NodeId, SNAPSHOT_CHUNK_BYTES, SnapshotMeta};

/// What is kept of the log before a snapshot has at most so many bytes, however few entries.
const KEEP_BYTES_MAX: usize = 16 << 20;

/// A snapshot on its way in. Kept over a change of leader: the next one may have the same.
///
/// Invariant: `data` is shorter than `meta.bytes`.
#[derive(Debug)]
pub(super) struct Incoming {
    meta: SnapshotMeta,
    data: Vec<u8>,
}

impl Incoming {
    /// Takes in the piece that comes next; any other was lost, or came before.
    fn take(&mut self, offset: u64, piece: &[u8]) {
        let (have, bytes) = (self.data.len(), self.meta.bytes as usize);
        if offset != have as u64 || piece.len() > bytes - have {
            return;
        }
        if self.data.capacity() - have < piece.len() {
            // Never more than what was declared, and that only as it comes.
            let wanted = (2 * have).max(have + piece.len()).min(bytes);
            self.data.reserve_exact(wanted - have);
        }
        self.data.extend_from_slice(piece);
    }

    pub(super) fn assert_invariants(&self, commit: LogIndex) {
        assert!(self.meta.last.index > commit, "a snapshot that nobody needs is kept");
        assert!(
            (self.data.len() as u64) < self.meta.bytes,
            "a snapshot that came is not installed"
        );
    }
}

// On every node.
impl Node {
    /// The latest snapshot that is durable here.
    pub fn snapshot(&self) -> Option<&SnapshotMeta> {
        self.snapshot.as_ref()
    }

    /// What a snapshot of the state machine stands for that has applied everything up to `applied`:
    /// its last entry and the membership in force there. `None` if there is a snapshot as new, or
    /// so much was not handed out yet.
    pub fn snapshot_point(&self, applied: LogIndex) -> Option<(EntryId, Membership)> {
        let newest = self.snapshot.as_ref().map_or(LogIndex(0), |meta| meta.last.index);
        if applied <= newest || applied > self.log.handed() {
            return None;
        }
        Some((self.log.id_at(applied)?, self.log.membership_at(applied)?.clone()))
    }

    /// The snapshot that `snapshot_point` described is durable: drops the entries it stands for,
    /// but the last `keep`, which a follower that is a little behind can still get, and those that
    /// one is getting; no more than 16 MiB of both. Returns what the log begins behind from now
    /// on. `None`: a snapshot from a leader overtook it, which may not be stored yet; nothing
    /// changes, and nothing stored may be dropped.
    ///
    /// # Panics
    ///
    /// If `meta` stands for what was not handed out to be applied.
    pub fn compact(&mut self, meta: SnapshotMeta, keep: u64) -> Option<EntryId> {
        if self.snapshot.as_ref().is_some_and(|newest| newest.last.index >= meta.last.index) {
            return None;
        }
        assert!(self.log.contains(meta.last), "a snapshot of another log");
        let applied = meta.last.index;
        let first = self.log.before_tail(applied, keep, KEEP_BYTES_MAX).min(self.needed());
        let first = first.max(self.log.before_tail(applied, u64::MAX, KEEP_BYTES_MAX));
        self.log.compact(applied, first);
        self.snapshot = Some(meta);
        let round = self.round;
        // The one they were getting is gone.
        for progress in self.lead_mut().into_iter().flat_map(|lead| lead.progress.values_mut()) {
            if progress.state == ProgressState::Snapshot {
                progress.become_snapshot(round);
            }
        }
        self.assert_invariants();
        Some(self.log.base())
    }
}

// The leader's side.
impl Node {
    /// Up to where no live follower that gets the log needs it any more.
    fn needed(&self) -> LogIndex {
        let timeout = self.config.election_timeout_ticks;
        let live = |progress: &&Progress| {
            progress.state == ProgressState::Replicate && progress.silent_ticks < timeout
        };
        let progress = self.lead().into_iter().flat_map(|lead| lead.progress.values());
        let matched = progress.filter(live).map(|progress| progress.matched);
        matched.min().unwrap_or(LogIndex(u64::MAX))
    }

    /// Whether a live follower has a part of the snapshot: a newer one would make it begin again.
    pub fn sends_snapshot(&self) -> bool {
        let timeout = self.config.election_timeout_ticks;
        let halfway = |progress: &Progress| {
            let sending = progress.sending.as_ref();
            sending.is_some_and(|sending| sending.offset > 0) && progress.silent_ticks < timeout
        };
        self.lead().is_some_and(|lead| lead.progress.values().any(halfway))
    }

    /// `peer` needs what was dropped from the log.
    pub(super) fn begin_snapshot(&mut self, peer: NodeId) {
        let (round, base) = (self.round, self.log.base().index);
        let last = self.snapshot.as_ref().map(|meta| meta.last);
        let (Some(last), Some(progress)) = (last, self.progress_of(peer)) else { return };
        if progress.matched >= base && progress.matched > LogIndex(0) {
            return progress.become_probe(progress.matched.next());
        }
        progress.become_snapshot(round);
        self.note(Note::SendsSnapshot { to: peer, last });
    }

    /// The next piece, if it is due. One at a time: the answer says how far the follower is.
    pub(super) fn send_snapshot_piece(&mut self, peer: NodeId) {
        let round = self.round;
        let Some(snapshot) = self.snapshot.clone() else { return };
        let Some(sending) = self.progress_of(peer).and_then(|progress| progress.sending.as_mut())
        else {
            return;
        };
        if sending.sent_round.is_none() {
            sending.sent_round = Some(round);
            let offset = sending.offset;
            self.send(peer, Body::InstallSnapshot { snapshot, offset, data: Vec::new(), round });
        }
    }

    pub(super) fn on_snapshot_answer(
        &mut self,
        from: NodeId,
        round: u64,
        promise_ms: u32,
        last: EntryId,
        received: u64,
    ) {
        if !self.on_answer(from, round, promise_ms) {
            return;
        }
        let current = self.snapshot.as_ref().filter(|snapshot| snapshot.last == last);
        if let Some(bytes) = current.map(|snapshot| snapshot.bytes) {
            let round_now = self.round;
            if received == bytes {
                self.on_installed(from, round, last);
            } else if received < bytes
                && round <= round_now
                && let Some(progress) = self.progress_of(from)
            {
                progress.received(received, round, round_now);
            }
        }
        self.confirm_rounds();
    }

    fn on_installed(&mut self, from: NodeId, round: u64, last: EntryId) {
        let state_of = |node: &mut Node| node.progress_of(from).map(|progress| progress.state);
        let before = state_of(self);
        self.on_accepted(from, round, last.index);
        if before == Some(ProgressState::Snapshot) && state_of(self) != before {
            self.note(Note::SentSnapshot { to: from, last });
        }
    }
}

// The follower's side.
impl Node {
    pub(super) fn on_install_snapshot(
        &mut self,
        from: NodeId,
        snapshot: SnapshotMeta,
        offset: u64,
        piece: &[u8],
        round: u64,
    ) {
        let sane = is_well_formed(&snapshot)
            && snapshot.last.term <= self.term
            && piece.len() <= SNAPSHOT_CHUNK_BYTES;
        if !sane || !self.heard_leader(from) {
            return;
        }
        let (last, bytes, promise_ms) = (snapshot.last, snapshot.bytes, self.promise_ms());
        let answer = |received| Body::SnapshotAnswer { round, promise_ms, last, received };
        let (own, commit) = (self.log.id_at(last.index), self.log.commit());
        match own {
            Some(own) if own != last && last.index <= commit => {
                return self.note(Note::Contradiction { leader: from, index: last.index });
            }
            // Terms never fall, so it cannot have in it what is committed here.
            None if last.index > commit && last.term < self.log.term_at(commit) => {
                return self.note(Note::Contradiction { leader: from, index: commit });
            }
            own if own == Some(last) || last.index <= commit => {
                // The leader's log is this one up to there, and committed.
                self.log.commit_to(last.index);
                self.verified = self.verified.max(last.index);
                return self.send_stored(from, answer(bytes));
            }
            _ => {}
        }
        let mut incoming = match self.incoming.take() {
            Some(incoming) if incoming.meta == snapshot => incoming,
            _ => Incoming { meta: snapshot, data: Vec::new() },
        };
        incoming.take(offset, piece);
        let received = incoming.data.len() as u64;
        if received < bytes {
            self.incoming = Some(incoming);
            return self.send_following(from, answer(received));
        }
        if crc32c::crc32c(&incoming.data) != incoming.meta.checksum {
            self.note(Note::DamagedSnapshot { leader: from, last });
            return self.send_following(from, answer(0));
        }
        self.install(incoming);
        self.send_stored(from, answer(bytes));
    }

    /// The log holds nothing of what the snapshot ends with, so nothing of it is known to be in the
    /// leader's: the snapshot takes its place (Raft §7).
    fn install(&mut self, incoming: Incoming) {
        let Incoming { meta, data } = incoming;
        self.log.replace(meta.last, meta.membership.clone());
        self.verified = meta.last.index;
        self.snapshot = Some(meta.clone());
        self.installing = Some((meta, data));
        self.reset_timer();
    }

    /// Lets go of a snapshot that the log has caught up with.
    pub(super) fn forget_needless_snapshot(&mut self) {
        let commit = self.log.commit();
        if self.incoming.as_ref().is_some_and(|incoming| incoming.meta.last.index <= commit) {
            self.incoming = None;
        }
    }
}
