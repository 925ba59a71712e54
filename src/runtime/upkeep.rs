//! What a node does once a second: signs of life, and as leader the members' records and
//! promotions.

use crate::cluster::{Command, Member};
use crate::raft::{MembershipChange, NodeId, RoleKind};
use crate::shmem::Counter;
use crate::wire::{self, Packet};

use super::consensus::Consensus;
use super::effects::Effects;
use super::event::ToMain;
use super::ticker::TICK_MS;

/// A second.
pub const UPKEEP_TICKS: u32 = 1000 / TICK_MS;

impl<E: Effects> Consensus<E> {
    /// Once a second.
    pub(super) fn upkeep(&mut self) {
        self.changed = true;
        self.fx.to_main(ToMain::WantReport);
        // Also the sign of life of a link on which nothing else is said.
        let report = self.report;
        self.broadcast(&Packet::Report(report));
        if self.is_unformed() {
            self.say_sighting();
            self.form();
        }
        self.fx.gauge(Counter::StoreKeys, self.cluster.store.len() as u64);
        self.fx.gauge(Counter::StoreBytes, self.cluster.store.bytes());
        let member = self.cluster.members.contains_key(&self.identity.node);
        if self.removed && member && self.node.has_quorum() {
            // Who said so knew less than this node does.
            self.removed = false;
            self.redial();
        }
        self.update_records();
    }

    /// As leader: writes into the log what became known of a member, its directory above all.
    fn update_records(&mut self) {
        let idle = self.cluster.applied >= self.updating;
        if self.node.role() != RoleKind::Leader || !idle || self.node.transferring().is_some() {
            return;
        }
        let changed = self.cluster.members.values().find_map(|known| {
            let fresh = match known.id == self.identity.node {
                true => self.own_member()?,
                false => self.seen(known.id)?,
            };
            let fresh = self.refreshed(known, fresh);
            (fresh != *known).then_some(fresh)
        });
        let Some(member) = changed else { return };
        let mut command = Vec::new();
        wire::encode_command(&Command::Update { member }, &mut command);
        if let Ok(entry) = self.node.propose(command) {
            self.updating = entry.index;
        }
    }

    /// `known` with what a node may change about itself. An address that works is kept: only one
    /// that is configured, or that replaces the loopback of a node that was alone, supersedes it.
    fn refreshed(&self, known: &Member, fresh: Member) -> Member {
        let own = known.id == self.identity.node;
        let advertised = match own {
            true => self.config.advertise_address.is_some(),
            false => self.links.get(known.id).is_some_and(|l| l.hello.raft_address.is_some()),
        };
        let alone = own && known.raft_address.host() == "localhost";
        let raft_address = match advertised || alone {
            true => fresh.raft_address,
            false => known.raft_address.clone(),
        };
        let pg_port = fresh.pg_address.as_ref().map(|address| address.port());
        let pg_address = pg_port
            .and_then(|port| crate::cluster::Address::new(raft_address.host(), port).ok())
            .or(known.pg_address.clone());
        Member {
            id: known.id,
            name: fresh.name,
            raft_address,
            pg_address,
            directory: known.directory.or(fresh.directory),
            system_identifier: fresh.system_identifier.or(known.system_identifier),
            voter: known.voter,
        }
    }

    /// As leader: a learner that has all that is committed becomes a voter. Not before its
    /// directory is on record, and the one that has caught up: a vote must come from a directory
    /// that cannot be exchanged unnoticed.
    pub(super) fn promote_learner(&mut self) {
        if self.node.role() != RoleKind::Leader
            || self.node.pending_change()
            || !self.may_change_voters()
        {
            return;
        }
        let caught_up = |node: NodeId| {
            self.node.progress().any(|(peer, progress)| {
                peer == node && progress.recent_active && progress.matched >= self.node.commit()
            })
        };
        let on_record = |member: &Member| {
            let link = self.links.get(member.id);
            link.is_some_and(|link| member.directory == Some(link.hello.directory))
        };
        let learner = self
            .cluster
            .members
            .values()
            .find(|member| !member.voter && on_record(member) && caught_up(member.id))
            .map(|member| member.id);
        let Some(node) = learner else { return };
        let mut command = Vec::new();
        wire::encode_command(&Command::Promote { node }, &mut command);
        // Refused when it just lost its progress, or leadership is being handed over: next time.
        let _ = self.node.propose_membership(MembershipChange::Promote(node), command);
    }
}
