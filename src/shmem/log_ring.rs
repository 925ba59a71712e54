//! The last few hundred log lines of pgraft's worker, for `pgraft_get_logs()`. They stay readable
//! when the worker is gone.
//!
//! Threads of one worker process write, any number at a time; every process reads. Line `n` goes to
//! entry `n` modulo the size, and its version says so: `2n + 1` while it is written, `2n + 2`
//! after. A reader that finds any other version has been overtaken and leaves the line out.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::seqlock::{Words, cut};

/// One entry, the unit in which room for lines is counted.
pub const ENTRY_BYTES: usize = 512;
/// The longest text of a line; the rest is cut off.
pub const TEXT_BYTES_MAX: usize = 480;

/// One line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogLine {
    /// Its number since the server started; a gap says that lines were lost.
    pub number: u64,
    /// When, in microseconds since 1970.
    pub unix_us: i64,
    /// How serious.
    pub level: log::Level,
    /// The node that wrote it; 0 before it knew.
    pub node_id: u32,
    /// Its term then.
    pub term: u64,
    /// The message.
    pub text: String,
}

#[repr(C, align(64))]
#[derive(Debug, Default)]
pub(super) struct RingHead {
    /// The number of the next line.
    next: AtomicU64,
    /// Lines that found their entry being written.
    lost: AtomicU64,
}

#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct LogEntry {
    version: AtomicU64,
    unix_us: AtomicU64,
    term: AtomicU64,
    node_id: AtomicU32,
    /// level << 16 | length of the text
    level_len: AtomicU32,
    text: Words<{ TEXT_BYTES_MAX / 8 }>,
}

const _: () = assert!(size_of::<LogEntry>() == ENTRY_BYTES);

/// The ring; a view that is cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct LogRing {
    pub(super) head: &'static RingHead,
    /// Never empty.
    pub(super) entries: &'static [LogEntry],
}

impl LogRing {
    /// Appends a line; never waits. It is lost, and counted, when the very entry is being written
    /// by a thread that is a whole round late.
    pub fn write(&self, unix_us: i64, level: log::Level, node_id: u32, term: u64, text: &str) {
        let number = self.head.next.fetch_add(1, Ordering::Relaxed);
        let entry = self.entry(number);
        let found = entry.version.load(Ordering::Relaxed);
        let (writing, written) = (2 * number + 1, 2 * number + 2);
        let claimed = found & 1 == 0
            && found < writing
            && entry
                .version
                .compare_exchange(found, writing, Ordering::Acquire, Ordering::Relaxed)
                .is_ok();
        if !claimed {
            self.head.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // As in `Sequence::write`: nothing below becomes visible before the odd version.
        fence(Ordering::Release);
        let text = cut(text, TEXT_BYTES_MAX);
        entry.unix_us.store(unix_us as u64, Ordering::Relaxed);
        entry.term.store(term, Ordering::Relaxed);
        entry.node_id.store(node_id, Ordering::Relaxed);
        entry.level_len.store((level as u32) << 16 | text.len() as u32, Ordering::Relaxed);
        entry.text.store(text.as_bytes());
        entry.version.store(written, Ordering::Release);
    }

    /// The newest `lines_max` lines that are at least as serious as `min_level`, newest last.
    pub fn read(&self, lines_max: usize, min_level: log::LevelFilter) -> Vec<LogLine> {
        let next = self.head.next.load(Ordering::Acquire);
        let oldest = next.saturating_sub(self.entries.len() as u64);
        let mut lines: Vec<LogLine> = (oldest..next)
            .rev()
            .filter_map(|number| self.line(number, min_level))
            .take(lines_max)
            .collect();
        lines.reverse();
        lines
    }

    fn line(&self, number: u64, min_level: log::LevelFilter) -> Option<LogLine> {
        let entry = self.entry(number);
        let written = 2 * number + 2;
        if entry.version.load(Ordering::Acquire) != written {
            return None;
        }
        let level_len = entry.level_len.load(Ordering::Relaxed);
        let level = level_of(level_len >> 16).filter(|level| *level <= min_level)?;
        let unix_us = entry.unix_us.load(Ordering::Relaxed) as i64;
        let term = entry.term.load(Ordering::Relaxed);
        let node_id = entry.node_id.load(Ordering::Relaxed);
        let text = entry.text.load((level_len & 0xffff) as usize);
        fence(Ordering::Acquire);
        if entry.version.load(Ordering::Relaxed) != written {
            return None;
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        Some(LogLine { number, unix_us, level, node_id, term, text })
    }

    /// Worker, when it begins: frees entries whose writer died inside. Nobody else may be writing.
    pub fn repair(&self) {
        for entry in self.entries {
            let version = entry.version.load(Ordering::Relaxed);
            if version & 1 == 1 {
                // The version of no line.
                entry.version.store(0, Ordering::Release);
            }
        }
    }

    /// How many lines there is room for.
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// How many lines were lost because two threads met in one entry.
    pub fn lost(&self) -> u64 {
        self.head.lost.load(Ordering::Relaxed)
    }

    /// A ring of its own, never freed.
    #[cfg(test)]
    pub(crate) fn for_tests(capacity: usize) -> LogRing {
        let entries: Vec<LogEntry> = (0..capacity).map(|_| LogEntry::default()).collect();
        LogRing { head: Box::leak(Box::default()), entries: Vec::leak(entries) }
    }

    /// As a writer that dies in the middle.
    #[cfg(test)]
    pub(super) fn leave_unfinished(&self) {
        let number = self.head.next.fetch_add(1, Ordering::Relaxed);
        self.entry(number).version.store(2 * number + 1, Ordering::Relaxed);
    }

    fn entry(&self, number: u64) -> &LogEntry {
        &self.entries[(number % self.entries.len() as u64) as usize]
    }
}

fn level_of(code: u32) -> Option<log::Level> {
    log::Level::iter().find(|level| *level as u32 == code)
}
