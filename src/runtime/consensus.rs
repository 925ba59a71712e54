//! The consensus loop: an `Event` in, raft's `Ready` carried out, the view shown. One thread owns
//! all of it; the world is behind [`Effects`], so a simulator can run the same code.

use crate::bugs::{self, Bug};
use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::{Address, Answer, Applied, ClusterState, Command, Member, Uuid};
use crate::config::Config;
use crate::net::{ConnId, NetEvent};
use crate::raft::{
    self, Body, Entry, LogIndex, Message, Node, NodeId, Note, Outgoing, Payload, Ready, RoleKind,
    Term,
};
use crate::shmem::{Core, Counter, NodeState};
use crate::storage::{Identity, Recovered, StorageError};
use crate::wire::{self, Hello, PROTOCOL_NEWEST, PROTOCOL_OLDEST, Packet, Refusal, Report};

use super::effects::Effects;
use super::event::{Event, ToMain};
use super::failover::Failover;
use super::forming::{Forming, Sighting, names_directory};
use super::lease::Lease;
use super::links::Links;
use super::reads::Reads;
use super::requests::Requests;
use super::snapshots::{Snapshots, state_of, without_store};
use super::store::Writes;
use super::ticker::{TICK_MS, ticks};
use super::upkeep::UPKEEP_TICKS;

/// Bytes of log entries in one append message: far below the frame limit, enough to fill a network.
const APPEND_BYTES_MAX: usize = 1 << 20;
/// Appends on the way to one follower; more would only wait in its queue.
const INFLIGHT_MAX: usize = 64;
/// Bytes proposed and not yet committed: what a leader that lost its quorum may pile up.
const PROPOSALS_BYTES_MAX: usize = 64 << 20;

/// This node's part in the cluster.
pub struct Consensus<E: Effects> {
    pub(super) fx: E,
    pub(super) config: Config,
    pub(super) identity: Identity,
    pub(super) pg_port: u16,
    pub(super) node: Node,
    /// What the applied part of the log says.
    pub(super) cluster: ClusterState,
    /// What the whole log said at start, applied or not: whom to dial until more is known.
    pub(super) book: ClusterState,
    pub(super) links: Links,
    pub(super) forming: Forming,
    pub(super) requests: Requests,
    pub(super) snapshots: Snapshots,
    /// Changes of the store.
    pub(super) writes: Writes,
    /// Reads of the store.
    pub(super) reads: Reads,
    pub(super) lease: Lease,
    /// Whose Postgres is primary, and what this one is to be.
    pub(super) failover: Failover,
    /// This node was removed: by what it has applied, or by what another said that refused it. It
    /// dials nobody then; it still votes when it is asked, for who asks may have added it again and
    /// need it.
    pub(super) removed: bool,
    pub(super) report: Report,
    /// The last proposal of an update of a member's record: one at a time.
    pub(super) updating: LogIndex,
    pub(super) upkeep_in_ticks: u32,
    /// For this server's backends: told only once the page shows what they changed.
    pub(super) answers: Vec<(u64, Answer)>,
    /// What the page shows.
    pub(super) shown: Core,
    /// Something changed that `shown` does not tell: links, records.
    pub(super) changed: bool,
    /// The log moved on, and the members' positions on the page are older.
    pub(super) behind: bool,
    /// The log could not be written: nothing may be said or promised any more.
    pub(super) failed: Option<String>,
    /// Members whose disk lost what they had acknowledged: not to be heard before they are removed.
    pub(super) distrusted: BTreeSet<NodeId>,
    /// The term of the last entry applied.
    pub(super) applied_term: Term,
    /// What was known to be committed when this node started.
    known: LogIndex,
    /// The log or the snapshot holds a record that this directory takes part.
    confirmed: bool,
}

/// What a node is started with.
pub struct Start<E> {
    /// The world.
    pub effects: E,
    /// pgraft.conf.
    pub config: Config,
    /// Who this is.
    pub identity: Identity,
    /// What the log held.
    pub recovered: Recovered,
    /// The port of this node's Postgres.
    pub pg_port: u16,
    /// For raft's randomized timeouts.
    pub seed: u64,
}

