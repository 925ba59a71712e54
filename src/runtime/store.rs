//! Changes of the key/value store: from this server's backends to whoever leads, and into the log.
//!
//! The node asked gives each a [`RequestId`] and keeps it until it has applied the outcome itself,
//! whoever proposed it; until then it asks every new leader again, with the same id, and the state
//! machine sees to it that the change is made once. The leader remembers nothing of what others
//! forward, and answers only what it refuses.

use std::collections::BTreeMap;

use crate::cluster::{
    Answer, Change, Command, Done, Failure, FailureKind, KEY_BYTES_MAX, OUTCOMES_MAX, Request,
    RequestId, Uuid, VALUE_BYTES_MAX,
};
use crate::raft::{EntryId, NodeId, RoleKind, Term};
use crate::shmem::Counter;
use crate::storage::StorageError;
use crate::wire::{self, Packet};

use super::consensus::Consensus;
use super::effects::Effects;
use super::failures;
use super::room::Room;

/// Changes under way at once: many times the command slots, because one whose backend gave up stays
/// until its time is over.
const WRITES_MAX: usize = 1024;

/// How far a change is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// With nobody; asked for again at the next tick, or when somebody else leads.
    Waiting,
    /// In this leader's log.
    Proposed,
    /// Sent to the leader.
    Forwarded {
        /// Whom.
        to: NodeId,
        /// The packet's number.
        number: u64,
        /// When.
        at_ns: u64,
    },
}

/// A change asked for by a backend of this server.
#[derive(Debug)]
struct Write {
    token: u64,
    id: RequestId,
    change: Change,
    deadline_ns: u64,
    stage: Stage,
    /// It was asked for before, and nobody knows what came of that.
    unsure: bool,
}

impl Write {
    /// What to tell the backend of a change that was refused or given up.
    fn failed(&self, why: Failure) -> Failure {
        match self.unsure || self.stage == Stage::Proposed {
            true => failures::write_outcome_unknown(&why.message),
            false => why,
        }
    }
}

/// For whom changes are asked: the leader, its term, and whether this node takes part.
type Course = (Option<NodeId>, Term, bool);

/// The last packet of a node with a change in it: its directory, its session, the packet's number.
type Heard = (Uuid, u64, u64);

/// All changes under way.
#[derive(Debug, Default)]
pub struct Writes {
    /// By serial, that is, oldest first.
    open: BTreeMap<u64, Write>,
    last_serial: u64,
    /// To be begun at the next `settle`.
    due: Vec<u64>,
    /// As of the last `settle`.
    course: Course,
    /// A packet that comes late, behind another or a second time, is as one lost: the sender
    /// already counts on what came of the others.
    heard: BTreeMap<NodeId, Heard>,
    /// As leader.
    pub(super) room: Room,
}

/// Why a leader does not propose a change.
enum Refused {
    /// It does not lead, or not yet: the change may be asked for again.
    Later,
    /// It never will.
    No(Failure),
}

impl Writes {
    /// Someone else leads, or nobody: all that is under way must be asked for anew.
    fn turn_to(&mut self, course: Course) {
        self.course = course;
        self.room = Room::default();
        for write in self.open.values_mut() {
            write.unsure |= write.stage != Stage::Waiting;
            write.stage = Stage::Waiting;
        }
        self.due = self.open.keys().copied().collect();
    }

    /// What waits may find someone to take it.
    pub(super) fn try_again(&mut self) {
        let waiting = self.open.iter().filter(|(_, write)| write.stage == Stage::Waiting);
        self.due = waiting.map(|(serial, _)| *serial).collect();
    }

    /// Whether this packet is news.
    fn hears(&mut self, from: NodeId, (directory, session, number): Heard) -> bool {
        let heard = self.heard.get(&from);
        let news = heard
            .is_none_or(|known| known.0 != directory || (known.1, known.2) < (session, number));
        if news {
            self.heard.insert(from, (directory, session, number));
        }
        news
    }
}

impl<E: Effects> Consensus<E> {
    /// A backend asks; served at the next `settle`.
    pub(super) fn ask_write(&mut self, token: u64, change: Change, deadline_ns: u64) {
        // Longer ones would not even get into the log.
        if let Err(error) = change.check(KEY_BYTES_MAX, VALUE_BYTES_MAX) {
            return self.answers.push((token, Err(failures::beyond_limit(&error))));
        }
        let serial = self.writes.last_serial + 1;
        let oldest = self.writes.open.first_key_value().map_or(serial, |(oldest, _)| *oldest);
        if self.writes.open.len() >= WRITES_MAX || serial - oldest >= OUTCOMES_MAX {
            return self.answers.push((token, Err(failures::busy(WRITES_MAX))));
        }
        let id = RequestId {
            node: self.identity.node,
            directory: self.identity.directory,
            session: self.identity.boots,
            serial,
            oldest,
        };
        let stage = Stage::Waiting;
        let write = Write { token, id, change, deadline_ns, stage, unsure: false };
        self.writes.last_serial = serial;
        self.writes.open.insert(serial, write);
        self.writes.due.push(serial);
    }

