//! Requests under way, but for those to the store (`store`, `reads`): each is carried out here if
//! this node leads, forwarded to the leader if not, and answered when what it asked for is
//! committed and applied, or when its time is over.
//!
//! A request that comes back without an outcome (leadership lost, link cut) is tried again: each of
//! them says what shall be, so that doing it twice is doing it once.

use crate::cluster::{Answer, Done, FailureKind, Request};
use crate::raft::{EntryId, LogIndex, NodeId, RoleKind, Term};
use crate::wire::Packet;

use super::commands::Step;
use super::consensus::Consensus;
use super::effects::Effects;
use super::failures;

/// Requests under way at once: SQL's command slots, and as many forwarded by others.
const REQUESTS_MAX: usize = 256;
/// How long the leader works on a request that another node forwarded. The asker has its own limit.
const FORWARDED_NS_MAX: u64 = 60_000_000_000;

/// A node that was silent for so long counts as not reached: each says something once a second.
const SILENT_US: i64 = 2_500_000;

/// Who waits for the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    /// A backend of this server.
    Local {
        /// Its number for the request.
        token: u64,
    },
    /// Another node.
    Remote {
        /// Which.
        node: NodeId,
        /// Its number for the request.
        request_id: u64,
    },
}

/// How far a request is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Not begun, or to be tried again.
    Waiting,
    /// In the log as this entry.
    Proposed(EntryId),
    /// Leadership goes to `to`, from this node, the leader in `term`.
    HandingOver {
        /// The next leader.
        to: NodeId,
        /// The term that ends.
        term: Term,
    },
    /// An election was forced when `after` was the term.
    Electing {
        /// The term that ends.
        after: Term,
        /// When it counts as failed.
        until_ns: u64,
    },
    /// The leader `to` works on it.
    Forwarded {
        /// Whom it was sent to.
        to: NodeId,
    },
    /// Done; the answer waits until this node, too, has applied what it did.
    Applying {
        /// The entry to wait for.
        index: LogIndex,
        /// The answer.
        done: Done,
    },
}

/// One request under way.
#[derive(Debug)]
pub struct Pending {
    /// This node's number for it.
    pub id: u64,
    /// Who waits.
    pub asker: Asker,
    /// What is asked.
    pub request: Request,
    /// When its time is over, CLOCK_BOOTTIME.
    pub deadline_ns: u64,
    /// How far it is.
    pub stage: Stage,
}

/// All of them, oldest first.
#[derive(Debug, Default)]
pub struct Requests {
    pending: Vec<Pending>,
    last_id: u64,
    /// When this node last forced an election: not again within an election timeout.
    pub forced_ns: Option<u64>,
}

impl Requests {
    /// No number repeats one of a former run: its answer may yet come.
    pub fn new(boots: u64) -> Requests {
        Requests { last_id: boots << 32, ..Requests::default() }
    }

    /// A number that no packet of this node carried before.
    pub fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// An entry was applied: the requests that wait for its index are done, or were overwritten.
    pub fn applied(&mut self, entry: EntryId) {
        for pending in &mut self.pending {
            match pending.stage {
                Stage::Proposed(own) if own == entry => {
                    let done = Done { value: true, ..Done::default() };
                    pending.stage = Stage::Applying { index: entry.index, done };
                }
                Stage::Proposed(own) if own.index <= entry.index => pending.stage = Stage::Waiting,
                _ => {}
            }
        }
    }
}

fn is_removal_of(request: &Request, node: NodeId) -> bool {
    matches!(request, Request::RemoveNode { node: leaving, .. } if *leaving == node)
}

fn is_transfer_to(request: &Request, leader: Option<NodeId>) -> bool {
    matches!(request, Request::TransferLeadership { node } if Some(*node) == leader)
}

impl<E: Effects> Consensus<E> {
    /// A backend asks. Changes of the store and reads go ways of their own.
    pub(super) fn on_request(&mut self, token: u64, request: Request, timeout_ms: u32) {
        let deadline_ns = self.fx.now_ns() + u64::from(timeout_ms) * 1_000_000;
        match request {
            Request::Store { change, .. } => self.ask_write(token, change, deadline_ns),
            Request::Get { .. } | Request::Keys { .. } | Request::Items { .. } => {
                self.ask_read(token, request, deadline_ns);
            }
            request => self.ask(Asker::Local { token }, request, deadline_ns),
        }
    }

