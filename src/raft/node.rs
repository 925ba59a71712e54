//! `Node`: its state, what comes in by the clock, what goes out by `ready` and `advance`.
//!
//! Runs on whichever one thread owns the `Node`. What it does when something happens stands in
//! `step`, `election`, `replication`, `snapshot`, `membership`, `transfer` and `read`.

use crate::bugs::{self, Bug};
use std::collections::{BTreeMap, BTreeSet};

use super::config::{Config, MEMBERS_MAX};
use super::errors::{ConfigError, ProposeError};
use super::log::Log;
use super::message::{Body, Message, Outgoing};
use super::prng::Prng;
use super::progress::{PeerProgress, Progress};
use super::quorum;
use super::read::PendingRead;
use super::ready::{Durable, Note, ReadReady, Ready};
use super::snapshot::Incoming;
use super::transfer::Transfer;
use super::types::{
    Entry, EntryId, HardState, LogIndex, Membership, NodeId, Payload, SNAPSHOT_BYTES_MAX,
    SnapshotMeta, Term,
};

/// The most bytes of committed entries in one `Ready`, so that a restart with a long log does not
/// hold it in memory twice.
const COMMITTED_BYTES_MAX: usize = 4 << 20;

/// What a node finds on its disk.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// As last stored.
    pub hard_state: HardState,
    /// The latest snapshot; `None`: there was none, and `base` is the default.
    pub snapshot: Option<SnapshotMeta>,
    /// What stands before the first of `entries`, at or before the end of the snapshot.
    pub base: EntryId,
    /// The log from `base` on. It holds the entry at which the snapshot ends, or nothing.
    pub entries: Vec<Entry>,
}

/// What a node is to the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RoleKind {
    /// Listens to a leader or waits for one.
    Follower,
    /// Asks whether it could win (dissertation §9.6).
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
    /// Listens and counts for nothing yet.
    Learner,
}

/// Why a campaign began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Cause {
    /// No leader was heard.
    #[default]
    Timeout,
    /// The operator wants it; a leader may be alive, with its lease.
    Forced,
    /// The leader wants it, and has ended its own lease.
    Handover,
}

impl Cause {
    /// Whether voters are asked to disregard a living leader.
    pub(super) fn is_transfer(self) -> bool {
        self != Cause::Timeout
    }
}

/// The answers to a campaign.
#[derive(Debug, Default)]
pub(super) struct Votes {
    pub(super) granted: BTreeSet<NodeId>,
    pub(super) refused: BTreeSet<NodeId>,
    pub(super) cause: Cause,
    pub(super) age_ticks: u32,
    /// The longest that, by the promises of those who voted, the former leader's lease may run.
    pub(super) lease_left_ms: u32,
}

/// What only a leader has.
#[derive(Debug)]
pub(super) struct Leadership {
    /// Everyone replicated to: the members but itself, and those leaving.
    pub(super) progress: BTreeMap<NodeId, Progress>,
    /// The newest round that a majority answered.
    pub(super) confirmed: u64,
    /// `confirmed`, but frozen from the moment on at which another may be elected at this leader's
    /// own wish.
    pub(super) confirmed_for_lease: u64,
    pub(super) heartbeat_in: u32,
    /// While not zero, the former leader's lease may run. It must not be handed on meanwhile: who
    /// is handed leadership by its leader waits for no lease.
    pub(super) old_lease_ticks: u32,
    /// The bytes appended and not committed.
    pub(super) uncommitted_bytes: usize,
    /// The first entry of this term.
    pub(super) first: LogIndex,
    pub(super) transfer: Option<Transfer>,
    pub(super) reads: Vec<PendingRead>,
}

/// Changed only by the `become_*` functions.
#[derive(Debug)]
pub(super) enum Role {
    Follower,
    PreCandidate(Votes),
    Candidate(Votes),
    Leader(Box<Leadership>),
}

/// The leader's port refuses connections: it is probably gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspicion {
    pub(super) leader: NodeId,
    pub(super) ticks_left: u32,
}

/// What the next `Ready` will carry.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) messages: Vec<Outgoing>,
    pub(super) promises: Vec<Outgoing>,
    pub(super) reads: Vec<ReadReady>,
    pub(super) notes: Vec<Note>,
}

