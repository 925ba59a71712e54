//! The worker's side of the command slots: puts requests of several parts together, and hands long
//! answers out part by part. One thread only: the worker's main thread.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::slots::{SlotId, Slots, State, Word};

/// A request as the worker takes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Where the answer belongs.
    pub id: SlotId,
    /// The process that asks.
    pub pid: i32,
    /// The request's bytes.
    pub bytes: Vec<u8>,
}

/// What the worker holds for backends between two parts. Bounded: a request has at most
/// `REQUEST_BYTES_MAX` bytes, and how many long answers there are is for the caller to limit
/// ([`Turns`]).
#[derive(Debug)]
pub struct Desk {
    slots: &'static Slots,
    /// Requests of which more is to come.
    incoming: BTreeMap<SlotId, Vec<u8>>,
    /// Answers of which more is to go.
    outgoing: BTreeMap<SlotId, Outgoing>,
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    /// When the backend must have asked for the next part, CLOCK_BOOTTIME.
    until_ns: u64,
}

/// How long a backend may take to ask for the next part of an answer. It does nothing else, so one
/// that takes longer has been stopped.
const PART_NS_MAX: u64 = 60_000_000_000;

impl Desk {
    /// Nothing held yet.
    pub fn new(slots: &'static Slots) -> Desk {
        Desk { slots, incoming: BTreeMap::new(), outgoing: BTreeMap::new() }
    }

    /// Does what the backends wait for: takes requests and hands out further parts. `wake` is told,
    /// by PGPROC number, who is to look. To be called after each wake-up.
    pub fn serve(&mut self, now_ns: u64, mut wake: impl FnMut(i32)) -> Vec<Taken> {
        let mut requests = Vec::new();
        for (id, word) in self.slots.calling() {
            match word.state {
                State::Requested => requests.extend(self.take(id, word, &mut wake)),
                _ => self.hand_on(id, now_ns, &mut wake),
            }
        }
        self.forget(now_ns, &mut wake);
        requests
    }

    /// What nobody waits for any more.
    fn forget(&mut self, now_ns: u64, wake: &mut impl FnMut(i32)) {
        let slots = self.slots;
        self.incoming.retain(|id, _| slots.is_held(*id));
        self.outgoing.retain(|id, answer| {
            if now_ns >= answer.until_ns {
                slots.abandon_answered(*id).into_iter().for_each(&mut *wake);
            }
            slots.is_held(*id)
        });
    }

    /// A slot at `Requested`; the request if that is all of it.
    fn take(&mut self, id: SlotId, word: Word, wake: &mut impl FnMut(i32)) -> Option<Taken> {
        let part = self.slots.copy_request(id);
        let before = self.incoming.get(&id).map_or(0, Vec::len);
        let is_last = part.offset + part.bytes.len() >= part.total;
        let to = match part.offset == before {
            // A former worker had the beginning.
            false => State::Abandoned,
            true if is_last => State::Taken,
            true => State::Claimed,
        };
        let procno = self.slots.step_taken(id, word, to)?;
        let mut bytes = self.incoming.remove(&id).unwrap_or_default();
        bytes.extend_from_slice(&part.bytes);
        match to {
            State::Taken => return Some(Taken { id, pid: word.pid, bytes }),
            State::Claimed => drop(self.incoming.insert(id, bytes)),
            _ => {}
        }
        wake(procno);
        None
    }

    /// A backend asks for the next part of its answer.
    fn hand_on(&mut self, id: SlotId, now_ns: u64, wake: &mut impl FnMut(i32)) {
        // Nothing held: a former worker's answer, and `abandon_taken` has said so.
        let Some(answer) = self.outgoing.remove(&id) else { return };
        if let Some(procno) = self.write(id, answer.bytes, answer.sent, now_ns) {
            wake(procno);
        }
    }

    /// Answers a request, or begins to. Returns whom to wake, by PGPROC number; `None`: the query
    /// has given up.
    pub fn answer(&mut self, id: SlotId, bytes: Vec<u8>, now_ns: u64) -> Option<i32> {
        self.write(id, bytes, 0, now_ns)
    }

    /// The next part of an answer.
    fn write(&mut self, id: SlotId, bytes: Vec<u8>, sent: usize, now_ns: u64) -> Option<i32> {
        let (sent, procno) = self.slots.answer(id, &bytes, sent)?;
        if sent < bytes.len() {
            let until_ns = now_ns + PART_NS_MAX;
            self.outgoing.insert(id, Outgoing { bytes, sent, until_ns });
        }
        Some(procno)
    }

    /// Whether a part of the answer is still to go.
    pub fn is_handing_out(&self, id: SlotId) -> bool {
        self.outgoing.contains_key(&id)
    }

    /// How many bytes are held for others.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        let incoming: usize = self.incoming.values().map(Vec::len).sum();
        incoming + self.outgoing.values().map(|answer| answer.bytes.len()).sum::<usize>()
    }
}

/// Who may do something that takes much memory, a few at a time; the others wait in line.
#[derive(Debug)]
pub struct Turns<T> {
    at_most: usize,
    running: BTreeSet<SlotId>,
    waiting: VecDeque<(SlotId, T)>,
}

impl<T> Turns<T> {
    /// So many at a time.
    pub fn new(at_most: usize) -> Turns<T> {
        Turns { at_most, running: BTreeSet::new(), waiting: VecDeque::new() }
    }

    /// Stands in line. Each slot stands there once, so the line is no longer than there are slots
    /// if [`Turns::next`] is told who still waits.
    pub fn wait(&mut self, id: SlotId, what: T) {
        self.waiting.push_back((id, what));
    }

    /// Whose turn it is: the first in line who `is_held`, once fewer run than may. `runs` says of
    /// those who had their turn whether it lasts.
    pub fn next(
        &mut self,
        is_held: impl Fn(SlotId) -> bool,
        runs: impl Fn(SlotId) -> bool,
    ) -> Option<(SlotId, T)> {
        self.running.retain(|id| runs(*id));
        self.waiting.retain(|(id, _)| is_held(*id));
        if self.running.len() >= self.at_most {
            return None;
        }
        let (id, what) = self.waiting.pop_front()?;
        self.running.insert(id);
        Some((id, what))
    }
}
