//! The change count that lets readers take a group of values together without a lock, and texts
//! made of atomics. Any process may read; one thread at a time writes.
//!
//! The count is odd while the writer is inside. Values are relaxed atomics, so a read that overlaps
//! a write is no undefined behaviour, only a value that the count then proves unusable. The
//! orderings are those of Boehm, "Can seqlocks get along with programming language memory models?"
//! (2012).

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

/// How often a reader tries while it burns the processor: a write takes about a microsecond.
const SPINS_MAX: u32 = 200;
/// How often it then lets others run: the writer may have been preempted inside.
const YIELDS_MAX: u32 = 50;
/// How often it then sleeps `NAP`, before it says that there is no value: 2 ms in all, because a
/// writer that died inside never comes back, and readers answer SQL.
const NAPS_MAX: u32 = 20;
const NAP: Duration = Duration::from_micros(50);

/// The change count.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct Sequence(AtomicU64);

impl Sequence {
    /// Runs `store`, which writes the values. For one writer at a time.
    ///
    /// A writer that died inside left the count odd; the next one goes on from there.
    pub fn write(&self, store: impl FnOnce()) {
        let odd = self.0.load(Ordering::Relaxed) | 1;
        self.0.store(odd, Ordering::Relaxed);
        // No store of a value may become visible before the odd count: with the reader's acquire
        // fence, whoever reads a new value sees the odd count, or a later one, at its second look.
        fence(Ordering::Release);
        store();
        self.0.store(odd.wrapping_add(1), Ordering::Release);
    }

    /// Runs `load` until no write overlapped it; `None` when that does not come about in 2 ms.
    #[inline]
    pub fn read<T>(&self, mut load: impl FnMut() -> T) -> Option<T> {
        match self.try_read(&mut load) {
            Some(value) => Some(value),
            None => self.read_patiently(&mut load),
        }
    }

    #[inline]
    fn try_read<T>(&self, load: &mut impl FnMut() -> T) -> Option<T> {
        let before = self.0.load(Ordering::Acquire);
        if before & 1 == 1 {
            return None;
        }
        let value = load();
        // The values are read before the count is read again.
        fence(Ordering::Acquire);
        (self.0.load(Ordering::Relaxed) == before).then_some(value)
    }

    #[cold]
    fn read_patiently<T>(&self, load: &mut impl FnMut() -> T) -> Option<T> {
        for attempt in 0..SPINS_MAX + YIELDS_MAX + NAPS_MAX {
            if attempt < SPINS_MAX {
                std::hint::spin_loop();
            } else if attempt < SPINS_MAX + YIELDS_MAX {
                std::thread::yield_now();
            } else {
                std::thread::sleep(NAP);
            }
            if let Some(value) = self.try_read(load) {
                return Some(value);
            }
        }
        None
    }
}

/// Bytes in shared memory, eight to an atomic word, in the order a C `char[]` has them.
#[repr(transparent)]
#[derive(Debug)]
pub struct Words<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Words<N> {
    fn default() -> Words<N> {
        Words([const { AtomicU64::new(0) }; N])
    }
}

impl<const N: usize> Words<N> {
    /// How many bytes there is room for.
    pub const BYTES: usize = N * 8;

    /// Stores `bytes` from the start on; what does not fit is left out. Words after them keep what
    /// they held.
    pub fn store(&self, bytes: &[u8]) {
        for (word, chunk) in self.0.iter().zip(bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_ne_bytes(padded), Ordering::Relaxed);
        }
    }

    /// The first `len` bytes, at most all.
    pub fn load(&self, len: usize) -> Vec<u8> {
        let len = len.min(Self::BYTES);
        let mut bytes = Vec::with_capacity(len.next_multiple_of(8));
        for word in &self.0[..len.div_ceil(8)] {
            bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// Stores a text that ends in a zero byte, as C has it; it is cut between two characters if it
    /// does not fit, and at a zero byte of its own.
    pub fn store_text(&self, text: &str) {
        let text = cut(text.split('\0').next().unwrap_or(""), Self::BYTES - 1);
        self.store(text.as_bytes());
        // The zero that ends it, unless the padding of the last word already does.
        if text.len().is_multiple_of(8) {
            self.0[text.len() / 8].store(0, Ordering::Relaxed);
        }
    }

    /// Loads a text up to its zero byte. While it is being written it may be any mixture, which
    /// must not panic here and is thrown away by the caller's `Sequence`.
    pub fn load_text(&self) -> String {
        let mut bytes = Vec::new();
        for word in &self.0 {
            let eight = word.load(Ordering::Relaxed).to_ne_bytes();
            let end = eight.iter().position(|byte| *byte == 0);
            bytes.extend_from_slice(&eight[..end.unwrap_or(8)]);
            if end.is_some() {
                break;
            }
        }
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }
}

/// The longest start of `text` of at most `bytes_max` bytes that does not split a character.
pub fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