/// One server of the cluster, as a state machine: see this folder's README.md.
///
/// Invariants: see `assert_invariants`.
#[derive(Debug)]
pub struct Node {
    pub(super) config: Config,
    pub(super) prng: Prng,
    pub(super) term: Term,
    /// Who has this node's vote in `term`.
    pub(super) vote: Option<NodeId>,
    pub(super) log: Log,
    pub(super) role: Role,
    /// Who leads `term`, as far as known.
    pub(super) leader: Option<NodeId>,
    pub(super) may_vote: bool,
    /// Ticks until the election timeout; runs while this node does not lead.
    pub(super) campaign_in: u32,
    /// Ticks since a leader was heard; saturates.
    pub(super) heard_ticks: u32,
    /// While not zero, a leader may count on this node to elect no other (dissertation §4.2.3).
    /// Runs on while this node itself leads: the promise was to another.
    pub(super) lease_ticks: u32,
    /// How long the promise to the leader heard last was when it was given.
    pub(super) promised_ticks: u32,
    pub(super) suspicion: Option<Suspicion>,
    /// The log is known to equal that of the leader of `term` up to here. Only memory: a restart
    /// forgets it, since a disk may have been restored meanwhile.
    pub(super) verified: LogIndex,
    /// The newest heartbeat round. Never falls, so that no answer fits two rounds.
    pub(super) round: u64,
    /// Whether the messages of `round` have not left yet.
    pub(super) round_unsent: bool,
    /// Reads asked of the leader, with the ticks left to wait.
    pub(super) forwarded: BTreeMap<u64, u32>,
    pub(super) out: Outbox,
    /// The last leader told to the operator.
    pub(super) noted_leader: Option<(Term, NodeId)>,
    /// The latest snapshot on the disk: what a follower gets that is behind the log's base.
    pub(super) snapshot: Option<SnapshotMeta>,
    /// The snapshot that a leader is sending, as far as it came.
    pub(super) incoming: Option<Incoming>,
    /// A snapshot that came whole, for the next `Ready`.
    pub(super) installing: Option<(SnapshotMeta, Vec<u8>)>,
    /// What is durable.
    pub(super) stored: HardState,
    /// What will be once the `Ready` at hand is advanced.
    storing: Option<HardState>,
}

impl Node {
    /// A follower with what was found on disk. Committed entries come out of `ready` again, from
    /// the first behind the snapshot on. It neither votes nor campaigns before
    /// `set_may_vote(true)` or `bootstrap`.
    pub fn new(config: Config, restored: Restored, seed: u64) -> Result<Node, ConfigError> {
        config.validate()?;
        check_restored(&restored)?;
        let Restored { mut hard_state, snapshot, base, entries } = restored;
        let stored = hard_state;
        let (applied, membership) = match &snapshot {
            Some(snapshot) => (snapshot.last, snapshot.membership.clone()),
            None => (EntryId::default(), Membership::default()),
        };
        // A snapshot may be on the disk before the term in which it came: nothing was promised in
        // that term then.
        if applied.term > hard_state.term {
            hard_state = HardState { term: applied.term, vote: None, ..hard_state };
        }
        let log = Log::new(base, entries, applied.index, membership, hard_state.commit);
        // It may have acked a leader just before the crash; that leader may count on it.
        let promised = hard_state.term > Term(0) && !bugs::on(Bug::RestartForgetsPromise);
        let lease_ticks = if promised { config.election_timeout_ticks } else { 0 };
        let mut node = Node {
            prng: Prng::new(seed ^ (u64::from(config.id.get()) << 32)),
            term: hard_state.term,
            vote: hard_state.vote,
            stored: HardState { commit: log.commit(), ..stored },
            snapshot,
            incoming: None,
            installing: None,
            log,
            role: Role::Follower,
            leader: None,
            may_vote: false,
            campaign_in: 0,
            heard_ticks: u32::MAX,
            lease_ticks,
            promised_ticks: lease_ticks,
            suspicion: None,
            verified: LogIndex(0),
            round: 0,
            round_unsent: false,
            forwarded: BTreeMap::new(),
            out: Outbox::default(),
            noted_leader: None,
            storing: None,
            config,
        };
        node.reset_timer();
        node.assert_invariants();
        Ok(node)
    }

    /// One unit of time has passed.
    pub fn tick(&mut self) {
        match self.role {
            Role::Leader(_) => self.tick_leader(),
            _ => self.tick_follower(),
        }
        self.assert_invariants();
    }

    /// Appends `command` to the log if this node leads. Whether it commits shows in `Ready`.
    pub fn propose(&mut self, command: Vec<u8>) -> Result<EntryId, ProposeError> {
        self.check_proposal(command.len())?;
        let id = self.append_own(Payload::Command(command));
        self.assert_invariants();
        Ok(id)
    }