/// Why a node does not start.
#[derive(Debug)]
pub enum StartError {
    /// The identity file could not be written.
    Storage(StorageError),
    /// What the log holds contradicts itself.
    Log(raft::ConfigError),
    /// The snapshot holds no state.
    Snapshot(String),
}

/// Raft's settings for `config`.
pub fn raft_config(config: &Config) -> raft::Config {
    raft::Config {
        id: config.node_id,
        tick_ms: TICK_MS,
        election_timeout_ticks: ticks(config.election_timeout_ms),
        heartbeat_ticks: ticks(config.heartbeat_interval_ms),
        append_bytes_max: APPEND_BYTES_MAX,
        inflight_max: INFLIGHT_MAX,
        proposals_bytes_max: PROPOSALS_BYTES_MAX,
    }
}

impl<E: Effects> Consensus<E> {
    /// The node as its disk remembers it.
    pub fn new(start: Start<E>) -> Result<Consensus<E>, StartError> {
        let Start { mut effects, config, mut identity, recovered, pg_port, seed } = start;
        // Before anything is said: what this run asks for must not be taken for a former run's.
        identity.boots += 1;
        effects.store_identity(&identity).map_err(StartError::Storage)?;
        let boots = identity.boots;
        let (cluster, applied_term) = match &recovered.snapshot {
            Some((meta, data)) => {
                (state_of(meta, data).map_err(StartError::Snapshot)?, meta.last.term)
            }
            None => (ClusterState::default(), Term(0)),
        };
        let mut book = without_store(&cluster);
        for entry in &recovered.entries {
            let command = command_of(entry);
            // Of the store there is no need for a second copy.
            if !matches!(command, Some(Command::Store { .. })) {
                book.apply(entry.id, command);
            }
        }
        let own = |entry: &Entry| names_directory(entry, identity.node, identity.directory);
        let listed = cluster.members.get(&identity.node);
        let confirmed = identity.cluster.is_some()
            || listed.is_some_and(|member| member.directory == Some(identity.directory))
            || recovered.entries.iter().any(own);
        let removed = cluster.removed.contains(&identity.node);
        let failover = Failover::new(cluster.applied);
        let known = recovered.hard_state.commit;
        let restored = raft::Restored {
            hard_state: recovered.hard_state,
            snapshot: recovered.snapshot.map(|(meta, _)| meta),
            base: recovered.base,
            entries: recovered.entries,
        };
        let node = Node::new(raft_config(&config), restored, seed);
        let mut node = node.map_err(StartError::Log)?;
        node.set_may_vote(confirmed || bugs::on(Bug::WipedVotes));
        let mut consensus = Consensus {
            fx: effects,
            config,
            identity,
            pg_port,
            node,
            cluster,
            book,
            links: Links::default(),
            forming: Forming::default(),
            requests: Requests::new(boots),
            snapshots: Snapshots::default(),
            writes: Writes::default(),
            reads: Reads::new(boots),
            lease: Lease::default(),
            failover,
            removed,
            report: Report::default(),
            updating: LogIndex(0),
            upkeep_in_ticks: 1,
            answers: Vec::new(),
            shown: Core::default(),
            changed: true,
            behind: false,
            failed: None,
            distrusted: BTreeSet::new(),
            applied_term,
            known,
            confirmed,
        };
        consensus.update_gate();
        consensus.redial();
        consensus.form();
        Ok(consensus)
    }

    /// Raft's state, to be looked at: for simulators and tests.
    pub fn raft(&self) -> &Node {
        &self.node
    }

    /// What is applied, to be looked at: for simulators and tests.
    pub fn cluster(&self) -> &ClusterState {
        &self.cluster
    }

    /// Takes in one event; `settle` must follow, once for any number of them. `false`: end now.
    pub fn handle(&mut self, event: Event) -> bool {
        if self.failed.is_some() {
            return !matches!(event, Event::Stop);
        }
        match event {
            Event::Tick => self.on_tick(),
            Event::Net(event) => self.on_net(event),
            Event::Request { token, request, timeout_ms } => {
                self.on_request(token, request, timeout_ms);
            }
            Event::Report(report) => self.on_report(report),
            Event::Standing { ask, standing } => self.on_own_standing(ask, *standing),
            Event::Flushed { lsn } => self.on_flushed(lsn),
            Event::Hindrance { what, blocked } => self.on_hindrance(what, blocked),
            Event::Probed { address, answers } => self.on_probed(&address, answers),
            Event::SnapshotStored(meta, outcome) => self.on_snapshot_stored(meta, outcome),
            Event::Reconfigure(config) => self.reconfigure(*config),
            Event::Stop => {
                self.lease.end();
                self.show_fence();
                return false;
            }
        }
        true
    }