    /// A new request; it is served at the next `settle`.
    fn ask(&mut self, asker: Asker, request: Request, deadline_ns: u64) {
        if self.requests.pending.len() >= REQUESTS_MAX {
            return self.answer(asker, LogIndex(0), Err(failures::busy(REQUESTS_MAX)));
        }
        let id = self.requests.next_id();
        let stage = Stage::Waiting;
        self.requests.pending.push(Pending { id, asker, request, deadline_ns, stage });
    }

    /// Another node asks its leader.
    pub(super) fn on_forward(&mut self, node: NodeId, request_id: u64, request: Request) {
        if let Request::Store { id: Some(id), change } = request {
            return self.on_forwarded_write(node, request_id, id, change);
        }
        let asker = Asker::Remote { node, request_id };
        if self.requests.pending.iter().any(|pending| pending.asker == asker) {
            return;
        }
        let deadline_ns = self.fx.now_ns() + FORWARDED_NS_MAX;
        self.ask(asker, request, deadline_ns);
    }

    /// The leader answers what this node forwarded.
    pub(super) fn on_answer(&mut self, from: NodeId, id: u64, index: LogIndex, answer: Answer) {
        let found = self.requests.pending.iter_mut().find(|pending| pending.id == id);
        let Some(pending) = found else { return self.on_write_answer(from, id, answer) };
        if pending.stage != (Stage::Forwarded { to: from }) {
            return;
        }
        match answer {
            Ok(done) => pending.stage = Stage::Applying { index, done },
            // It is no longer the leader, or could not say: the next one will.
            Err(failure) if failure.kind == FailureKind::OutcomeUnknown => {
                pending.stage = Stage::Waiting;
            }
            Err(failure) => {
                let asker = pending.asker;
                self.requests.pending.retain(|pending| pending.id != id);
                self.answer(asker, index, Err(failure));
            }
        }
    }

    /// Moves every request on as far as it can go now.
    pub(super) fn serve_requests(&mut self) {
        self.promote_learner();
        let now = self.fx.now_ns();
        for mut pending in std::mem::take(&mut self.requests.pending) {
            match self.serve(&mut pending, now) {
                Some((index, answer)) => self.answer(pending.asker, index, answer),
                None => self.requests.pending.push(pending),
            }
        }
    }

    /// One request; `Some`: it is over.
    fn serve(&mut self, pending: &mut Pending, now_ns: u64) -> Option<(LogIndex, Answer)> {
        let at_once = |answer| Some((LogIndex(0), answer));
        if self.removed && is_removal_of(&pending.request, self.identity.node) {
            // The leader's answer finds no connection any more.
            return at_once(Ok(Done { value: true, ..Done::default() }));
        }
        match &pending.stage {
            Stage::Applying { index, done } if self.cluster.applied >= *index => {
                return Some((*index, Ok(done.clone())));
            }
            Stage::HandingOver { to, term } => {
                if let Some(answer) = self.handed_over(pending, *to, *term) {
                    return at_once(answer);
                }
            }
            Stage::Electing { after, until_ns } => {
                if let Some(answer) = self.elected(*after, *until_ns, now_ns) {
                    return at_once(answer);
                }
            }
            Stage::Forwarded { to } if self.node.leader() != Some(*to) => {
                if is_transfer_to(&pending.request, self.node.leader()) {
                    return at_once(Ok(Done { value: true, ..Done::default() }));
                }
                pending.stage = Stage::Waiting;
            }
            Stage::Waiting
            | Stage::Proposed(_)
            | Stage::Forwarded { .. }
            | Stage::Applying { .. } => {}
        }
        if pending.stage == Stage::Waiting {
            match self.begin(pending, now_ns) {
                Step::Over(answer) => return at_once(answer),
                Step::Now(stage) => pending.stage = stage,
            }
        }
        (now_ns >= pending.deadline_ns).then(|| (LogIndex(0), self.out_of_time(pending)))
    }

