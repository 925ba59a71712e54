//! What the network layer counts. Relaxed atomics: each is a statistic of its own, read by metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::lock;
use crate::raft::NodeId;

/// So many nodes have counters of their own; a caller that invents node ids cannot grow the map.
const NODES_COUNTED_MAX: usize = 128;

/// Of the node as a whole.
#[derive(Debug, Default)]
pub struct NetCounters {
    /// Connections accepted by the listener.
    pub accepted: AtomicU64,
    /// Connections closed because there were too many, or no thread for them.
    pub rejected_full: AtomicU64,
    /// Handshakes refused, by this node or by the other.
    pub handshakes_refused: AtomicU64,
    /// Connections that ended or fell silent before their handshake was done.
    pub handshakes_failed: AtomicU64,
    /// Frames that could not be read: too long, empty, damaged, or no message of ours.
    pub bad_frames: AtomicU64,
    /// Packets received and dropped because consensus did not keep up.
    pub received_dropped: AtomicU64,
    /// Packets dropped because a peer's queue was full or its link down.
    pub sends_dropped: AtomicU64,
    /// Times the listener could not accept: out of file descriptors or memory.
    pub accept_errors: AtomicU64,
    peers: Mutex<BTreeMap<NodeId, Arc<PeerCounters>>>,
    others: Arc<PeerCounters>,
}

/// Of the links with one node, both directions.
#[derive(Debug, Default)]
pub struct PeerCounters {
    /// Packets handed to its socket.
    pub messages_sent: AtomicU64,
    /// Packets received from it.
    pub messages_received: AtomicU64,
    /// Bytes handed to its socket, frame headers included.
    pub bytes_sent: AtomicU64,
    /// Bytes received from it, frame headers included.
    pub bytes_received: AtomicU64,
    /// Links that ended by an error: damaged frame, deadline, reset.
    pub errors: AtomicU64,
    /// Packets to or from it that were dropped because a queue was full or the link down.
    pub dropped: AtomicU64,
    /// Links established by dialling it.
    pub connects: AtomicU64,
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

/// Adds `n`.
pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl NetCounters {
    /// The counters of `node`, if it was ever connected.
    pub fn peer(&self, node: NodeId) -> Option<Arc<PeerCounters>> {
        lock(&self.peers).get(&node).cloned()
    }

    /// The counters of `node`, made if need be; those of all further nodes together when there are
    /// too many.
    pub(super) fn peer_or_new(&self, node: NodeId) -> Arc<PeerCounters> {
        let mut peers = lock(&self.peers);
        if peers.len() >= NODES_COUNTED_MAX && !peers.contains_key(&node) {
            return self.others.clone();
        }
        peers.entry(node).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invented_node_ids_do_not_grow_the_map() {
        let counters = NetCounters::default();
        for id in 1..1000 {
            count(&counters.peer_or_new(NodeId::new(id).unwrap()).connects);
        }
        assert_eq!(lock(&counters.peers).len(), NODES_COUNTED_MAX);
        assert_eq!(counters.others.connects.load(Ordering::Relaxed), 999 - 128);
        assert!(counters.peer(NodeId::new(999).unwrap()).is_none());
    }
}
