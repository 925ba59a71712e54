//! What clients of the key/value store asked and were told, and whether one copy of the store could
//! have told them the same (Herlihy and Wing, "Linearizability", 1990).
//!
//! Linearizability is local: a history is linearizable if the history of each key is. So each key
//! is checked by itself, which keeps the search small. It is exponential in the operations on one
//! key that overlap: a workload does well to leave a key after some dozens of them.

use std::collections::BTreeMap;
use std::fmt;

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

/// What a client asks of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Set it.
    Put(String),
    /// Remove it.
    Delete,
    /// Set it if it has the expected value; `None`: if it does not exist.
    Cas(Option<String>, String),
    /// Read it.
    Get,
}

/// What a client is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ret {
    /// Of a put, always true; of a delete, whether there was something; of a cas, if it fitted.
    Done(bool),
    /// What was read.
    Value(Option<String>),
}

/// One key of a store that is in one place.
#[derive(Clone, Default, Debug)]
struct Key(Option<String>);

impl SequentialSpec for Key {
    type Op = Op;
    type Ret = Ret;

    fn invoke(&mut self, op: &Op) -> Ret {
        match op {
            Op::Put(value) => {
                self.0 = Some(value.clone());
                Ret::Done(true)
            }
            Op::Delete => Ret::Done(self.0.take().is_some()),
            Op::Cas(expected, value) => {
                let fits = self.0 == *expected;
                if fits {
                    self.0 = Some(value.clone());
                }
                Ret::Done(fits)
            }
            Op::Get => Ret::Value(self.0.clone()),
        }
    }
}

/// Names an operation that has begun.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket(usize);

/// What became of an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Outcome {
    /// Nobody knows: it may take effect at any time after it began, or never.
    Unknown,
    /// It certainly never takes effect.
    Refused,
    /// It took effect between its beginning and its end.
    Done(Ret),
}

#[derive(Clone, Debug)]
struct Operation {
    key: String,
    client: String,
    op: Op,
    outcome: Outcome,
}

/// All that happened, in the order in which it did.
#[derive(Clone, Default, Debug)]
pub struct History {
    operations: Vec<Operation>,
    /// The operation, and whether this is its end.
    events: Vec<(usize, bool)>,
}

/// How much was checked.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Checked {
    /// Keys with at least one operation.
    pub keys: usize,
    /// Operations whose outcome is known.
    pub known: usize,
    /// Writes whose outcome nobody knows.
    pub unknown: usize,
}

/// A key whose history no single copy of it could have produced.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The key.
    pub key: String,
    /// Its history, a line an event.
    pub history: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the history of key \"{}\" is not linearizable:\n{}", self.key, self.history)
    }
}

impl std::error::Error for Violation {}

impl History {
    /// Before `client` sends the question. Its outcome is unknown from now on.
    pub fn begin(&mut self, client: impl ToString, key: &str, op: Op) -> Ticket {
        let ticket = self.operations.len();
        let (key, client) = (key.to_owned(), client.to_string());
        self.operations.push(Operation { key, client, op, outcome: Outcome::Unknown });
        self.events.push((ticket, false));
        Ticket(ticket)
    }

    /// After the answer has come.
    pub fn end(&mut self, ticket: Ticket, ret: Ret) {
        self.operations[ticket.0].outcome = Outcome::Done(ret);
        self.events.push((ticket.0, true));
    }

    /// It was refused, in words that promise that it never takes effect.
    pub fn refused(&mut self, ticket: Ticket) {
        self.operations[ticket.0].outcome = Outcome::Refused;
        self.events.push((ticket.0, true));
    }

    /// Whether each key's history is linearizable.
    pub fn check(&self) -> Result<Checked, Box<Violation>> {
        let mut keys: BTreeMap<&str, Vec<(usize, bool)>> = BTreeMap::new();
        for &(operation, end) in &self.events {
            keys.entry(&self.operations[operation].key).or_default().push((operation, end));
        }
        let mut checked = Checked { keys: keys.len(), ..Checked::default() };
        for (key, events) in keys {
            if !self.is_linearizable(&events, &mut checked) {
                let key = key.to_owned();
                return Err(Box::new(Violation { key, history: self.lines(&events) }));
            }
        }
        Ok(checked)
    }

    fn is_linearizable(&self, events: &[(usize, bool)], checked: &mut Checked) -> bool {
        let mut tester = LinearizabilityTester::new(Key::default());
        let mut threads = Threads::default();
        for &(at, end) in events {
            let operation = &self.operations[at];
            let outcome = &operation.outcome;
            // What changed nothing and told nothing constrains nothing.
            let silent = *outcome == Outcome::Unknown && operation.op == Op::Get;
            if *outcome == Outcome::Refused || silent {
                continue;
            }
            let step = match outcome {
                Outcome::Done(ret) if end => {
                    checked.known += 1;
                    tester.on_return(threads.release(at), ret.clone())
                }
                _ => {
                    checked.unknown += usize::from(*outcome == Outcome::Unknown);
                    tester.on_invoke(threads.take(at), operation.op.clone())
                }
            };
            step.expect("an operation begins once and ends once");
        }
        tester.is_consistent()
    }

    fn lines(&self, events: &[(usize, bool)]) -> String {
        let mut lines = String::new();
        for &(at, end) in events {
            let Operation { client, op, outcome, .. } = &self.operations[at];
            let line = match (end, outcome) {
                (true, outcome) => format!("  #{at} {client}: {op:?} -> {outcome:?}\n"),
                (false, Outcome::Unknown) => format!("  #{at} {client}: {op:?} begins, no end\n"),
                (false, _) => format!("  #{at} {client}: {op:?} begins\n"),
            };
            lines.push_str(&line);
        }
        lines
    }
}

/// The checker wants threads that do one thing after another; as few as possible make its search
/// short. An operation without an end keeps its own for good.
#[derive(Default)]
struct Threads {
    busy: BTreeMap<u32, usize>,
}

impl Threads {
    fn take(&mut self, operation: usize) -> u32 {
        let free = (0..).find(|thread| !self.busy.contains_key(thread)).unwrap_or_default();
        self.busy.insert(free, operation);
        free
    }

    fn release(&mut self, operation: usize) -> u32 {
        let found = self.busy.iter().find(|(_, busy)| **busy == operation);
        let thread = *found.expect("what ends has begun").0;
        self.busy.remove(&thread);
        thread
    }
}

#[cfg(test)]
mod tests;
