//! Clients of the key/value store, on every node, and the history of what they were told.
//!
//! Each key's history is checked by itself (`pgraft-history`), by a search that grows exponentially
//! with what overlaps; so a key is left for a new one after some dozens of operations, or a few
//! whose outcome nobody knows.

use std::collections::BTreeMap;

use pgraft::cluster::{Answer, Change, Done, FailureKind, Found, Request};
use pgraft_history::{Checked, History, Op, Ret, Ticket};

use crate::world::{What, World};

/// Operations on one key.
const OPERATIONS_MAX: u32 = 30;
/// Operations on one key at once, those included of which nobody will ever know.
const OVERLAP_MAX: u32 = 5;

/// A key in use.
#[derive(Clone, Debug)]
struct Key {
    name: String,
    operations: u32,
    /// Under way, or lost.
    open: u32,
    /// A value that may be in it, for a cas to expect.
    value: Option<String>,
}

/// A question under way.
#[derive(Debug)]
struct Question {
    ticket: Ticket,
    key: String,
    op: Op,
    host: u32,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Clients {
    history: History,
    keys: Vec<Key>,
    made: u64,
    questions: BTreeMap<u64, Question>,
    /// Local reads under way, with the process asked.
    local: BTreeMap<u64, (u32, u64)>,
    /// What a process said that it has: the entry that made it so, by key. It never goes back.
    shown: BTreeMap<(u32, u64), BTreeMap<String, u64>>,
}

impl World {
    /// A client asks for something.
    pub(crate) fn client(&mut self) {
        if self.mix.ask_every_ns == 0 {
            return;
        }
        let pause = 1 + self.random.below(self.mix.ask_every_ns);
        self.schedule(self.now_ns + pause, What::Client);
        let running: Vec<u32> =
            self.hosts.values().filter(|host| host.up.is_some()).map(|host| host.node).collect();
        if !running.is_empty() {
            let host = self.random.pick(&running);
            self.ask_store(host);
        }
    }

    fn ask_store(&mut self, host: u32) {
        let timeout_ms = self.random.pick(&[500, 2000, 5000]);
        if self.random.chance(100_000) {
            let boot = self.hosts[&host].boot;
            let token = self.request(host, Request::Items { consistent: false }, timeout_ms);
            self.clients.local.insert(token, (host, boot));
            return;
        }
        let at = self.random.below(self.mix.keys) as usize;
        let key = self.key(at);
        let op = self.operation(&key);
        self.ask_of(host, key.name, op, timeout_ms);
    }

    /// The key in use at this place, or the next one.
    fn key(&mut self, at: usize) -> Key {
        let clients = &mut self.clients;
        let used_up = |key: &Key| key.operations >= OPERATIONS_MAX || key.open >= OVERLAP_MAX;
        while clients.keys.len() <= at || used_up(&clients.keys[at]) {
            clients.made += 1;
            let name = format!("key{}", clients.made);
            let key = Key { name, operations: 0, open: 0, value: None };
            match clients.keys.get_mut(at) {
                Some(place) => *place = key,
                None => clients.keys.push(key),
            }
        }
        clients.keys[at].clone()
    }

    fn operation(&mut self, key: &Key) -> Op {
        let kind = self.random.below(10);
        if kind < 4 {
            return Op::Get;
        }
        self.clients.made += 1;
        let padding = self.random.below(self.mix.value_bytes + 1) as usize;
        let value = format!("{}{}", self.clients.made, " ".repeat(padding));
        match kind {
            4..=6 => Op::Put(value),
            7 => Op::Delete,
            _ => Op::Cas(key.value.clone(), value),
        }
    }