    /// Carries out what the events so far came to, then shows it.
    pub fn settle(&mut self) {
        loop {
            self.serve_requests();
            self.serve_writes();
            self.serve_reads();
            self.steer();
            self.guard_lease();
            let Some(ready) = self.node.ready() else { break };
            if let Err(error) = self.carry_out(ready) {
                return self.fail(&error);
            }
        }
        self.show();
        for (token, answer) in std::mem::take(&mut self.answers) {
            self.fx.to_main(ToMain::Answer { token, answer });
        }
    }

    fn on_tick(&mut self) {
        self.node.tick();
        self.failover.due = true;
        self.changed |= self.behind;
        self.tick_snapshots();
        self.tick_writes();
        self.tick_reads();
        self.upkeep_in_ticks -= 1;
        if self.upkeep_in_ticks == 0 {
            self.upkeep_in_ticks = UPKEEP_TICKS;
            self.upkeep();
        }
        let now = self.fx.now_ns();
        self.fx.beat(now);
    }

    fn on_net(&mut self, event: NetEvent) {
        match event {
            NetEvent::Connected { hello, address, conn, outbound } => {
                self.on_connected(hello, address, conn, outbound);
            }
            NetEvent::Closed { node, conn, outbound } => self.on_closed(node, conn, outbound),
            NetEvent::PortRefused { address, node } => {
                let node = self.links.at(&address).or(node).or_else(|| self.member_at(&address));
                if let Some(node) = node.filter(|&node| !self.links.hears(node)) {
                    self.node.leader_refused(node);
                }
            }
            NetEvent::HandshakeRefused { address, refusal, by_us, .. } => {
                if let (Some(address), false) = (address, by_us) {
                    self.on_refused(address, refusal);
                }
            }
            NetEvent::Packet { from, packet, .. } => self.on_packet(from, packet),
        }
    }

    fn on_connected(
        &mut self,
        hello: Hello,
        address: Option<Address>,
        conn: ConnId,
        outbound: bool,
    ) {
        self.changed = true;
        let node = hello.node;
        let now = self.fx.unix_us();
        if let Some(useless) = self.links.connected(hello, address, conn, outbound, now) {
            self.fx.hang_up(&useless);
        }
        let report = self.report;
        self.send(node, Packet::Report(report));
        self.redial();
        if self.is_unformed() {
            self.form();
            self.say_sighting();
        }
    }

    fn on_closed(&mut self, node: NodeId, conn: ConnId, outbound: bool) {
        let route = self.links.route(node).cloned().or_else(|| self.address_of(node));
        self.links.closed(node, conn);
        self.node.peer_unreachable(node);
        self.changed = true;
        if !outbound
            && !self.links.hears(node)
            && let Some(address) = route
        {
            // Is it gone, or only this connection? Ask its port at once.
            self.fx.retry_now(&address);
        }
        self.redial();
        self.form();
    }

    fn on_refused(&mut self, address: Address, refusal: Refusal) {
        if refusal == Refusal::Removed && !self.removed && !self.is_unformed() {
            log::warn!("this node was removed from cluster \"{}\"", self.config.cluster_id);
            self.removed = true;
        }
        self.links.refused(address, refusal);
        self.changed = true;
        self.redial();
        self.form();
    }

    fn on_packet(&mut self, from: NodeId, packet: Packet) {
        let now = self.fx.unix_us();
        match self.links.get_mut(from) {
            Some(link) => link.last_contact_unix_us = now,
            None => return, // overtaken by the end of its connection
        }
        match packet {
            Packet::Raft(message) => {
                self.time_round_trip(from, &message);
                self.node.step(from, message);
                if self.node.leader() == Some(from) && self.links.route(from).is_none() {
                    self.redial();
                }
            }
            Packet::Report(report) => {
                if let Some(link) = self.links.get_mut(from) {
                    link.report = report;
                }
                self.heed_report(from, report);
            }
            Packet::Forward { request_id, request } => self.on_forward(from, request_id, request),
            Packet::Answer { request_id, index, answer } => {
                self.on_answer(from, request_id, LogIndex(index), answer);
            }
            Packet::Forming { nodes, complete, cluster } => {
                self.on_forming(from, Sighting { nodes, complete }, cluster);
            }
            Packet::Genesis(genesis) => self.on_genesis(from, genesis),
            Packet::AskStanding(ask) => self.on_ask_standing(from, ask),
            Packet::Standing { ask, standing } => self.on_standing(from, ask, standing),
        }
    }