    /// Whether votes may be given: not while this node may have forgotten some. `false` ends a
    /// campaign or a leadership.
    pub fn set_may_vote(&mut self, allowed: bool) {
        self.may_vote = allowed;
        if !allowed && !matches!(self.role, Role::Follower) {
            self.become_follower(self.term, None, "it may not vote any more");
        }
        if allowed && self.is_sole_voter() {
            self.campaign_in = 1;
        }
        self.assert_invariants();
    }

    /// Applies new timeouts at once. What was promised under the old ones holds.
    pub fn set_timeouts(
        &mut self,
        election_timeout_ticks: u32,
        heartbeat_ticks: u32,
    ) -> Result<(), ConfigError> {
        let config = Config { election_timeout_ticks, heartbeat_ticks, ..self.config.clone() };
        config.validate()?;
        self.config = config;
        match self.lead_mut() {
            Some(lead) => lead.heartbeat_in = lead.heartbeat_in.min(heartbeat_ticks),
            None => self.reset_timer(),
        }
        self.assert_invariants();
        Ok(())
    }

    /// The link to `peer` closed: what was on its way to it is lost.
    pub fn peer_unreachable(&mut self, peer: NodeId) {
        if let Some(progress) = self.progress_of(peer) {
            progress.lose_link();
        }
        self.assert_invariants();
    }

    /// The work that came up, or `None`. The next one comes only after `advance`.
    pub fn ready(&mut self) -> Option<Ready> {
        if self.storing.is_some() {
            return None;
        }
        self.flush_appends();
        let entries = self.log.take_unstored();
        let hard = HardState { term: self.term, vote: self.vote, commit: self.log.commit() };
        let snapshot = self.installing.take();
        let committed = self.log.take_committed(COMMITTED_BYTES_MAX);
        let out = std::mem::take(&mut self.out);
        let voted = (hard.term, hard.vote) != (self.stored.term, self.stored.vote);
        let ready = Ready {
            must_sync: voted || snapshot.is_some() || !entries.is_empty(),
            hard_state: (hard != self.stored || snapshot.is_some()).then_some(HardState {
                vote: hard.vote.filter(|_| !bugs::on(Bug::VoteNotStored)),
                ..hard
            }),
            snapshot,
            messages: out.messages,
            entries,
            committed,
            reads: out.reads,
            notes: out.notes,
            promises: out.promises,
        };
        self.assert_invariants();
        // A round is news even where there is nobody to tell: a sole voter's lease is counted from
        // when it "left".
        let idle = !self.round_unsent
            && ready.hard_state.is_none()
            && ready.messages.is_empty()
            && ready.entries.is_empty()
            && ready.committed.is_empty()
            && ready.reads.is_empty()
            && ready.notes.is_empty()
            && ready.promises.is_empty();
        if idle {
            return None;
        }
        self.round_unsent = false;
        self.storing = Some(hard);
        Some(ready)
    }

    /// The last `Ready` was carried out: what it stored is durable, and counts from now on.
    pub fn advance(&mut self, _stored: Durable) {
        let Some(hard) = self.storing.take() else { return };
        self.stored = hard;
        self.log.stored();
        match self.role {
            Role::Candidate(_) => self.count_own_vote(),
            Role::Leader(_) => self.advance_commit(),
            _ => {}
        }
        self.forget_needless_snapshot();
        self.assert_invariants();
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.config.id
    }

    /// The latest term seen.
    pub fn term(&self) -> Term {
        self.term
    }

    /// What this node is.
    pub fn role(&self) -> RoleKind {
        match self.role {
            Role::Leader(_) => RoleKind::Leader,
            Role::Candidate(_) => RoleKind::Candidate,
            Role::PreCandidate(_) => RoleKind::PreCandidate,
            Role::Follower if self.membership().learners.contains(&self.id()) => RoleKind::Learner,
            Role::Follower => RoleKind::Follower,
        }
    }

    /// Who leads the current term, as far as known; this node itself if it does.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// The end of the log.
    pub fn last(&self) -> EntryId {
        self.log.last()
    }

    /// Everything up to here is committed.
    pub fn commit(&self) -> LogIndex {
        self.log.commit()
    }

    /// The latest membership in the log, which is the one in force.
    pub fn membership(&self) -> &Membership {
        self.log.membership()
    }

    /// The latest membership that is committed.
    pub fn committed_membership(&self) -> &Membership {
        self.log.committed_membership()
    }

    /// Whether a membership change must wait: one is uncommitted, or nothing of the current term is
    /// committed.
    pub fn pending_change(&self) -> bool {
        self.log.membership_index() > self.log.commit() || !self.committed_in_term()
    }

