//! How unformed nodes become a cluster (DESIGN.md, section 9).
//!
//! Every node tells its peers whom it sees. When all of them are unformed and see the same set, the
//! one with the lowest id writes the genesis entry to its own disk and then hands it to the others:
//! one possible writer, and a choice that is on disk before anyone else hears of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::{Address, Command, Member, Uuid};
use crate::raft::{Entry, EntryId, LogIndex, Membership, NodeId, Payload, Term};
use crate::wire::{self, Hello, Packet};

use super::consensus::Consensus;
use super::effects::Effects;

/// Whom an unformed node sees, as it says itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sighting {
    /// Their ids, its own included.
    pub nodes: BTreeSet<NodeId>,
    /// Whether that is everyone its configuration names.
    pub complete: bool,
}

/// What an unformed node knows of its peers.
#[derive(Debug, Default)]
pub struct Forming {
    /// What each of them says.
    sightings: BTreeMap<NodeId, Sighting>,
    /// The formed cluster that one of them belongs to: then this node waits to be added.
    pub formed: Option<Uuid>,
    /// What this node said last.
    said: Sighting,
}

impl<E: Effects> Consensus<E> {
    /// Whether this node's log is still empty.
    pub(super) fn is_unformed(&self) -> bool {
        self.node.last().index == LogIndex(0)
    }

    /// One step towards a cluster, after anything changed.
    pub(super) fn form(&mut self) {
        if !self.is_unformed() || self.removed {
            return;
        }
        if self.config.peer_addresses.iter().all(|peer| self.links.is_oneself(peer)) {
            return self.write_genesis(BTreeSet::from([self.identity.node]));
        }
        self.forming.formed = self.links.iter().find_map(|(_, link)| link.hello.cluster);
        let sighting = self.sighting();
        if sighting != self.forming.said {
            self.forming.said = sighting.clone();
            self.say_sighting();
        }
        let agreed = sighting.nodes.iter().all(|node| {
            *node == self.identity.node || self.forming.sightings.get(node) == Some(&sighting)
        });
        let lowest = sighting.nodes.first() == Some(&self.identity.node);
        if self.forming.formed.is_none() && sighting.complete && agreed && lowest {
            self.write_genesis(sighting.nodes);
        }
    }

    /// Says again whom this node sees: on a change, and now and then because packets get lost.
    pub(super) fn say_sighting(&mut self) {
        let said = self.forming.said.clone();
        let nodes: Vec<NodeId> = self.links.iter().map(|(node, _)| node).collect();
        for node in nodes {
            self.send(
                node,
                Packet::Forming {
                    nodes: said.nodes.clone(),
                    complete: said.complete,
                    cluster: None,
                },
            );
        }
    }

    /// The configured peers that are not connected.
    pub(super) fn missing_peers(&self) -> Vec<&Address> {
        let reached = |peer: &Address| self.links.is_oneself(peer) || self.links.at(peer).is_some();
        self.config.peer_addresses.iter().filter(|peer| !reached(peer)).collect()
    }

    fn sighting(&self) -> Sighting {
        let peers = self.config.peer_addresses.iter().filter_map(|peer| self.links.at(peer));
        let mut nodes: BTreeSet<NodeId> = peers.collect();
        nodes.insert(self.identity.node);
        Sighting { nodes, complete: self.missing_peers().is_empty() }
    }

    /// A peer says whom it sees, and thereby that its own log is empty.
    pub(super) fn on_forming(&mut self, from: NodeId, sighting: Sighting, cluster: Option<Uuid>) {
        if self.is_unformed() {
            if let Some(cluster) = cluster {
                self.forming.formed = Some(cluster);
                if let Some(link) = self.links.get_mut(from) {
                    link.hello.cluster = Some(cluster);
                }
            }
            self.forming.sightings.insert(from, sighting);
            return self.form();
        }
        if cluster.is_some() {
            return;
        }
        match self.genesis_for(from) {
            // It is not on this disk yet: it is handed out once it is.
            Some(_) if !self.is_confirmed() => {}
            Some(genesis) => self.send(from, Packet::Genesis(genesis)),
            None => {
                let cluster = self.cluster_uuid();
                self.send(
                    from,
                    Packet::Forming { nodes: BTreeSet::new(), complete: false, cluster },
                )
            }
        };
    }

    /// The log is durable with this node's part in the cluster: those whom the genesis entry names
    /// as well may have it.
    pub(super) fn hand_out_genesis(&mut self) {
        let nodes: Vec<NodeId> = self.links.iter().map(|(node, _)| node).collect();
        for node in nodes {
            if let Some(genesis) = self.genesis_for(node) {
                self.send(node, Packet::Genesis(genesis));
            }
        }
    }