    fn time_round_trip(&mut self, from: NodeId, message: &Message) {
        let round = match message.body {
            Body::HeartbeatAnswer { round, .. } | Body::AppendAnswer { round, .. } => round,
            _ => return,
        };
        let now = self.fx.now_ns();
        if let (Some(sent), Some(link)) = (self.lease.sent_at(round), self.links.get_mut(from)) {
            link.round_trip_us = now.saturating_sub(sent) / 1_000;
        }
    }

    fn on_report(&mut self, report: Report) {
        if report != self.report {
            self.report = report;
            self.changed = true;
            self.broadcast(&Packet::Report(report));
        }
        self.heed_report(self.identity.node, report);
    }

    fn reconfigure(&mut self, config: Config) {
        let new = raft_config(&config);
        if let Err(error) = self.node.set_timeouts(new.election_timeout_ticks, new.heartbeat_ticks)
        {
            return log::error!("could not apply the timeouts of pgraft.conf: {error}");
        }
        self.config.election_timeout_ms = config.election_timeout_ms;
        self.config.heartbeat_interval_ms = config.heartbeat_interval_ms;
        self.config.snapshot_entries = config.snapshot_entries;
        self.config.log_keep_entries = config.log_keep_entries;
        self.config.kv_key_bytes_max = config.kv_key_bytes_max;
        self.config.kv_value_bytes_max = config.kv_value_bytes_max;
        self.config.kv_store_bytes_max = config.kv_store_bytes_max;
        self.config.auto_failover = config.auto_failover;
        self.config.synchronous = config.synchronous;
        self.config.failover_grace_ms = config.failover_grace_ms;
        self.config.peer_addresses = config.peer_addresses;
        self.redial();
        self.form();
    }

    /// Ends the lease, in shared memory too, before anything that relies on its end is said.
    fn guard_lease(&mut self) {
        let may_hold = self.node.role() == RoleKind::Leader && self.node.transferring().is_none();
        if !may_hold && self.lease.window() != (0, 0) {
            self.lease.end();
            self.show();
        }
    }

    /// One `Ready`, in the order that `raft::Ready` asks for.
    fn carry_out(&mut self, mut ready: Ready) -> Result<(), StorageError> {
        let now = self.fx.now_ns();
        for note in std::mem::take(&mut ready.notes) {
            self.on_note(note, now);
        }
        self.lease.sending(self.node.current_round(), now);
        let heartbeat = |out: &&Outgoing| matches!(out.message.body, Body::Heartbeat { .. });
        let heartbeats = ready.messages.iter().filter(heartbeat).count();
        self.fx.count(Counter::HeartbeatsSent, heartbeats as u64);
        for outgoing in std::mem::take(&mut ready.messages) {
            self.send_raft(outgoing);
        }
        let (stored, state) = self.store(&ready)?;
        self.confirm(&ready.entries);
        for outgoing in ready.promises(&stored) {
            self.send_raft(outgoing);
        }
        if let (Some((meta, _)), Some(state)) = (&ready.snapshot, state) {
            self.become_state(meta, state)?;
        }
        for entry in std::mem::take(&mut ready.committed) {
            self.apply(entry)?;
        }
        self.answer_reads(std::mem::take(&mut ready.reads));
        self.node.advance(stored);
        if self.node.role() == RoleKind::Leader {
            self.lease.confirmed(self.node.confirmed_round(), self.node.lease_ms());
        }
        Ok(())
    }

    /// Once a durable entry records that this very directory takes part, this node may vote: a
    /// wiped directory has another uuid, so it never does before it was removed and added again.
    fn confirm(&mut self, entries: &[Entry]) {
        let own =
            |entry: &Entry| names_directory(entry, self.identity.node, self.identity.directory);
        self.confirm_if(!self.confirmed && entries.iter().any(own));
    }

