//! Command slots: how a backend hands a request to the worker and gets the answer.
//!
//! A slot goes round one way, each step a compare-and-swap of its one state word, which holds
//! owner, generation and state together:
//!
//! ```text
//!   Free ──claim──► Claimed ──submit──► Requested ──take──► Taken ──answer──► Answered ─┐
//!     ▲  backend      backend             worker             worker            backend  │
//!     └────────── drop of the backend's handle, from any state; or the worker, ◄────────┘
//!                 when the owner's process is gone
//! ```
//!
//! The generation grows with each claim. A backend that gives up just frees its slot: the worker's
//! answer then finds another generation, or none, and is dropped. What a slot carries is bytes;
//! their meaning is `wire`'s.

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering, fence};

use super::seqlock::Words;

/// Requests under way at once; each waits for a commit at most, so more would only queue elsewhere.
pub const SLOTS: usize = 64;
/// The longest request: an address of 260 bytes is the longest thing that SQL can ask with.
pub const REQUEST_BYTES_MAX: usize = 1024;
/// The longest answer: a message, a detail and a hint.
pub const ANSWER_BYTES_MAX: usize = 2048;

/// Where a slot stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum State {
    Free = 0,
    Claimed = 1,
    Requested = 2,
    Taken = 3,
    Answered = 4,
    /// A former worker took the request and ended; nobody knows what came of it.
    Abandoned = 5,
}

/// owner pid (24 bits: Linux ends at 2^22) | generation (32) | state (8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Word {
    pid: i32,
    generation: u32,
    state: State,
}

impl Word {
    fn unpack(bits: u64) -> Word {
        let state = match bits as u8 {
            1 => State::Claimed,
            2 => State::Requested,
            3 => State::Taken,
            4 => State::Answered,
            5 => State::Abandoned,
            _ => State::Free,
        };
        Word { pid: (bits >> 40) as i32, generation: (bits >> 8) as u32, state }
    }

    fn pack(self) -> u64 {
        (self.pid as u64) << 40 | u64::from(self.generation) << 8 | self.state as u64
    }
}

#[repr(C, align(64))]
#[derive(Debug, Default)]
struct Slot {
    word: AtomicU64,
    /// The owner's number in Postgres' PGPROC array, for SetLatch. Written between claim and
    /// submit.
    procno: AtomicI32,
    request_len: AtomicU32,
    answer_len: AtomicU32,
    request: Words<{ REQUEST_BYTES_MAX / 8 }>,
    answer: Words<{ ANSWER_BYTES_MAX / 8 }>,
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
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
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

/// What a waiting backend finds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Poll {
    /// Nothing yet.
    Waiting,
    /// The answer's bytes.
    Answered(Vec<u8>),
    /// The worker ended after it took the request: the outcome is unknown.
    Abandoned,
}

/// Why a request was not submitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubmitError {
    /// Longer than `REQUEST_BYTES_MAX`.
    TooLong,
    /// Submitted before, or the slot was taken away.
    NotClaimed,
}

impl std::fmt::Display for SubmitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SubmitError::TooLong => {
                write!(f, "the request is longer than {REQUEST_BYTES_MAX} bytes")
            }
            SubmitError::NotClaimed => f.write_str("the command slot is not claimed"),
        }
    }
}