    /// The newest heartbeat round this leader started.
    pub fn current_round(&self) -> u64 {
        self.round
    }

    /// The newest round of this leadership that a majority of the voters answered, this node
    /// included; zero for none. Does not move once `TimeoutNow` was sent: the voters' promise to
    /// elect no other does not hold then.
    pub fn confirmed_round(&self) -> u64 {
        self.lead().map_or(0, |lead| lead.confirmed_for_lease)
    }

    /// The lease that the answers to `confirmed_round` give, from when that round was sent: three
    /// quarters of the shortest promise in a majority, so that clocks may run at different rates.
    pub fn lease_ms(&self) -> u32 {
        let confirmed = self.lead().map_or(0, |lead| lead.confirmed_for_lease);
        let promised = self.majority_reached(u64::from(self.promise_ms()), |progress| {
            if progress.acked_round >= confirmed { u64::from(progress.promise_ms) } else { 0 }
        });
        (promised * 3 / 4) as u32
    }

    /// For how long this node votes for nobody else, when it answers a leader. One tick less than
    /// it waits, because the first tick may come at once.
    pub(super) fn promise_ms(&self) -> u32 {
        (self.config.election_timeout_ticks - 1) * self.config.tick_ms
    }

    /// For how long the leader heard last may still hold its lease: of the promise it builds on, a
    /// quarter less (`lease_ms`). One tick more, because a promise's first tick may come at once.
    pub(super) fn lease_left_ms(&self) -> u32 {
        if self.lease_ticks == 0 {
            return 0;
        }
        (self.lease_ticks + 1).saturating_sub(self.promised_ticks / 4) * self.config.tick_ms
    }

    /// The entry at `index`.
    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.log.entry(index)
    }

    /// Of a leader: how each other member is doing.
    pub fn progress(&self) -> impl Iterator<Item = (NodeId, PeerProgress)> + '_ {
        let timeout = self.config.election_timeout_ticks;
        let all = self.lead().into_iter().flat_map(|lead| lead.progress.iter());
        all.filter(|(_, progress)| progress.leaving.is_none()).map(move |(node, progress)| {
            let view = PeerProgress {
                matched: progress.matched,
                recent_active: progress.heard && progress.silent_ticks < timeout,
                acked_round: progress.acked_round,
                state: progress.state,
            };
            (*node, view)
        })
    }

    /// Of a leader: whether a majority answered within the shortest election timeout. Of others:
    /// whether a leader was heard within it.
    pub fn has_quorum(&self) -> bool {
        match &self.role {
            Role::Leader(_) => self.quorum_active(),
            _ => self.leader.is_some() && self.heard_ticks < self.config.election_timeout_ticks,
        }
    }

    /// Ticks since a leader was heard, `u32::MAX` for never; of a leader, zero.
    pub fn heard_from_leader_ticks(&self) -> u32 {
        if self.lead().is_some() { 0 } else { self.heard_ticks }
    }

    /// Panics where this node's state contradicts itself. Every public method ends with it in debug
    /// builds.
    pub fn assert_invariants(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        self.log.assert_invariants();
        let snapshot = self.snapshot.as_ref().map_or(EntryId::default(), |meta| meta.last);
        assert!(self.log.base().index <= snapshot.index, "no snapshot stands for what is dropped");
        assert!(snapshot.index <= self.log.handed(), "a snapshot of what is not applied");
        if let Some(incoming) = &self.incoming {
            incoming.assert_invariants(self.log.commit());
        }
        assert!(self.stored.term <= self.term, "the stored term is from the future");
        assert!(self.log.last().term <= self.term, "an entry is from a future term");
        assert!(self.verified <= self.log.last().index, "verified beyond the log");
        match &self.role {
            Role::Follower => assert_ne!(self.leader, Some(self.id()), "a follower follows itself"),
            Role::PreCandidate(votes) => {
                assert!(self.may_vote, "asks for votes and may not vote");
                assert!(votes.granted.contains(&self.id()), "does not want itself");
            }
            Role::Candidate(_) => {
                assert!(self.may_vote, "asks for votes and may not vote");
                assert_eq!(self.vote, Some(self.id()), "a candidate votes for itself");
                assert_eq!(self.leader, None, "a candidate has no leader");
            }
            Role::Leader(lead) => self.assert_leader(lead),
        }
    }

    fn assert_leader(&self, lead: &Leadership) {
        assert_eq!(self.leader, Some(self.id()), "a leader follows another");
        assert_eq!((self.stored.term, self.stored.vote), (self.term, Some(self.id())));
        assert!(lead.confirmed <= self.round, "a round was confirmed before it began");
        let membership = self.membership();
        for (node, progress) in &lead.progress {
            progress.assert_invariants();
            assert_eq!(membership.contains(*node), progress.leaving.is_none());
            assert!(
                progress.matched <= self.log.last().index,
                "a follower has more than the leader"
            );
        }
        for node in membership.voters.iter().chain(&membership.learners) {
            assert!(
                *node == self.id() || lead.progress.contains_key(node),
                "a member is forgotten"
            );
        }
    }

    pub(super) fn lead(&self) -> Option<&Leadership> {
        match &self.role {
            Role::Leader(lead) => Some(lead),
            _ => None,
        }
    }

    pub(super) fn lead_mut(&mut self) -> Option<&mut Leadership> {
        match &mut self.role {
            Role::Leader(lead) => Some(lead),
            _ => None,
        }
    }

    pub(super) fn progress_of(&mut self, peer: NodeId) -> Option<&mut Progress> {
        self.lead_mut()?.progress.get_mut(&peer)
    }

    pub(super) fn is_voter(&self) -> bool {
        self.membership().voters.contains(&self.id())
    }

    pub(super) fn is_sole_voter(&self) -> bool {
        self.is_voter() && self.membership().voters.len() == 1
    }

    /// Whether the leader of this term committed an entry of it: it knows what is committed
    /// (Raft §8) and may change the membership.
    pub(super) fn committed_in_term(&self) -> bool {
        self.log.term_at(self.log.commit()) == self.term
    }

    /// The largest value that a majority of the voters reached.
    pub(super) fn majority_reached(&self, own: u64, of: impl Fn(&Progress) -> u64) -> u64 {
        let Some(lead) = self.lead() else { return 0 };
        quorum::reached_by_majority(&self.membership().voters, |voter| {
            if voter == self.id() { own } else { lead.progress.get(&voter).map_or(0, &of) }
        })
    }

    pub(super) fn note(&mut self, note: Note) {
        self.out.notes.push(note);
    }

    /// Queues what may leave before anything is stored.
    pub(super) fn send(&mut self, to: NodeId, body: Body) {
        let message = Message { term: self.term, body };
        self.out.messages.push(Outgoing { to, message });
    }

    /// Queues what may leave only once everything up to here is stored.
    pub(super) fn send_stored(&mut self, to: NodeId, body: Body) {
        let message = Message { term: self.term, body };
        self.out.promises.push(Outgoing { to, message });
    }

    /// Queues an answer that says only that this node follows the leader of its term: at once where
    /// that term is durable, so that a crash cannot take the node back before it.
    pub(super) fn send_following(&mut self, to: NodeId, body: Body) {
        if self.stored.term == self.term { self.send(to, body) } else { self.send_stored(to, body) }
    }
}

