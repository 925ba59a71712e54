//! Command slots: how a backend hands a request to the worker and gets the answer.
//!
//! A slot goes round one way, each step a compare-and-swap of its one state word, which holds
//! owner, generation and state together:
//!
//! ```text
//!   Free ──claim──► Claimed ──submit──► Requested ──take──► Taken ─► Answering ─► Answered ─┐
//!     ▲  backend     ▲ │  backend         │     worker         ▲         worker     │  backend
//!     │              │ └──────────────────┘                    └────── More ◄───────┘       │
//!     │              └─ the worker, if that was a part          the backend, if that was a  │
//!     │                 of the request                                   part of the answer │
//!     └────────── drop of the backend's handle, from any state; or the worker, ◄────────────┘
//!                 when the owner's process is gone
//! ```
//!
//! There is one buffer for both ways, and it belongs to whom the state names: to the backend in
//! `Claimed`, `Answered` and `More`, to the worker in `Answering`, and to be read only in
//! `Requested`. What is longer than the buffer goes through it in parts (`call`, `desk`).
//!
//! The generation grows with each claim. A backend that gives up just frees its slot: the worker's
//! answer then finds another generation, or none, and is dropped. Only while the worker writes into
//! the buffer (`Answering`) the slot is left to it (`Dropped`) and freed by it, lest the next owner
//! writes there, too. What a slot carries is bytes; their meaning is `wire`'s.

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering, fence};

use super::seqlock::Words;

/// Requests under way at once; each waits for a commit at most, so more would only queue elsewhere.
pub const SLOTS: usize = 64;
/// What goes through a slot at once: the longest value of the store with its key, and room for what
/// belongs to it, so that all but a compare-and-swap of two long values is one part.
pub const PART_BYTES_MAX: usize = 9 << 10;

/// Where a slot stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum State {
    Free = 0,
    /// The backend writes its request, or the next part of it.
    Claimed = 1,
    /// The worker is to take what lies there.
    Requested = 2,
    /// The worker has all of the request.
    Taken = 3,
    /// The answer, or a part of it, lies there.
    Answered = 4,
    /// A former worker took the request and ended; nobody knows what came of it.
    Abandoned = 5,
    /// The worker writes.
    Answering = 6,
    /// The backend has that part of the answer; the worker is to write the next.
    More = 7,
    /// The backend gave up while the worker writes; the worker frees it.
    Dropped = 8,
}

/// owner pid (24 bits: Linux ends at 2^22) | generation (32) | state (8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Word {
    pub(super) pid: i32,
    pub(super) generation: u32,
    pub(super) state: State,
}

impl Word {
    fn unpack(bits: u64) -> Word {
        let state = match bits as u8 {
            1 => State::Claimed,
            2 => State::Requested,
            3 => State::Taken,
            4 => State::Answered,
            5 => State::Abandoned,
            6 => State::Answering,
            7 => State::More,
            8 => State::Dropped,
            _ => State::Free,
        };
        Word { pid: (bits >> 40) as i32, generation: (bits >> 8) as u32, state }
    }

    fn pack(self) -> u64 {
        (self.pid as u64) << 40 | u64::from(self.generation) << 8 | self.state as u64
    }

    /// The same claim at another place on its way.
    fn at(self, state: State) -> Word {
        Word { state, ..self }
    }
}

#[repr(C, align(64))]
#[derive(Debug, Default)]
struct Slot {
    word: AtomicU64,
    /// The owner's number in Postgres' PGPROC array, for SetLatch. Written between claim and
    /// submit.
    procno: AtomicI32,
    /// Where in the request or the answer the part begins that lies in `bytes`.
    offset: AtomicU32,
    /// How long the part is.
    len: AtomicU32,
    /// How long the whole request or answer is.
    total: AtomicU32,
    bytes: Words<{ PART_BYTES_MAX / 8 }>,
}

/// A piece of a request or an answer, as it lies in a slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Part {
    /// Where it begins in the whole.
    pub(super) offset: usize,
    /// How long the whole is.
    pub(super) total: usize,
    /// The piece.
    pub(super) bytes: Vec<u8>,
}

impl Slot {
    fn word(&self) -> Word {
        Word::unpack(self.word.load(Ordering::Acquire))
    }

