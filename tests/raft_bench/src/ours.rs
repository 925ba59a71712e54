//! Three nodes of `pgraft::raft`, driven as its README says.

use std::collections::{BTreeSet, VecDeque};

use pgraft::raft::{
    Config, Durable, Entry, EntryId, LogIndex, Membership, Message, Node, NodeId, Outgoing,
    Payload, Restored, RoleKind, Term,
};

use crate::Cores;

/// A disk that is always done at once: what is stored is in memory already, in the node's own log.
pub struct Three {
    nodes: [Node; 3],
    /// What is on its way to each, with its sender.
    inboxes: [VecDeque<(NodeId, Message)>; 3],
    applied_bytes: [u64; 3],
}

fn id(at: usize) -> NodeId {
    NodeId::new(at as i64 + 1).expect("a small positive number")
}

fn at(id: NodeId) -> usize {
    id.get() as usize - 1
}

fn new_node(number: usize) -> Node {
    // The runtime's own limits (`runtime::consensus`).
    let config = Config {
        id: id(number),
        tick_ms: 50,
        election_timeout_ticks: 20,
        heartbeat_ticks: 2,
        append_bytes_max: 1 << 20,
        inflight_max: 64,
        proposals_bytes_max: 64 << 20,
    };
    let mut node = Node::new(config, Restored::default(), 1).expect("a valid configuration");
    let voters: BTreeSet<NodeId> = (0..3).map(id).collect();
    let membership = Membership { voters, learners: BTreeSet::new() };
    let genesis = Entry {
        id: EntryId { term: Term(1), index: LogIndex(1) },
        payload: Payload::Membership { membership, command: Vec::new() },
    };
    node.bootstrap(genesis).expect("an empty log");
    node
}

impl Three {
    fn send(&mut self, from: usize, outgoing: Vec<Outgoing>) {
        for Outgoing { to, message } in outgoing {
            self.inboxes[at(to)].push_back((id(from), message));
        }
    }

    /// Whether there was anything to do for this node.
    fn serve(&mut self, number: usize) -> bool {
        let mut any = false;
        while let Some((from, message)) = self.inboxes[number].pop_front() {
            self.nodes[number].step(from, message);
            any = true;
        }
        while let Some(mut ready) = self.nodes[number].ready() {
            any = true;
            self.send(number, std::mem::take(&mut ready.messages));
            let stored = Durable::attest();
            self.send(number, ready.promises(&stored));
            for entry in std::mem::take(&mut ready.committed) {
                if let Payload::Command(command) = entry.payload {
                    self.applied_bytes[number] += command.len() as u64;
                }
            }
            self.nodes[number].advance(stored);
        }
        any
    }
}

impl Cores for Three {
    fn form() -> Three {
        let mut three = Three {
            nodes: std::array::from_fn(new_node),
            inboxes: Default::default(),
            applied_bytes: [0; 3],
        };
        three.nodes[0].force_election().expect("a voter");
        three.settle();
        assert_eq!(three.nodes[0].role(), RoleKind::Leader);
        three
    }

    fn propose(&mut self, command: Vec<u8>) {
        self.nodes[0].propose(command).expect("a leader with room");
    }

    fn settle(&mut self) {
        while (0..3).fold(false, |any, number| self.serve(number) | any) {}
    }

    fn applied_bytes(&self) -> [u64; 3] {
        self.applied_bytes
    }
}
