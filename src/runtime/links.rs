//! Who is connected, and whom to dial. Plain bookkeeping: `net` holds the connections.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::Address;
use crate::net::ConnId;
use crate::raft::NodeId;
use crate::wire::{Hello, Refusal, Report};

/// One other node, as long as at least one connection to or from it stands.
#[derive(Debug)]
pub struct Link {
    /// How it introduced itself last.
    pub hello: Hello,
    /// The connection it dialled.
    pub inbound: Option<ConnId>,
    /// The connection this node dialled, and where: packets go out on it.
    pub outbound: Option<(ConnId, Address)>,
    /// Where it can be dialled, going by its handshake.
    pub address: Option<Address>,
    /// When it was heard last, in microseconds since 1970.
    pub last_contact_unix_us: i64,
    /// How its Postgres is doing.
    pub report: Report,
    /// Of its last answered heartbeat, in microseconds; 0 before the first.
    pub round_trip_us: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Links {
    nodes: BTreeMap<NodeId, Link>,
    /// What `net` was told to keep connected.
    dialled: BTreeSet<Address>,
    /// Addresses that lead back to this node.
    oneself: BTreeSet<Address>,
    /// Addresses that lead to a node which is dialled at another one.
    aliases: BTreeMap<Address, NodeId>,
    /// The latest refusal a dialled node gave; gone when it accepts.
    refusals: BTreeMap<Address, Refusal>,
}

impl Links {
    /// The node, if a connection stands.
    pub fn get(&self, node: NodeId) -> Option<&Link> {
        self.nodes.get(&node)
    }

    /// The node, if a connection stands.
    pub fn get_mut(&mut self, node: NodeId) -> Option<&mut Link> {
        self.nodes.get_mut(&node)
    }

    /// Everyone connected.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Link)> {
        self.nodes.iter().map(|(&node, link)| (node, link))
    }

    /// Where packets for `node` are queued.
    pub fn route(&self, node: NodeId) -> Option<&Address> {
        self.nodes.get(&node)?.outbound.as_ref().map(|(_, address)| address)
    }

    /// Whether the connection that `node` dialled stands.
    pub fn hears(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|link| link.inbound.is_some())
    }

    /// A handshake succeeded. An address to be hung up: it leads to a node that is connected
    /// already.
    pub fn connected(
        &mut self,
        hello: Hello,
        address: Option<Address>,
        conn: ConnId,
        outbound: bool,
        now_unix_us: i64,
    ) -> Option<Address> {
        let node = hello.node;
        let link = self.nodes.entry(node).or_insert_with(|| Link {
            hello: hello.clone(),
            inbound: None,
            outbound: None,
            address: None,
            last_contact_unix_us: now_unix_us,
            report: Report::default(),
            round_trip_us: 0,
        });
        // Only who dials says where it reached this node; its answer to a dial does not take it
        // back.
        let dialled = hello.dialled.clone().or(link.hello.dialled.take());
        link.hello = Hello { dialled, ..hello };
        link.last_contact_unix_us = now_unix_us;
        if !outbound {
            link.inbound = Some(conn);
            link.address = address;
            return None;
        }
        let address = address?;
        self.refusals.remove(&address);
        match &link.outbound {
            Some((_, first)) if *first != address && self.dialled.contains(first) => {
                self.aliases.insert(address.clone(), node);
                Some(address)
            }
            _ => {
                link.outbound = Some((conn, address));
                None
            }
        }
    }

    /// A connection ended.
    pub fn closed(&mut self, node: NodeId, conn: ConnId) {
        let Some(link) = self.nodes.get_mut(&node) else { return };
        if link.inbound == Some(conn) {
            link.inbound = None;
        }
        if link.outbound.as_ref().is_some_and(|(own, _)| *own == conn) {
            link.outbound = None;
            self.aliases.retain(|_, leads_to| *leads_to != node);
        }
        if link.inbound.is_none() && link.outbound.is_none() {
            self.nodes.remove(&node);
        }
    }

    /// A dialled node refused the handshake.
    pub fn refused(&mut self, address: Address, refusal: Refusal) {
        if refusal == Refusal::Oneself {
            self.oneself.insert(address);
        } else {
            self.refusals.insert(address, refusal);
        }
    }

    /// The refusals that stand.
    pub fn refusals(&self) -> impl Iterator<Item = (&Address, Refusal)> {
        self.refusals.iter().map(|(address, &refusal)| (address, refusal))
    }

    /// Whether `address` leads back to this node.
    pub fn is_oneself(&self, address: &Address) -> bool {
        self.oneself.contains(address)
    }

    /// The node that answers at `address`, if it is connected.
    pub fn at(&self, address: &Address) -> Option<NodeId> {
        self.aliases.get(address).copied().or_else(|| {
            self.iter()
                .find(|(_, link)| link.outbound.as_ref().is_some_and(|(_, own)| own == address))
                .map(|(node, _)| node)
        })
    }

    /// Makes `wanted` what is dialled: the addresses to dial and those to hang up.
    pub fn redial(&mut self, wanted: BTreeSet<Address>) -> (Vec<Address>, Vec<Address>) {
        let useless = |address: &Address| {
            self.oneself.contains(address) || self.aliases.contains_key(address)
        };
        let wanted: BTreeSet<Address> = wanted.into_iter().filter(|a| !useless(a)).collect();
        let dial = wanted.difference(&self.dialled).cloned().collect();
        let hang_up: Vec<Address> = self.dialled.difference(&wanted).cloned().collect();
        for address in &hang_up {
            self.refusals.remove(address);
        }
        self.dialled = wanted;
        (dial, hang_up)
    }
}