    /// Whether it stood at `from` and now stands at `to`.
    fn step(&self, from: Word, to: Word) -> bool {
        self.word
            .compare_exchange(from.pack(), to.pack(), Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// For whom the buffer belongs to. The part of `whole` that begins at `offset`; returns how
    /// long it is.
    fn store(&self, whole: &[u8], offset: usize) -> usize {
        let part = &whole[offset..whole.len().min(offset + PART_BYTES_MAX)];
        self.bytes.store(part);
        self.offset.store(offset as u32, Ordering::Relaxed);
        self.len.store(part.len() as u32, Ordering::Relaxed);
        self.total.store(whole.len() as u32, Ordering::Relaxed);
        part.len()
    }

    fn load(&self) -> Part {
        Part {
            offset: self.offset.load(Ordering::Relaxed) as usize,
            total: self.total.load(Ordering::Relaxed) as usize,
            bytes: self.bytes.load(self.len.load(Ordering::Relaxed) as usize),
        }
    }

    /// Whether what lies there is the end of the whole.
    fn is_last(&self) -> bool {
        let end = self.offset.load(Ordering::Relaxed) + self.len.load(Ordering::Relaxed);
        end >= self.total.load(Ordering::Relaxed)
    }

    /// Frees the slot from wherever `word` stands. `false`: it had moved on meanwhile.
    fn release(&self, word: Word) -> bool {
        match word.state {
            // The worker frees it: it is writing there.
            State::Answering => self.step(word, word.at(State::Dropped)),
            _ => self.step(word, Word { pid: 0, ..word.at(State::Free) }),
        }
    }
}

/// All slots.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Slots {
    /// Where the next claim starts to look, so that slots wear evenly and claims rarely collide.
    next: AtomicU32,
    slots: [Slot; SLOTS],
}

/// Names one claim of one slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotId {
    /// Which slot.
    pub index: u32,
    /// Which claim of it.
    pub generation: u32,
}

impl SlotId {
    /// As one number, for `Runtime::request`.
    pub fn token(self) -> u64 {
        u64::from(self.index) << 32 | u64::from(self.generation)
    }

    /// Back from `token`.
    pub fn from_token(token: u64) -> SlotId {
        SlotId { index: (token >> 32) as u32, generation: token as u32 }
    }
}

/// What a waiting backend finds in its slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Look {
    /// Nothing new.
    Waiting,
    /// The worker has the part of the request that was submitted and wants the next.
    SendOn,
    /// A part of the answer.
    Answered(Part),
    /// The worker ended after it took the request: the outcome is unknown.
    Abandoned,
}

/// A backend's hold on a slot; dropping it frees the slot, whatever the worker is doing with it.
#[derive(Debug)]
pub struct SlotHandle<'a> {
    slots: &'a Slots,
    id: SlotId,
    pid: i32,
}

impl Slots {
    /// Backend: claims a free slot for the process `pid`; `None` when all are in use.
    pub fn claim(&self, pid: i32, procno: i32) -> Option<SlotHandle<'_>> {
        let start = self.next.fetch_add(1, Ordering::Relaxed) as usize;
        for index in (start..start + SLOTS).map(|index| index % SLOTS) {
            let slot = &self.slots[index];
            let free = slot.word();
            let generation = free.generation.wrapping_add(1);
            let claimed = Word { pid, generation, state: State::Claimed };
            if free.state == State::Free && slot.step(free, claimed) {
                slot.procno.store(procno, Ordering::Relaxed);
                let id = SlotId { index: index as u32, generation };
                return Some(SlotHandle { slots: self, id, pid });
            }
        }
        None
    }

    /// Worker: the slots that wait for it, as they stand now.
    pub(super) fn calling(&self) -> impl Iterator<Item = (SlotId, Word)> + '_ {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let word = slot.word();
            let id = SlotId { index: index as u32, generation: word.generation };
            matches!(word.state, State::Requested | State::More).then_some((id, word))
        })
    }

    /// Worker: copies what lies in a slot that stood at `Requested`. Only a `step_taken` that
    /// succeeds later proves it whole: the owner may give up meanwhile, and the next one write.
    pub(super) fn copy_request(&self, id: SlotId) -> Part {
        let part = self.slot(id).load();
        // With the release fence in `submit`: whoever read a byte of the next owner's sees the
        // slot's word changed.
        fence(Ordering::Acquire);
        part
    }

    /// Worker: what it copied was whole, and the slot goes on to `to`. Returns whom to wake.
    pub(super) fn step_taken(&self, id: SlotId, requested: Word, to: State) -> Option<i32> {
        let slot = self.slot(id);
        let procno = slot.procno.load(Ordering::Relaxed);
        slot.step(requested, requested.at(to)).then_some(procno)
    }

    /// Worker, from one thread only: writes the part of the answer that begins at `offset`, to a
    /// slot that waits for it. Returns the part's end and whom to wake, by PGPROC number; `None`:
    /// the query has given up.
    pub(super) fn answer(&self, id: SlotId, whole: &[u8], offset: usize) -> Option<(usize, i32)> {
        let slot = self.slots.get(id.index as usize)?;
        let word = slot.word();
        let waits = if offset == 0 { State::Taken } else { State::More };
        let writing = word.at(State::Answering);
        let stands = word.state == waits && word.generation == id.generation;
        if !stands || !slot.step(word, writing) {
            return None;
        }
        let end = offset + slot.store(whole, offset);
        let procno = slot.procno.load(Ordering::Relaxed);
        if slot.step(writing, word.at(State::Answered)) {
            return Some((end, procno));
        }
        slot.release(word.at(State::Dropped));
        None
    }

    /// Worker: gives up an answer of which the backend has not asked for the next part. Returns
    /// whom to wake.
    pub(super) fn abandon_answered(&self, id: SlotId) -> Option<i32> {
        let slot = self.slots.get(id.index as usize)?;
        let word = slot.word();
        let stands = word.state == State::Answered && word.generation == id.generation;
        let procno = slot.procno.load(Ordering::Relaxed);
        (stands && slot.step(word, word.at(State::Abandoned))).then_some(procno)
    }

    /// Worker, when it begins: tells those whom its predecessor left waiting. Returns whom to wake.
    pub fn abandon_taken(&self) -> Vec<i32> {
        let left_waiting = self.slots.iter().filter_map(|slot| {
            let word = slot.word();
            let procno = slot.procno.load(Ordering::Relaxed);
            let abandoned = match word.state {
                State::Taken | State::Answering | State::More => true,
                State::Answered => !slot.is_last(),
                _ => false,
            };
            if word.state == State::Dropped {
                slot.release(word);
            }
            (abandoned && slot.step(word, word.at(State::Abandoned))).then_some(procno)
        });
        left_waiting.collect()
    }

    /// Frees the slots of processes that ended without doing so. `lives` says whether a pid is in
    /// use (`sys::pid_in_use`). Returns how many.
    pub fn reclaim(&self, lives: impl Fn(i32) -> bool) -> usize {
        let reclaimed = self.slots.iter().filter(|slot| {
            let word = slot.word();
            let in_use = !matches!(word.state, State::Free | State::Dropped);
            in_use && !lives(word.pid) && slot.release(word)
        });
        reclaimed.count()
    }

    /// Whether this claim still stands: its owner has not given up.
    pub fn is_held(&self, id: SlotId) -> bool {
        let word = self.slots.get(id.index as usize).map(Slot::word);
        word.is_some_and(|word| {
            word.generation == id.generation
                && !matches!(word.state, State::Free | State::Dropped | State::Abandoned)
        })
    }

    /// How many slots are in use.
    pub fn in_use(&self) -> usize {
        self.slots.iter().filter(|slot| slot.word().state != State::Free).count()
    }

    fn slot(&self, id: SlotId) -> &Slot {
        &self.slots[id.index as usize]
    }

    /// As a worker that dies while it writes an answer.
    #[cfg(test)]
    pub(super) fn leave_answering(&self, id: SlotId) {
        let slot = self.slot(id);
        let word = slot.word();
        assert!(slot.step(word, word.at(State::Answering)));
    }
}