    /// As `confirm`, where what is durable says so or does not.
    pub(super) fn confirm_if(&mut self, recorded: bool) {
        if recorded && !self.confirmed {
            self.confirmed = true;
            self.node.set_may_vote(true);
            self.hand_out_genesis();
        }
    }

    /// Whether the durable log records that this very directory takes part.
    pub(super) fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    fn apply(&mut self, entry: Entry) -> Result<(), StorageError> {
        if bugs::on(Bug::ApplyTwice) && entry.id.index <= self.known {
            self.cluster.apply(entry.id, command_of(&entry));
        }
        let applied = self.cluster.apply(entry.id, command_of(&entry));
        if self.applied_term != entry.id.term {
            self.applied_term = entry.id.term;
            // The leader of that term takes changes from now on.
            self.writes.try_again();
        }
        self.requests.applied(entry.id);
        self.take_snapshot_if_due();
        self.writes.room.applied(entry.id.index);
        match applied {
            Applied::Nothing => return Ok(()),
            Applied::Stored { id, outcome } => {
                self.on_stored(id, outcome);
                return Ok(());
            }
            Applied::Formed | Applied::Added(_) | Applied::Promoted(_) | Applied::Removed(_) => {
                self.failover.members_changed(entry.id.index);
            }
            // Whom commits wait for is another question then.
            Applied::Synchronous(_) if !bugs::on(Bug::NamesOfOtherMode) => {
                self.failover.members_changed(entry.id.index);
            }
            _ => {}
        }
        self.changed = true;
        self.failover.due = true;
        // What was applied before the last stop is no news.
        if entry.id.index > self.known {
            self.on_applied(&applied);
        }
        self.follow_state()
    }

    /// The members, or what is known of them, may have changed.
    pub(super) fn follow_state(&mut self) -> Result<(), StorageError> {
        if self.identity.cluster != self.cluster.uuid && self.confirmed {
            self.identity.cluster = self.cluster.uuid;
            self.fx.store_identity(&self.identity)?;
        }
        self.removed = self.cluster.removed.contains(&self.identity.node);
        self.renew_session()?;
        self.update_gate();
        self.redial();
        Ok(())
    }

    fn on_applied(&mut self, applied: &Applied) {
        match applied {
            Applied::Nothing | Applied::Stored { .. } => {}
            Applied::Formed => {
                log::info!("cluster \"{}\" is formed", self.config.cluster_id);
            }
            Applied::Added(node) => log::info!("node {node} was added as a learner"),
            Applied::Promoted(node) => log::info!("node {node} is a voter now"),
            Applied::Removed(node) => {
                log::info!("node {node} was removed from the cluster");
                self.distrusted.remove(node);
                self.fx.disconnect(*node);
            }
            Applied::Updated(node) => log::debug!("the record of node {node} was updated"),
            Applied::PrimaryNamed(primary) => log::info!(
                "node {} is to be the primary, epoch {}, timeline {}",
                primary.node,
                primary.epoch,
                primary.timeline
            ),
            Applied::ForkKnown { timeline, fork } => log::info!(
                "timeline {timeline} begins where timeline {} ended, at {:X}/{:X}",
                fork.timeline,
                fork.ends >> 32,
                fork.ends as u32
            ),
            Applied::Paused(true) => log::info!("automatic failover is paused"),
            Applied::Paused(false) => log::info!("automatic failover goes on"),
            Applied::Synchronous(true) => log::info!("commits wait for a majority"),
            Applied::Synchronous(false) => log::info!("commits wait for nobody"),
        }
    }