    /// The first entry of this log, if it names `node` with the directory it has now.
    fn genesis_for(&self, node: NodeId) -> Option<Entry> {
        let directory = self.links.get(node)?.hello.directory;
        let genesis = self.node.entry(LogIndex(1))?;
        names_directory(genesis, node, directory).then(|| genesis.clone())
    }

    /// The genesis entry arrived.
    pub(super) fn on_genesis(&mut self, from: NodeId, genesis: Entry) {
        if !self.is_unformed() {
            return;
        }
        if !names_directory(&genesis, self.identity.node, self.identity.directory) {
            log::warn!("ignoring a genesis entry of node {from} that does not name this node");
            return;
        }
        log::debug!("got the genesis entry from node {from}");
        self.bootstrap(genesis);
    }

    fn write_genesis(&mut self, nodes: BTreeSet<NodeId>) {
        let mut members = Vec::with_capacity(nodes.len());
        for &node in &nodes {
            let member =
                if node == self.identity.node { self.own_member() } else { self.seen(node) };
            match member {
                Some(member) => members.push(member),
                None => return, // its link went down this moment: `form` is called again
            }
        }
        let cluster = Uuid::from_random(self.fx.random_bytes());
        log::info!(
            "forming cluster \"{}\" ({cluster}) of {}",
            self.config.cluster_id,
            list(&nodes)
        );
        let mut command = Vec::new();
        wire::encode_command(&Command::Genesis { cluster, members }, &mut command);
        let membership = Membership { voters: nodes, learners: BTreeSet::new() };
        self.bootstrap(Entry {
            id: EntryId { term: Term(1), index: LogIndex(1) },
            payload: Payload::Membership { membership, command },
        });
    }

    fn bootstrap(&mut self, genesis: Entry) {
        // Not for an input: the log is empty and the entry was checked or made here.
        if let Err(error) = self.node.bootstrap(genesis) {
            log::error!("could not form the cluster: {error}");
        }
    }

    /// The record of this node itself.
    pub(super) fn own_member(&self) -> Option<Member> {
        let raft_address = self.own_address()?;
        Some(Member {
            id: self.identity.node,
            name: self.config.node_name.clone(),
            pg_address: self.pg_address(&raft_address, self.pg_port),
            raft_address,
            directory: Some(self.identity.directory),
            system_identifier: self.identity.system_identifier,
            voter: true,
        })
    }

    /// The record of a connected node, as it introduced itself.
    pub(super) fn seen(&self, node: NodeId) -> Option<Member> {
        let link = self.links.get(node)?;
        let Hello { name, directory, system_identifier, pg_port, .. } = link.hello.clone();
        let dialled = link.outbound.as_ref().map(|(_, address)| address.clone());
        let raft_address = link.hello.raft_address.clone().or(dialled).or(link.address.clone())?;
        Some(Member {
            id: node,
            name,
            pg_address: self.pg_address(&raft_address, pg_port),
            raft_address,
            directory: Some(directory),
            system_identifier,
            voter: true,
        })
    }

    fn pg_address(&self, raft_address: &Address, pg_port: u16) -> Option<Address> {
        Address::new(raft_address.host(), pg_port).ok()
    }

    /// Where the others dial this node: what is configured, else where one of them reached it, else
    /// the address it is bound to, else (bound to all of them, and alone) the loopback.
    fn own_address(&self) -> Option<Address> {
        let reached = || self.links.iter().find_map(|(_, link)| link.hello.dialled.clone());
        let bound = || Address::new(&self.config.bind_address, self.config.port).ok();
        let any = matches!(self.config.bind_address.as_str(), "0.0.0.0" | "::");
        self.config.advertise_address.clone().or_else(reached).or_else(|| {
            if any { Address::new("localhost", self.config.port).ok() } else { bound() }
        })
    }
}

/// Whether `entry` records that `directory` is the one with which `node` takes part.
pub(super) fn names_directory(entry: &Entry, node: NodeId, directory: Uuid) -> bool {
    let bytes = match &entry.payload {
        Payload::Empty => return false,
        Payload::Command(bytes) => bytes,
        Payload::Membership { command, .. } => command,
    };
    let names = |member: &Member| member.id == node && member.directory == Some(directory);
    match wire::decode_command(bytes) {
        Ok(Command::Genesis { members, .. }) => members.iter().any(names),
        Ok(Command::AddLearner { member } | Command::Update { member }) => names(&member),
        Ok(
            Command::Promote { .. }
            | Command::Remove { .. }
            | Command::Store { .. }
            | Command::SetPrimary { .. }
            | Command::SetFork { .. }
            | Command::SetPaused { .. }
            | Command::SetSynchronous { .. },
        )
        | Err(_) => false,
    }
}

fn list(nodes: &BTreeSet<NodeId>) -> String {
    let names: Vec<String> = nodes.iter().map(|node| format!("node {node}")).collect();
    names.join(", ")
}
