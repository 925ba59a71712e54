//! The accepted connections and how many there may be. Every limit answers an attack: a flood of
//! callers that say nothing, one scanner, a crowd of strangers, a member that leaks connections.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, Shutdown, TcpStream};
use std::sync::{Arc, Mutex};

use super::{ConnId, lock};
use crate::cluster::Address;
use crate::raft::NodeId;

/// Accepted connections in all, each with its thread: members need one each, 32 at most.
pub const CONNECTIONS_MAX: usize = 128;
/// Of these, callers before the end of their handshake, which takes a peer two round trips.
pub const UNKNOWN_MAX: usize = 64;
/// Of these, from one source, so that one scanner cannot take all the places.
pub const UNKNOWN_PER_SOURCE_MAX: usize = 16;
/// Established links with nodes that are no members (yet): a cluster being formed fits in.
pub const STRANGERS_MAX: usize = 32;
/// Established links of one node: it dials one for each address it knows this node by.
pub const LINKS_PER_NODE_MAX: usize = 4;

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Inbounds(Mutex<BTreeMap<ConnId, Inbound>>);

#[derive(Debug)]
struct Inbound {
    stream: Arc<TcpStream>,
    source: IpAddr,
    /// `None` until the handshake is done.
    link: Option<Link>,
    /// Closed by this side; its thread is about to end.
    closed: bool,
}

#[derive(Debug)]
struct Link {
    node: NodeId,
    dialled: Option<Address>,
    member: bool,
}

impl Inbound {
    fn close(&mut self) {
        self.closed = true;
        // Fails only if it is closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn is_unknown(&self) -> bool {
        self.link.is_none() && !self.closed
    }
}

/// One accepted connection's place; dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Place {
    inbounds: Arc<Inbounds>,
    pub(super) conn: ConnId,
    pub(super) stream: Arc<TcpStream>,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.inbounds.0).remove(&self.conn);
        // Whoever holds the stream still must not keep the connection open.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 network of the size one host is given.
pub(super) fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)))
        }
        ip => ip,
    }
}

impl Inbounds {
    /// A place for a caller, or `None` if all are taken. Where the callers without a handshake are
    /// too many, the one that has said nothing for longest makes room: a real peer is through in
    /// milliseconds. The second value says whether someone was closed to make room.
    pub(super) fn open(
        self: &Arc<Self>,
        conn: ConnId,
        stream: Arc<TcpStream>,
        ip: IpAddr,
    ) -> (Option<Place>, bool) {
        let source = source_of(ip);
        let mut all = lock(&self.0);
        let unknown = all.values().filter(|i| i.is_unknown()).count();
        let same = |i: &Inbound| i.is_unknown() && i.source == source;
        let from_there = all.values().filter(|i| same(i)).count();
        let full = all.len() >= CONNECTIONS_MAX;
        let oldest = if from_there >= UNKNOWN_PER_SOURCE_MAX {
            all.values_mut().find(|i| same(i))
        } else if unknown >= UNKNOWN_MAX || full {
            all.values_mut().find(|i| i.is_unknown())
        } else {
            None
        };
        let crowded = oldest.is_some();
        if let Some(oldest) = oldest {
            oldest.close();
        }
        if full {
            return (None, crowded);
        }
        let inbound = Inbound { stream: stream.clone(), source, link: None, closed: false };
        all.insert(conn, inbound);
        (Some(Place { inbounds: self.clone(), conn, stream }), crowded)
    }

    /// Whether one more link is possible, with a member or with a stranger.
    pub(super) fn has_room(&self, member: bool) -> bool {
        let all = lock(&self.0);
        let strangers = all.values().filter(|i| i.link.as_ref().is_some_and(|l| !l.member));
        member || strangers.count() < STRANGERS_MAX
    }

    /// The handshake of `conn` is done. The same node's older link is closed if it was dialled at
    /// the same address (the dialler has only one, so that one is dead), as is its oldest if it has
    /// too many. False if the connection was closed meanwhile.
    pub(super) fn establish(
        &self,
        conn: ConnId,
        node: NodeId,
        dialled: Option<Address>,
        member: bool,
    ) -> bool {
        let mut all = lock(&self.0);
        if all.get(&conn).is_none_or(|i| i.closed) {
            return false;
        }
        let of_node = |i: &Inbound| !i.closed && i.link.as_ref().is_some_and(|l| l.node == node);
        for older in all.values_mut().filter(|i| of_node(i)) {
            if older.link.as_ref().is_some_and(|l| l.dialled == dialled) {
                older.close();
            }
        }
        if all.values().filter(|i| of_node(i)).count() >= LINKS_PER_NODE_MAX
            && let Some(oldest) = all.values_mut().find(|i| of_node(i))
        {
            oldest.close();
        }
        if let Some(inbound) = all.get_mut(&conn) {
            inbound.link = Some(Link { node, dialled, member });
        }
        true
    }

    /// Closes the links with `node`.
    pub(super) fn close_node(&self, node: NodeId) {
        let mut all = lock(&self.0);
        let of_node = |i: &&mut Inbound| i.link.as_ref().is_some_and(|l| l.node == node);
        all.values_mut().filter(of_node).for_each(Inbound::close);
    }

    /// Closes every connection.
    pub(super) fn close_all(&self) {
        lock(&self.0).values_mut().for_each(Inbound::close);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_network() {
        for (ip, source) in [
            ("10.1.2.3", "10.1.2.3"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("::1", "::1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ] {
            assert_eq!(source_of(ip.parse().unwrap()), source.parse::<IpAddr>().unwrap());
        }
    }
}