    fn ask_of(&mut self, host: u32, key: String, op: Op, timeout_ms: u32) {
        let change = match op.clone() {
            Op::Get => None,
            Op::Put(value) => Some(Change::Put { key: key.clone(), value }),
            Op::Delete => Some(Change::Delete { key: key.clone() }),
            Op::Cas(expected, value) => Some(Change::Cas { key: key.clone(), expected, value }),
        };
        let request = match change {
            None => Request::Get { key: key.clone(), consistent: true },
            Some(change) => Request::Store { id: None, change },
        };
        if let Some(used) = self.clients.keys.iter_mut().find(|used| used.name == key) {
            used.operations += 1;
            used.open += 1;
        }
        let ticket = self.clients.history.begin(host, &key, op.clone());
        let token = self.request(host, request, timeout_ms);
        self.clients.questions.insert(token, Question { ticket, key, op, host });
        self.stats.questions += 1;
    }

    /// An answer came; `false`: it is not for a client.
    pub(crate) fn client_hears(&mut self, token: u64, answer: &Answer) -> bool {
        if let Some(asked) = self.clients.local.remove(&token) {
            if let Ok(Done { found: Found::Items(items), .. }) = answer {
                let shown = self.clients.shown.entry(asked).or_default();
                for (key, item) in items {
                    let before = shown.insert(key.clone(), item.mod_index.0);
                    assert!(
                        before.is_none_or(|before| before <= item.mod_index.0),
                        "local reads go forward: node {} shows {key} of {:?} after {before:?}",
                        asked.0,
                        item.mod_index
                    );
                }
            }
            return true;
        }
        let Some(question) = self.clients.questions.remove(&token) else { return false };
        let Question { ticket, key, op, .. } = question;
        let known = match answer {
            Ok(done) => {
                self.clients.history.end(ticket, ret(&op, done));
                true
            }
            Err(failure) if failure.kind == FailureKind::OutcomeUnknown => op == Op::Get,
            Err(_) => {
                self.clients.history.refused(ticket);
                true
            }
        };
        if let Some(used) = self.clients.keys.iter_mut().find(|used| used.name == key) {
            used.open -= u32::from(known);
            match (op, answer) {
                (Op::Put(value) | Op::Cas(_, value), Ok(_)) => used.value = Some(value),
                (Op::Get, Ok(Done { found: Found::Value(value), .. })) => {
                    used.value.clone_from(value);
                }
                _ => {}
            }
        }
        true
    }

    /// A process is gone: nobody will answer. A read that is not answered asks for nothing.
    pub(crate) fn clients_lose(&mut self, host: u32) {
        let clients = &mut self.clients;
        clients.local.retain(|_, (asked, _)| *asked != host);
        let (lost, kept) = std::mem::take(&mut clients.questions)
            .into_iter()
            .partition(|(_, question)| question.host == host);
        clients.questions = kept;
        let lost: BTreeMap<u64, Question> = lost;
        for question in lost.into_values().filter(|question| question.op == Op::Get) {
            if let Some(used) = clients.keys.iter_mut().find(|used| used.name == question.key) {
                used.open -= 1;
            }
        }
    }

    /// At the end each key in use is read on each node, which shows what became of the rest.
    pub(crate) fn read_all(&mut self) {
        let nodes: Vec<u32> = self.hosts.keys().copied().collect();
        let keys: Vec<String> = self.clients.keys.iter().map(|key| key.name.clone()).collect();
        for key in keys {
            for &host in &nodes {
                self.ask_of(host, key.clone(), Op::Get, 5000);
            }
        }
    }

    /// Whether one copy of the store could have answered so.
    pub(crate) fn check_history(&self) -> Checked {
        match self.clients.history.check() {
            Ok(checked) => checked,
            Err(violation) => panic!("linearizability: {violation}"),
        }
    }
}

fn ret(op: &Op, done: &Done) -> Ret {
    match (op, &done.found) {
        (Op::Get, Found::Value(value)) => Ret::Value(value.clone()),
        (Op::Get, found) => panic!("a get is answered with a value, not {found:?}"),
        _ => Ret::Done(done.value),
    }
}