    /// Begins what is due.
    pub(super) fn serve_writes(&mut self) {
        let course = (self.node.leader(), self.node.term(), self.removed);
        if course != self.writes.course {
            self.writes.turn_to(course);
        }
        for serial in std::mem::take(&mut self.writes.due) {
            let Some(mut write) = self.writes.open.remove(&serial) else { continue };
            match self.begin_write(&mut write) {
                Some(failure) => self.answers.push((write.token, Err(failure))),
                None => _ = self.writes.open.insert(serial, write),
            }
        }
    }

    /// Asks whoever leads. `Some`: it is over.
    fn begin_write(&mut self, write: &mut Write) -> Option<Failure> {
        if write.stage != Stage::Waiting {
            return None;
        }
        if self.removed {
            return Some(write.failed(failures::removed(&self.config.cluster_id)));
        }
        if !self.takes_part(&write.id) {
            return None;
        }
        match self.node.leader() {
            Some(leader) if leader == self.identity.node => {
                match self.admit(write.id, write.change.clone()) {
                    Ok(()) => write.stage = Stage::Proposed,
                    Err(Refused::Later) => {}
                    Err(Refused::No(why)) => return Some(write.failed(why)),
                }
            }
            Some(leader) if self.links.route(leader).is_some() => {
                let number = self.requests.next_id();
                let request = Request::Store { id: Some(write.id), change: write.change.clone() };
                self.send(leader, Packet::Forward { request_id: number, request });
                let at_ns = self.fx.now_ns();
                write.stage = Stage::Forwarded { to: leader, number, at_ns };
            }
            _ => {}
        }
        None
    }

    /// Whether the state machine will take a request of this node and directory, as far as known.
    fn takes_part(&self, id: &RequestId) -> bool {
        let member = self.cluster.members.get(&id.node);
        member.is_some_and(|member| member.directory == Some(id.directory))
    }

    /// As leader: puts the change into the log, unless it was there before.
    fn admit(&mut self, id: RequestId, change: Change) -> Result<(), Refused> {
        // What former leaders left in the log may be this very request, and takes up room, too.
        let settled = self.applied_term == self.node.term();
        if self.node.role() != RoleKind::Leader || !settled || !self.takes_part(&id) {
            return Err(Refused::Later);
        }
        if self.cluster.sessions.is_over(&id) {
            return Ok(()); // who asked learns it from its own log
        }
        let (key_max, value_max) = (self.config.kv_key_bytes_max, self.config.kv_value_bytes_max);
        if let Err(error) = change.check(key_max, value_max) {
            return Err(Refused::No(failures::beyond_limit(&error)));
        }
        let bytes_max = self.config.kv_store_bytes_max;
        if !self.writes.room.fits(&self.cluster.store, &change, bytes_max) {
            let bytes = self.cluster.store.bytes();
            return Err(Refused::No(failures::store_full(bytes, bytes_max)));
        }
        let command = Command::Store { id, change };
        let mut bytes = Vec::new();
        wire::encode_command(&command, &mut bytes);
        // It hands over, or too much is under way: later.
        let entry = self.node.propose(bytes).map_err(|_| Refused::Later)?;
        if let Command::Store { change, .. } = &command {
            self.writes.room.proposed(&self.cluster.store, change, entry.index);
        }
        Ok(())
    }

    /// Another node's backend asks, and this one leads, or did.
    pub(super) fn on_forwarded_write(
        &mut self,
        from: NodeId,
        number: u64,
        id: RequestId,
        change: Change,
    ) {
        let own = id.node == from && self.takes_part(&id);
        if own && !self.writes.hears(from, (id.directory, id.session, number)) {
            return;
        }
        let answer = match if own { self.admit(id, change) } else { Err(Refused::Later) } {
            Ok(()) => return,
            Err(Refused::Later) => Err(failures::not_leader()),
            Err(Refused::No(why)) => Err(why),
        };
        self.send(from, Packet::Answer { request_id: number, index: 0, answer });
    }