    fn on_note(&mut self, note: Note, now_ns: u64) {
        self.failover.due = true;
        match note {
            Note::Campaign { term, pre_vote: true } => {
                log::debug!("asking whether an election in term {} can be won", term.0);
            }
            Note::Campaign { term, pre_vote: false } => {
                self.fx.count(Counter::Elections, 1);
                log::info!("campaigning in term {}", term.0);
            }
            Note::BecameLeader { term, old_lease_left_ms } => {
                self.fx.count(Counter::LeaderChanges, 1);
                self.lease.lead(now_ns, old_lease_left_ms);
                log::info!("this node is the leader in term {}", term.0);
            }
            Note::FollowsLeader { term, leader } => {
                self.fx.count(Counter::LeaderChanges, 1);
                log::info!("node {leader} is the leader in term {}", term.0);
            }
            Note::SteppedDown { term, why } => {
                log::info!("no longer the leader, term is {}: {why}", term.0);
            }
            Note::VoteRefused { candidate, term, why } => {
                log::debug!("refused node {candidate} a vote in term {}: {why}", term.0);
            }
            Note::SendsSnapshot { to, last } => {
                log::info!("sending node {to} a snapshot up to entry {}", last.index.0);
            }
            Note::SentSnapshot { to, last } => {
                self.fx.count(Counter::SnapshotsSent, 1);
                log::info!("node {to} has the snapshot up to entry {}", last.index.0);
            }
            Note::DamagedSnapshot { leader, last } => log::warn!(
                "the snapshot up to entry {} came damaged from node {leader}; asking for it again",
                last.index.0
            ),
            Note::Contradiction { leader, index } => log::error!(
                "node {leader} wants to replace the committed log entry {}: this node or that one \
                 lost data; its message was ignored",
                index.0
            ),
            Note::ForgotEntries { node, acknowledged, holds } => {
                log::error!(
                    "node {node} lost log entries that it had acknowledged (up to {}, has {}); \
                     remove it, wipe its raft_data_dir and add it again",
                    acknowledged.0,
                    holds.0
                );
                self.distrust(node);
            }
        }
    }

    /// A member with a restored directory has forgotten votes as well as entries: refuse it.
    fn distrust(&mut self, node: NodeId) {
        self.distrusted.insert(node);
        self.changed = true;
        self.update_gate();
        self.fx.disconnect(node);
        if let Some(address) = self.links.route(node).cloned() {
            self.fx.retry_now(&address);
        }
    }

    pub(super) fn fail(&mut self, error: &StorageError) {
        let text = error.to_string();
        self.failed = Some(text.clone());
        self.lease.end();
        self.show();
        self.fx.to_main(ToMain::StorageFailed(text));
    }

    /// Queues a packet for `node`, if it is connected.
    pub(super) fn send(&mut self, node: NodeId, packet: Packet) {
        if let Some(address) = self.links.route(node).cloned() {
            // A dropped packet is as one lost on the way: raft sends again, `net` counts it.
            let _ = self.fx.send(&address, packet);
        }
    }

    /// Queues a packet for everyone connected.
    pub(super) fn broadcast(&mut self, packet: &Packet) {
        let nodes: Vec<NodeId> = self.links.iter().map(|(node, _)| node).collect();
        for node in nodes {
            self.send(node, packet.clone());
        }
    }

    /// The cluster this node belongs to.
    pub(super) fn cluster_uuid(&self) -> Option<Uuid> {
        self.cluster.uuid.or(self.identity.cluster).or(self.book.uuid)
    }

    /// Whether this node takes part, with this directory, going by what is applied.
    pub(super) fn is_member(&self) -> bool {
        let own = |member: &Member| member.directory.is_none_or(|d| d == self.identity.directory);
        !self.removed && self.cluster.members.get(&self.identity.node).is_some_and(own)
    }

    /// The state that `pgraft_status()` shows.
    pub(super) fn state(&self) -> NodeState {
        if self.failed.is_some() {
            NodeState::Error
        } else if self.removed {
            NodeState::Removed
        } else if self.is_member() || self.confirmed {
            NodeState::Member
        } else if self.is_unformed() && self.links.refusals().any(|(_, why)| why.is_final()) {
            NodeState::Error
        } else if self.is_unformed() && self.forming.formed.is_none() {
            NodeState::Forming
        } else {
            NodeState::Joining
        }
    }

    /// The members as applied; after a start, until a leader says what is committed, as the log on
    /// disk has them: a wiped node must not slip in meanwhile.
    pub(super) fn known_members(&self) -> &BTreeMap<NodeId, Member> {
        match self.cluster.members.is_empty() {
            true => &self.book.members,
            false => &self.cluster.members,
        }
    }

    /// Where `node` is dialled, going by the log.
    pub(super) fn address_of(&self, node: NodeId) -> Option<Address> {
        let member = self.cluster.members.get(&node).or_else(|| self.book.members.get(&node))?;
        Some(member.raft_address.clone())
    }