fn check_restored(restored: &Restored) -> Result<(), ConfigError> {
    let Restored { hard_state, snapshot, base, entries } = restored;
    let mut before = *base;
    for entry in entries {
        let index = before.index.next();
        if entry.id.index != index || entry.id.term < before.term || entry.id.term == Term(0) {
            return Err(ConfigError::LogBroken { index, found: entry.id });
        }
        before = entry.id;
    }
    if !entries.is_empty() && before.term > hard_state.term {
        return Err(ConfigError::TermBehindLog { term: hard_state.term, last: before });
    }
    let ends = match snapshot {
        Some(snapshot) if !is_well_formed(snapshot) => {
            return Err(ConfigError::SnapshotInvalid { last: snapshot.last });
        }
        Some(snapshot) => snapshot.last,
        None => EntryId::default(),
    };
    let holds_end = match ends.index.0.checked_sub(base.index.0) {
        None => false,
        Some(0) => ends == *base,
        Some(distance) => entries.get(distance as usize - 1).is_some_and(|entry| entry.id == ends),
    };
    if !holds_end {
        return Err(ConfigError::SnapshotApart { snapshot: ends, base: *base, last: before });
    }
    Ok(())
}

/// Whether a node could have made such a snapshot.
pub(super) fn is_well_formed(snapshot: &SnapshotMeta) -> bool {
    let SnapshotMeta { last, membership: Membership { voters, learners }, bytes, .. } = snapshot;
    last.term > Term(0)
        && (1..=i64::MAX as u64).contains(&last.index.0)
        && (1..=SNAPSHOT_BYTES_MAX).contains(bytes)
        && !voters.is_empty()
        && voters.is_disjoint(learners)
        && voters.len() + learners.len() <= MEMBERS_MAX
}