    /// The leader refuses what this node forwarded.
    pub(super) fn on_write_answer(&mut self, from: NodeId, number: u64, answer: Answer) {
        let asked = |write: &Write| {
            matches!(write.stage, Stage::Forwarded { to, number: own, .. }
                if to == from && own == number)
        };
        let Some(write) = self.writes.open.values_mut().find(|write| asked(write)) else { return };
        match answer {
            Ok(_) => {} // no leader says so: the log does
            Err(why) if why.kind == FailureKind::OutcomeUnknown => write.stage = Stage::Waiting,
            Err(why) => {
                let (serial, token, failure) = (write.id.serial, write.token, write.failed(why));
                self.writes.open.remove(&serial);
                self.answers.push((token, Err(failure)));
            }
        }
    }

    /// A request of any node had its turn in the log.
    pub(super) fn on_stored(&mut self, id: RequestId, outcome: Option<bool>) {
        let own = id.node == self.identity.node
            && id.directory == self.identity.directory
            && id.session == self.identity.boots;
        // Without an outcome it was no member's at that moment: what came of earlier ones is open.
        if let (true, Some(done)) = (own, outcome) {
            self.finish_write(id.serial, done);
        }
    }

    fn finish_write(&mut self, serial: u64, done: bool) {
        if let Some(write) = self.writes.open.remove(&serial) {
            self.fx.count(Counter::StoreWrites, 1);
            self.answers.push((write.token, Ok(Done { value: done, ..Done::default() })));
        }
    }

    /// The state was replaced by a snapshot up to `last`, in which requests of this node may have
    /// had their turn.
    pub(super) fn restored(&mut self, last: EntryId) {
        self.applied_term = last.term;
        let own = (self.identity.directory, self.identity.boots);
        let session = self.cluster.sessions.get(self.identity.node);
        if let Some(session) = session.filter(|known| (known.directory, known.session) == own) {
            let open = self.writes.open.keys();
            let outcome = |serial| Some((serial, *session.outcomes.get(&serial)?));
            let finished: Vec<(u64, bool)> = open.filter_map(|serial| outcome(*serial)).collect();
            for (serial, done) in finished {
                self.finish_write(serial, done);
            }
        }
    }

    /// This node was removed: its session is over even if it comes back, so it begins another.
    pub(super) fn renew_session(&mut self) -> Result<(), StorageError> {
        let Some(session) = self.cluster.sessions.get(self.identity.node) else { return Ok(()) };
        let own = (self.identity.directory, self.identity.boots);
        if !session.closed || (session.directory, session.session) != own {
            return Ok(());
        }
        self.identity.boots += 1;
        self.fx.store_identity(&self.identity)?;
        for write in std::mem::take(&mut self.writes.open).into_values() {
            let failure = write.failed(failures::removed(&self.config.cluster_id));
            self.answers.push((write.token, Err(failure)));
        }
        Ok(())
    }

    /// Ends what has run out of time; asks anew for what waits or got no answer.
    pub(super) fn tick_writes(&mut self) {
        let now = self.fx.now_ns();
        let patience_ns = u64::from(self.config.election_timeout_ms) * 1_000_000;
        let mut late = Vec::new();
        for (serial, write) in &mut self.writes.open {
            let lost = matches!(write.stage, Stage::Forwarded { at_ns, .. }
                if now.saturating_sub(at_ns) >= patience_ns);
            if now >= write.deadline_ns {
                late.push(*serial);
            } else if lost || write.stage == Stage::Waiting {
                write.unsure |= lost;
                write.stage = Stage::Waiting;
                self.writes.due.push(*serial);
            }
        }
        for serial in late {
            let Some(write) = self.writes.open.remove(&serial) else { continue };
            let failure = self.write_out_of_time(&write);
            self.answers.push((write.token, Err(failure)));
        }
    }

    fn write_out_of_time(&self, write: &Write) -> Failure {
        let unreached = self.unreached_text();
        match write.stage {
            Stage::Waiting if !write.unsure => self.nobody_asked(&unreached),
            _ => failures::write_outcome_unknown(&unreached),
        }
    }

    /// The time is over, and no leader was ever asked.
    pub(super) fn nobody_asked(&self, unreached: &str) -> Failure {
        if self.is_unformed() {
            failures::unformed(&self.trouble())
        } else if !self.is_member() && !self.cluster.members.is_empty() {
            failures::not_a_member(&self.trouble())
        } else {
            failures::no_leader(&self.config.cluster_id, unreached)
        }
    }
}