impl std::error::Error for SubmitError {}

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

    /// Worker: takes one submitted request, if there is any. Call until `None` after each wake-up.
    pub fn take(&self) -> Option<Taken> {
        loop {
            let (index, taken) = self.begin_take()?;
            if let Some(taken) = self.finish_take(index, taken) {
                return Some(taken);
            }
        }
    }

    /// Steps a submitted slot to `Taken`.
    pub(super) fn begin_take(&self) -> Option<(usize, Word)> {
        self.slots.iter().enumerate().find_map(|(index, slot)| {
            let word = slot.word();
            let taken = Word { state: State::Taken, ..word };
            (word.state == State::Requested && slot.step(word, taken)).then_some((index, taken))
        })
    }

    /// Copies the request of a slot just taken; `None` if its owner gave up meanwhile: the next one
    /// may have been writing its own request there.
    pub(super) fn finish_take(&self, index: usize, taken: Word) -> Option<Taken> {
        let slot = &self.slots[index];
        let bytes = slot.request.load(slot.request_len.load(Ordering::Relaxed) as usize);
        fence(Ordering::Acquire);
        let unchanged = slot.word.load(Ordering::Relaxed) == taken.pack();
        let id = SlotId { index: index as u32, generation: taken.generation };
        unchanged.then_some(Taken { id, pid: taken.pid, bytes })
    }

    /// Worker, from one thread only: takes all submitted requests.
    pub fn requested(&self) -> Vec<Taken> {
        std::iter::from_fn(|| self.take()).take(SLOTS).collect()
    }

    /// Worker, from one thread only: answers; bytes past `ANSWER_BYTES_MAX` are left out, so the
    /// caller shortens first. Returns whom to wake, by PGPROC number; `None`: the query has given
    /// up.
    pub fn answer(&self, index: u32, generation: u32, bytes: &[u8]) -> Option<i32> {
        let slot = self.slots.get(index as usize)?;
        let word = slot.word();
        if word.state != State::Taken || word.generation != generation {
            return None;
        }
        // Should the owner give up right now, these bytes lie in a slot of another generation,
        // whose owner does not look at them before this thread has answered it in turn.
        let len = bytes.len().min(ANSWER_BYTES_MAX);
        slot.answer.store(&bytes[..len]);
        slot.answer_len.store(len as u32, Ordering::Relaxed);
        let procno = slot.procno.load(Ordering::Relaxed);
        slot.step(word, Word { state: State::Answered, ..word }).then_some(procno)
    }

    /// Worker, when it begins: tells those whom its predecessor left waiting. Returns whom to wake.
    pub fn abandon_taken(&self) -> Vec<i32> {
        self.slots
            .iter()
            .filter_map(|slot| {
                let word = slot.word();
                let procno = slot.procno.load(Ordering::Relaxed);
                let abandoned = Word { state: State::Abandoned, ..word };
                (word.state == State::Taken && slot.step(word, abandoned)).then_some(procno)
            })
            .collect()
    }

    /// Worker, now and then: frees the slots of processes that ended without doing so. `lives` says
    /// whether a pid is in use (`sys::pid_in_use`). Returns how many.
    pub fn reclaim(&self, lives: impl Fn(i32) -> bool) -> usize {
        let reclaimed = self.slots.iter().filter(|slot| {
            let word = slot.word();
            word.state != State::Free && !lives(word.pid) && slot.step(word, free(word))
        });
        reclaimed.count()
    }

    /// How many slots are in use.
    pub fn in_use(&self) -> usize {
        self.slots.iter().filter(|slot| slot.word().state != State::Free).count()
    }
}

fn free(word: Word) -> Word {
    Word { pid: 0, generation: word.generation, state: State::Free }
}

impl SlotHandle<'_> {
    /// Which claim this is.
    pub fn id(&self) -> SlotId {
        self.id
    }

    /// Hands the request to the worker, which must then be woken.
    pub fn submit(&self, bytes: &[u8]) -> Result<(), SubmitError> {
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(SubmitError::TooLong);
        }
        let slot = self.slot();
        let claimed = self.word(State::Claimed);
        if slot.word() != claimed {
            return Err(SubmitError::NotClaimed);
        }
        // A worker that still copies a former owner's request must not take these bytes for it: its
        // second look at the state word comes after them (`take`), and the claim came before.
        fence(Ordering::Release);
        slot.request.store(bytes);
        slot.request_len.store(bytes.len() as u32, Ordering::Relaxed);
        match slot.step(claimed, self.word(State::Requested)) {
            true => Ok(()),
            false => Err(SubmitError::NotClaimed),
        }
    }

    /// Whether the answer has come. Look after each wake-up of the latch.
    pub fn poll(&self) -> Poll {
        let slot = self.slot();
        match slot.word() {
            word if word == self.word(State::Answered) => {
                Poll::Answered(slot.answer.load(slot.answer_len.load(Ordering::Relaxed) as usize))
            }
            word if word.pid == self.pid && word.generation == self.id.generation => {
                match word.state {
                    State::Abandoned => Poll::Abandoned,
                    _ => Poll::Waiting,
                }
            }
            // Taken away: only a worker that takes this process for dead does so.
            _ => Poll::Abandoned,
        }
    }

    /// Whether the worker has taken the request: before that, giving up means nothing was done.
    pub fn was_taken(&self) -> bool {
        let word = self.slot().word();
        word != self.word(State::Claimed) && word != self.word(State::Requested)
    }

    fn slot(&self) -> &Slot {
        &self.slots.slots[self.id.index as usize]
    }

    fn word(&self, state: State) -> Word {
        Word { pid: self.pid, generation: self.id.generation, state }
    }
}

impl Drop for SlotHandle<'_> {
    fn drop(&mut self) {
        // The worker may step the slot at the same time, at most twice more.
        loop {
            let word = self.slot().word();
            let owned = word.pid == self.pid && word.generation == self.id.generation;
            if !owned || word.state == State::Free || self.slot().step(word, free(word)) {
                return;
            }
        }
    }
}
