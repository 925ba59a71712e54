//! Three nodes of the crate `raft` (raft-rs), driven as its documentation and its example
//! `five_mem_node` do: messages, storage, persisted messages, `advance`, and the light ready after.

use std::collections::VecDeque;

use raft::eraftpb::{Entry, Message};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};

use crate::Cores;

/// What is stored goes to `MemStorage`, the memory in which this crate wants its log.
pub struct Three {
    nodes: [RawNode<MemStorage>; 3],
    /// What is on its way to each.
    inboxes: [VecDeque<Message>; 3],
    applied_bytes: [u64; 3],
}

fn new_node(number: usize) -> RawNode<MemStorage> {
    // The same limits as ours; what ours always does is switched on.
    let config = Config {
        id: number as u64 + 1,
        election_tick: 20,
        heartbeat_tick: 2,
        max_size_per_msg: 1 << 20,
        max_inflight_msgs: 64,
        check_quorum: true,
        pre_vote: true,
        max_uncommitted_size: 64 << 20,
        max_committed_size_per_ready: 4 << 20,
        // 64 proposals in one message, as ours go; off, it is half as fast with them.
        batch_append: true,
        ..Config::default()
    };
    let storage = MemStorage::new_with_conf_state((vec![1, 2, 3], vec![]));
    let silent = slog::Logger::root(slog::Discard, slog::o!());
    RawNode::new(&config, storage, &silent).expect("a valid configuration")
}

impl Three {
    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            self.inboxes[message.to as usize - 1].push_back(message);
        }
    }

    fn apply(&mut self, number: usize, committed: Vec<Entry>) {
        for entry in committed {
            self.applied_bytes[number] += entry.data.len() as u64;
        }
    }

    /// Whether there was anything to do for this node.
    fn serve(&mut self, number: usize) -> bool {
        let mut any = false;
        while let Some(message) = self.inboxes[number].pop_front() {
            self.nodes[number].step(message).expect("a message of its own kind");
            any = true;
        }
        while self.nodes[number].has_ready() {
            any = true;
            let mut ready = self.nodes[number].ready();
            self.send(ready.take_messages());
            self.apply(number, ready.take_committed_entries());
            {
                let mut storage = self.nodes[number].mut_store().wl();
                storage.append(ready.entries()).expect("consecutive entries");
                if let Some(hard_state) = ready.hs() {
                    storage.set_hardstate(hard_state.clone());
                }
            }
            self.send(ready.take_persisted_messages());
            let mut light = self.nodes[number].advance(ready);
            if let Some(commit) = light.commit_index() {
                self.nodes[number].mut_store().wl().mut_hard_state().commit = commit;
            }
            self.send(light.take_messages());
            self.apply(number, light.take_committed_entries());
            self.nodes[number].advance_apply();
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
        three.nodes[0].campaign().expect("a voter");
        three.settle();
        assert_eq!(three.nodes[0].raft.state, StateRole::Leader);
        three
    }

    fn propose(&mut self, command: Vec<u8>) {
        self.nodes[0].propose(Vec::new(), command).expect("a leader with room");
    }

    fn settle(&mut self) {
        while (0..3).fold(false, |any, number| self.serve(number) | any) {}
    }

    fn applied_bytes(&self) -> [u64; 3] {
        self.applied_bytes
    }
}