    fn member_at(&self, address: &Address) -> Option<NodeId> {
        let members = self.cluster.members.values().chain(self.book.members.values());
        members.into_iter().find(|member| member.raft_address == *address).map(|member| member.id)
    }

    /// Whether the bearer of `hello` knows of later changes of the members than this node.
    fn knows_less_than(&self, hello: &Hello) -> bool {
        hello.cluster.is_some()
            && hello.cluster == self.cluster_uuid()
            && hello.members_at > self.cluster.applied
    }

    /// Keeps connections to whom this node should talk to, and to nobody else.
    pub(super) fn redial(&mut self) {
        let mut wanted = Vec::new();
        if self.is_member() {
            wanted.extend(self.cluster.members.values().map(|m| (m.id, m.raft_address.clone())));
        } else if !self.removed {
            wanted.extend(self.book.members.values().map(|m| (m.id, m.raft_address.clone())));
        }
        wanted.retain(|(node, _)| *node != self.identity.node);
        let mut wanted: BTreeSet<Address> =
            wanted.into_iter().map(|(_, address)| address).collect();
        if !self.is_member() && !self.removed {
            wanted.extend(self.config.peer_addresses.iter().cloned());
        }
        // Whoever dials this node expects answers: a leader that adds it (again) above all, and one
        // that became a member while this node was away. That one may have dialled, and introduced
        // itself, before it was a member.
        let called_upon = self.removed || self.forming.formed.is_some() || !self.is_unformed();
        let anyone = !self.is_member() && called_upon;
        let answered: BTreeMap<NodeId, Address> = self
            .links
            .iter()
            .filter(|(_, link)| link.inbound.is_some())
            .filter(|(node, link)| {
                anyone || self.node.leader() == Some(*node) || self.knows_less_than(&link.hello)
            })
            .filter(|(_, link)| link.outbound.as_ref().is_none_or(|(_, own)| !wanted.contains(own)))
            .filter_map(|(node, link)| Some((node, link.address.clone()?)))
            .collect();
        wanted.extend(answered.into_values());
        let (dial, hang_up) = self.links.redial(wanted);
        for address in hang_up {
            self.fx.hang_up(&address);
        }
        for address in dial {
            self.fx.dial(&address);
        }
    }

    /// Tells `net` who may come in and how this node introduces itself.
    pub(super) fn update_gate(&mut self) {
        // No directory is the nil one: whatever a distrusted member comes with is the wrong one.
        let nil = Some(Uuid::from_bytes([0; 16]));
        let directory = |id, known| if self.distrusted.contains(&id) { nil } else { known };
        let members = self.known_members().values();
        let directories = members.map(|m| (m.id, directory(m.id, m.directory))).collect();
        let own = hello(&self.config, &self.identity, self.cluster_uuid(), self.pg_port);
        // Called at every change of the members, so this is at least where the last one stands.
        let hello = Hello { members_at: self.cluster.applied, ..own };
        self.fx.update_gate(hello, directories, self.cluster.removed.clone());
    }
}

/// How a node introduces itself.
pub fn hello(config: &Config, identity: &Identity, cluster: Option<Uuid>, pg_port: u16) -> Hello {
    Hello {
        oldest: PROTOCOL_OLDEST,
        newest: PROTOCOL_NEWEST,
        cluster_id: config.cluster_id.clone(),
        cluster,
        members_at: LogIndex(0),
        node: identity.node,
        directory: identity.directory,
        name: config.node_name.clone(),
        raft_address: config.advertise_address.clone(),
        raft_port: config.port,
        pg_port,
        system_identifier: identity.system_identifier,
        dialled: None,
        auth_method: 0,
        challenge: [0; 16],
    }
}

/// The operation an entry carries; `None` for an empty one, and for bytes that cannot be read,
/// which cannot be in a log whose checksums hold.
pub(super) fn command_of(entry: &Entry) -> Option<Command> {
    let bytes = match &entry.payload {
        Payload::Empty => return None,
        Payload::Command(bytes) => bytes,
        Payload::Membership { command, .. } => command,
    };
    match wire::decode_command(bytes) {
        Ok(command) => Some(command),
        Err(error) => {
            log::error!("entry {} of the log holds no command: {error}", entry.id.index.0);
            None
        }
    }
}