impl SlotHandle<'_> {
    /// Which claim this is.
    pub fn id(&self) -> SlotId {
        self.id
    }

    /// Hands the part of the request that begins at `offset` to the worker, which must then be
    /// woken. Returns where the part ends; `None` if it is not this side's turn.
    pub(super) fn submit(&self, whole: &[u8], offset: usize) -> Option<usize> {
        let slot = self.slot();
        let claimed = self.word(State::Claimed);
        if slot.word() != claimed {
            return None;
        }
        // A worker that still copies a former owner's request must not take these bytes for it: its
        // step of the state word comes after them (`copy_request`), and the claim came before.
        fence(Ordering::Release);
        let end = offset + slot.store(whole, offset);
        slot.step(claimed, claimed.at(State::Requested)).then_some(end)
    }

    /// What has come. Look after each wake-up of the latch.
    pub(super) fn look(&self) -> Look {
        let slot = self.slot();
        let word = slot.word();
        if word.pid != self.pid || word.generation != self.id.generation {
            // Taken away: only a worker that takes this process for dead does so.
            return Look::Abandoned;
        }
        match word.state {
            State::Claimed => Look::SendOn,
            State::Answered => Look::Answered(slot.load()),
            State::Free | State::Dropped | State::Abandoned => Look::Abandoned,
            State::Requested | State::Taken | State::Answering | State::More => Look::Waiting,
        }
    }

    /// Asks for the next part of the answer; the worker must then be woken. `false`: it has ended
    /// meanwhile.
    pub(super) fn ask_for_more(&self) -> bool {
        self.slot().step(self.word(State::Answered), self.word(State::More))
    }

    /// Whether the worker has all of the request: before that, giving up means nothing was done.
    pub fn was_taken(&self) -> bool {
        let word = self.slot().word();
        word != self.word(State::Claimed) && word != self.word(State::Requested)
    }

    fn slot(&self) -> &Slot {
        self.slots.slot(self.id)
    }

    fn word(&self, state: State) -> Word {
        Word { pid: self.pid, generation: self.id.generation, state }
    }
}

impl Drop for SlotHandle<'_> {
    fn drop(&mut self) {
        // The worker may step the slot at the same time, a few times more at most: it goes on only
        // when this side does.
        loop {
            let word = self.slot().word();
            let owned = word.pid == self.pid && word.generation == self.id.generation;
            let gone = matches!(word.state, State::Free | State::Dropped);
            if !owned || gone || self.slot().release(word) {
                return;
            }
        }
    }
}
