//! Reads of the key/value store. Every node answers from what it has applied itself; a consistent
//! read first asks the leader how far that must be, who first makes sure of a majority that it
//! still leads (dissertation §6.4). Never by lease: an election that is forced waits for none.

use crate::bugs::{self, Bug};
use std::collections::BTreeMap;

use crate::cluster::{Answer, Done, Found, Request};
use crate::raft::{LogIndex, ReadReady};
use crate::shmem::Counter;

use super::consensus::Consensus;
use super::effects::Effects;
use super::failures;

/// Reads that wait at once.
const READS_MAX: usize = 1024;
/// Questions to the leader under way at once. One serves all reads that came before it.
const QUESTIONS_MAX: usize = 16;

/// One read.
#[derive(Debug)]
struct Read {
    token: u64,
    request: Request,
    deadline_ns: u64,
}

/// All consistent reads under way.
#[derive(Debug, Default)]
pub struct Reads {
    /// Not in any question yet.
    waiting: Vec<Read>,
    /// The last question failed: none before the next tick.
    held: bool,
    /// By the question they are in.
    asked: BTreeMap<u64, Vec<Read>>,
    last_question: u64,
    /// By what must be applied.
    placed: BTreeMap<LogIndex, Vec<Read>>,
}

impl Reads {
    /// No question repeats a number of one that was asked in a former run: its answer may yet come.
    pub fn new(boots: u64) -> Reads {
        Reads { last_question: boots << 32, ..Reads::default() }
    }

    fn len(&self) -> usize {
        let of = |reads: &BTreeMap<_, Vec<Read>>| reads.values().map(Vec::len).sum::<usize>();
        let placed: usize = self.placed.values().map(Vec::len).sum();
        self.waiting.len() + of(&self.asked) + placed
    }

    /// A question was answered, or failed.
    fn answered(&mut self, ready: ReadReady) {
        let Some(mut reads) = self.asked.remove(&ready.token) else { return };
        match ready.index {
            Some(index) => self.placed.entry(index).or_default().append(&mut reads),
            None => {
                self.held = true;
                self.waiting.append(&mut reads);
            }
        }
    }

    /// Takes out those whose time is over.
    fn late(&mut self, now_ns: u64) -> Vec<Read> {
        let mut late = Vec::new();
        let lists = std::iter::once(&mut self.waiting)
            .chain(self.asked.values_mut())
            .chain(self.placed.values_mut());
        for list in lists {
            late.extend(list.extract_if(.., |read| now_ns >= read.deadline_ns));
        }
        late
    }

    /// Takes out those that may be answered once `applied` is.
    fn ripe(&mut self, applied: LogIndex) -> Vec<Read> {
        let mut ripe = Vec::new();
        while let Some(first) = self.placed.first_entry().filter(|first| *first.key() <= applied) {
            ripe.append(&mut first.remove());
        }
        ripe
    }
}

impl<E: Effects> Consensus<E> {
    /// A backend asks.
    pub(super) fn ask_read(&mut self, token: u64, request: Request, deadline_ns: u64) {
        let consistent = match request {
            Request::Get { consistent, .. }
            | Request::Keys { consistent, .. }
            | Request::Items { consistent } => consistent,
            _ => return,
        };
        if self.removed {
            let removed = failures::removed(&self.config.cluster_id);
            self.answers.push((token, Err(removed)));
        } else if consistent && self.reads.len() >= READS_MAX {
            self.answers.push((token, Err(failures::busy(READS_MAX))));
        } else if consistent && !bugs::on(Bug::StaleRead) {
            self.reads.waiting.push(Read { token, request, deadline_ns });
        } else if self.is_unformed() {
            self.answers.push((token, Err(failures::unformed(&self.trouble()))));
        } else {
            self.answer_read(token, &request);
        }
    }

    /// Asks, in one question, for all reads that came since the last one.
    pub(super) fn serve_reads(&mut self) {
        let full = self.reads.asked.len() >= QUESTIONS_MAX;
        if self.reads.waiting.is_empty() || self.reads.held || full {
            return;
        }
        let question = self.reads.last_question + 1;
        match self.node.read_index(question) {
            Ok(()) => {
                self.reads.last_question = question;
                let reads = std::mem::take(&mut self.reads.waiting);
                self.reads.asked.insert(question, reads);
            }
            // There is no leader, or too many ask it.
            Err(_) => self.reads.held = true,
        }
    }

    /// Answers what can be, now that everything committed so far is applied.
    pub(super) fn answer_reads(&mut self, ready: Vec<ReadReady>) {
        for ready in ready {
            self.reads.answered(ready);
        }
        for read in self.reads.ripe(self.cluster.applied) {
            self.answer_read(read.token, &read.request);
        }
    }

    fn answer_read(&mut self, token: u64, request: &Request) {
        self.fx.count(Counter::StoreReads, 1);
        let done = Done { found: self.find(request), ..Done::default() };
        self.answers.push((token, Ok(done)));
    }

    fn find(&self, request: &Request) -> Found {
        let store = &self.cluster.store;
        match request {
            Request::Get { key, .. } => Found::Value(store.get(key).map(|item| item.value.clone())),
            Request::Keys { prefix, .. } => Found::Keys(store.keys(prefix).cloned().collect()),
            Request::Items { .. } => {
                let items = store.items().map(|(key, item)| (key.clone(), item.clone()));
                Found::Items(items.collect())
            }
            _ => Found::Nothing,
        }
    }

    /// Ends what has run out of time; questions may be asked again.
    pub(super) fn tick_reads(&mut self) {
        self.reads.held = false;
        let late = self.reads.late(self.fx.now_ns());
        if late.is_empty() {
            return;
        }
        let answer: Answer = Err(match self.is_member() && self.node.leader().is_some() {
            true => failures::read_unconfirmed(&self.unreached_text()),
            false => self.nobody_asked(&self.unreached_text()),
        });
        self.answers.extend(late.into_iter().map(|read| (read.token, answer.clone())));
    }
}