    fn begin(&mut self, pending: &Pending, now_ns: u64) -> Step {
        if matches!(pending.request, Request::ForceElection) {
            return self.force_election(now_ns);
        }
        if matches!(pending.request, Request::Stop) {
            return self.stop();
        }
        if self.is_unformed() {
            return self.while_unformed(&pending.request);
        }
        if self.removed && matches!(pending.asker, Asker::Local { .. }) {
            return Step::Over(Err(failures::removed(&self.config.cluster_id)));
        }
        if self.node.role() == RoleKind::Leader {
            return self.command(&pending.request);
        }
        match (self.node.leader(), pending.asker) {
            (Some(leader), Asker::Local { .. }) if self.links.route(leader).is_some() => {
                let packet =
                    Packet::Forward { request_id: pending.id, request: pending.request.clone() };
                self.send(leader, packet);
                Step::Now(Stage::Forwarded { to: leader })
            }
            // Forwarded once is enough: the asker finds the new leader itself.
            (_, Asker::Remote { .. }) => Step::Over(Err(failures::not_leader())),
            _ => Step::Now(Stage::Waiting),
        }
    }

    fn handed_over(&self, pending: &Pending, to: NodeId, term: Term) -> Option<Answer> {
        let stopping = pending.request == Request::Stop;
        let still_leader = self.node.role() == RoleKind::Leader && self.node.term() == term;
        let done = |value, warning: String| Ok(Done { value, warning, ..Done::default() });
        match self.node.leader() {
            _ if still_leader && (self.node.transferring().is_some() || self.is_moving()) => None,
            _ if still_leader && stopping => Some(done(true, String::new())),
            _ if still_leader => Some(self.not_taken_over(pending, to)),
            _ if stopping => Some(done(true, String::new())),
            Some(leader) if leader == to || pending.request == Request::ForceElection => {
                Some(done(true, String::new()))
            }
            Some(_) => Some(self.not_taken_over(pending, to)),
            None => None,
        }
    }

    fn not_taken_over(&self, pending: &Pending, to: NodeId) -> Answer {
        if pending.request == Request::ForceElection {
            let warning = format!("node {to} did not take over within an election timeout");
            return Ok(Done { value: false, warning, ..Done::default() });
        }
        Err(failures::not_taken_over(to))
    }

    fn elected(&self, after: Term, until_ns: u64, now_ns: u64) -> Option<Answer> {
        if self.node.term() > after && self.node.leader().is_some() {
            return Some(Ok(Done { value: true, ..Done::default() }));
        }
        (now_ns >= until_ns).then(|| {
            let warning = format!("no leader was elected: {}", self.unreached_text());
            Ok(Done { value: false, warning, ..Done::default() })
        })
    }

    fn out_of_time(&self, pending: &Pending) -> Answer {
        let unreached = self.unreached_text();
        match pending.stage {
            Stage::Waiting if self.is_unformed() => Err(failures::unformed(&self.trouble())),
            Stage::Waiting => Err(failures::no_leader(&self.config.cluster_id, &unreached)),
            _ => Err(failures::outcome_unknown(&unreached)),
        }
    }

    /// What to say of who was not reached.
    pub(super) fn unreached_text(&self) -> String {
        match self.unreached() {
            unreached if unreached.is_empty() => "all members were reached".to_owned(),
            unreached => format!("not reached: {unreached}"),
        }
    }

    /// "node 2 (localhost:7401), node 3 (…)"; empty if everyone was.
    pub(super) fn unreached(&self) -> String {
        let unreached: Vec<String> = self
            .known_members()
            .values()
            .filter(|member| member.id != self.identity.node && !self.heard_lately(member.id))
            .map(|member| format!("node {} ({})", member.id, member.raft_address))
            .collect();
        unreached.join(", ")
    }

    /// A server that stands still keeps its connections, and says nothing on them.
    fn heard_lately(&self, node: NodeId) -> bool {
        let now_us = self.fx.unix_us();
        let silence_us = |contact_us| now_us.saturating_sub(contact_us);
        self.links.get(node).is_some_and(|link| silence_us(link.last_contact_unix_us) < SILENT_US)
    }

    fn answer(&mut self, asker: Asker, index: LogIndex, answer: Answer) {
        match asker {
            Asker::Local { token } => self.answers.push((token, answer)),
            Asker::Remote { node, request_id } => {
                self.send(node, Packet::Answer { request_id, index: index.0, answer });
            }
        }
    }
}
