//! The durable log: hard state and entries in one stream of records, over a [`Disk`].
//!
//! Owned by the consensus thread. One write and one fdatasync a batch; a failed one is final: the
//! kernel may have dropped the pages, so that a later fsync that succeeds says nothing about them.

use std::fmt;
use std::path::PathBuf;

use super::disk::Disk;
use super::error::StorageError;
use super::segment;
use crate::raft::{Durable, Entry, HardState, LogIndex, Term};

/// A segment that grew beyond this is followed by a new one.
const SEGMENT_BYTES: u64 = 8 << 20;
/// So none is longer than this.
const SEGMENT_BYTES_MAX: u64 = SEGMENT_BYTES + segment::RECORD_BYTES_MAX as u64 + 1024;

/// The log, open for writing.
#[derive(Debug)]
pub struct Storage<D: Disk> {
    disk: D,
    /// Where a new segment is due.
    segment_bytes: u64,
    /// The last segment: its number, and its length.
    number: u64,
    len: u64,
    /// The bytes of the segment before it.
    previous: u64,
    /// The bytes of all segments before it.
    before: u64,
    /// A hard state that need not be durable yet: it goes with the next batch that must be.
    waiting: Option<HardState>,
    failed: Option<String>,
}

/// What the log held when it was opened.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The last hard state.
    pub hard_state: HardState,
    /// The log, from index 1.
    pub entries: Vec<Entry>,
    /// A write that power cut short, and that was cut off.
    pub torn: Option<TornTail>,
}

/// Bytes at the log's end that were never promised to anyone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// The file.
    pub path: PathBuf,
    /// Where they began.
    pub offset: u64,
    /// How many they were.
    pub bytes: u64,
}

impl fmt::Display for TornTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TornTail { path, offset, bytes } = self;
        write!(f, "cut {bytes} bytes of an unfinished write off \"{}\" ", path.display())?;
        write!(f, "at offset {offset}")
    }
}

impl<D: Disk> Storage<D> {
    /// Reads the log back. A torn tail is cut off; damage anywhere before it is an error.
    pub fn open(disk: D) -> Result<(Storage<D>, Recovered), StorageError> {
        Storage::open_with(disk, SEGMENT_BYTES)
    }

    /// As `open`, with segments of another size: tests want many.
    pub fn open_with(
        mut disk: D,
        segment_bytes: u64,
    ) -> Result<(Storage<D>, Recovered), StorageError> {
        let segment_bytes = segment_bytes.min(SEGMENT_BYTES);
        let names = disk.list().map_err(StorageError::io("list", &disk.path("")))?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::number(name)).collect();
        numbers.sort_unstable();
        let mut recovered = Recovered::default();
        let mut storage = Storage {
            disk,
            segment_bytes,
            number: 0,
            previous: 0,
            len: 0,
            before: 0,
            waiting: None,
            failed: None,
        };
        for (at, &number) in numbers.iter().enumerate() {
            if number != at as u64 + 1 {
                let what = format!("segment {} is missing", at + 1);
                return Err(storage.damaged(number, 0, what));
            }
            storage.read_segment(number, at + 1 == numbers.len(), &mut recovered)?;
        }
        if storage.number == 0 {
            storage.new_segment()?;
        } else if storage.len == 0 {
            storage.write_header()?;
        }
        // Who made the last segment may have been killed before this.
        storage.disk.sync_names().map_err(StorageError::io("sync", &storage.disk.path("")))?;
        recovered.finish();
        Ok((storage, recovered))
    }

    /// Appends `entries` (replacing from the first of them on) and the hard state.
    ///
    /// With `must_sync` all of it, and everything before it, is durable on return. Without, it may
    /// come with the next write that is. After an error every further call fails.
    pub fn save(
        &mut self,
        hard_state: Option<&HardState>,
        entries: &[Entry],
        must_sync: bool,
    ) -> Result<Durable, StorageError> {
        if let Some(earlier) = &self.failed {
            return Err(StorageError::Failed(earlier.clone()));
        }
        self.waiting = hard_state.copied().or(self.waiting);
        if !must_sync && entries.is_empty() {
            return Ok(Durable::attest());
        }
        let written = self.write(entries);
        if let Err(error) = &written {
            self.failed = Some(error.to_string());
        }
        written.map(|()| Durable::attest())
    }

    /// The bytes of log on disk.
    pub fn bytes(&self) -> u64 {
        self.before + self.len
    }

    fn write(&mut self, entries: &[Entry]) -> Result<(), StorageError> {
        let mut rest = entries;
        loop {
            if self.len >= self.segment_bytes {
                self.new_segment()?;
            }
            let (record, taken) = segment::encode(self.waiting.as_ref(), rest);
            if record.len() > segment::RECORD_BYTES_MAX as usize {
                return Err(StorageError::TooLarge { bytes: record.len() });
            }
            self.append(&record)?;
            self.waiting = None;
            rest = &rest[taken..];
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    fn new_segment(&mut self) -> Result<(), StorageError> {
        let name = segment::name(self.number + 1);
        let path = self.disk.path(&name);
        self.disk.create(&name).map_err(StorageError::io("create", &path))?;
        self.number += 1;
        self.before += self.len;
        self.previous = std::mem::take(&mut self.len);
        self.write_header()
    }

    fn write_header(&mut self) -> Result<(), StorageError> {
        self.append(&segment::header(self.number, self.previous))
    }

    fn append(&mut self, record: &[u8]) -> Result<(), StorageError> {
        let name = segment::name(self.number);
        let path = self.disk.path(&name);
        self.disk.append(&name, record).map_err(StorageError::io("write", &path))?;
        self.disk.sync(&name).map_err(StorageError::io("sync", &path))?;
        self.len += record.len() as u64;
        Ok(())
    }

    fn read_segment(
        &mut self,
        number: u64,
        last: bool,
        recovered: &mut Recovered,
    ) -> Result<(), StorageError> {
        let name = segment::name(number);
        let path = self.disk.path(&name);
        let bytes =
            self.disk.read(&name, SEGMENT_BYTES_MAX).map_err(StorageError::io("read", &path))?;
        let contents = segment::read(number, self.len, &bytes);
        for (offset, batch) in contents.batches {
            recovered.take(batch).map_err(|what| self.damaged(number, offset, what))?;
        }
        self.number = number;
        self.before += self.len;
        self.previous = self.len;
        self.len = contents.end;
        match contents.broken {
            None if last => self.write_again(contents.last, &bytes),
            None if contents.end > 0 => Ok(()),
            None => Err(self.damaged(number, 0, "it is empty".to_owned())),
            Some(broken) if broken.damage || !last => {
                Err(self.damaged(number, contents.end, broken.what))
            }
            Some(_) => {
                let cut = bytes.len() as u64 - contents.end;
                let truncated = self.disk.truncate(&name, contents.end);
                truncated.map_err(StorageError::io("truncate", &path))?;
                recovered.torn = Some(TornTail { path, offset: contents.end, bytes: cut });
                self.write_again(contents.last, &bytes[..contents.end as usize])
            }
        }
    }

    /// Makes the last record durable. It may be in memory only: this process's predecessor may have
    /// been killed before its sync, or have ended *because* that failed, after which another sync
    /// reports success and writes nothing. So the record is written once more, over itself.
    fn write_again(&mut self, offset: u64, segment: &[u8]) -> Result<(), StorageError> {
        let name = segment::name(self.number);
        let path = self.disk.path(&name);
        let written = self.disk.overwrite(&name, offset, &segment[offset as usize..]);
        written.map_err(StorageError::io("write", &path))?;
        self.disk.sync(&name).map_err(StorageError::io("sync", &path))
    }

    fn damaged(&self, number: u64, offset: u64, what: String) -> StorageError {
        StorageError::Damaged { path: self.disk.path(&segment::name(number)), offset, what }
    }
}

impl Recovered {
    /// One batch more; `Err`: what contradicts what came before.
    fn take(&mut self, batch: segment::Batch) -> Result<(), String> {
        for entry in batch.entries {
            let LogIndex(index) = entry.id.index;
            let end = self.entries.len() as u64;
            if index <= self.hard_state.commit.0.min(end) {
                return Err(format!("committed entry {index} is replaced"));
            }
            if index == 0 || index > end + 1 {
                return Err(format!("entry {index} follows entry {end}"));
            }
            self.entries.truncate(index as usize - 1);
            let before = self.entries.last().map_or(Term(0), |entry| entry.id.term);
            if entry.id.term < before {
                let (term, before) = (entry.id.term.0, before.0);
                return Err(format!("entry {index} of term {term} follows one of term {before}"));
            }
            self.entries.push(entry);
        }
        if let Some(hard_state) = batch.hard_state {
            if hard_state.term < self.hard_state.term {
                return Err(format!(
                    "term {} follows term {}",
                    hard_state.term.0, self.hard_state.term.0
                ));
            }
            let known = self.hard_state;
            let changed = known.vote.is_some() && known.vote != hard_state.vote;
            if changed && hard_state.term == known.term {
                return Err(format!("the vote changes within term {}", known.term.0));
            }
            self.hard_state = hard_state;
        }
        Ok(())
    }

    /// A batch too long for one record comes in several, the commit index with the first: a crash
    /// between them leaves it ahead.
    fn finish(&mut self) {
        let last = self.entries.last().map_or(LogIndex(0), |entry| entry.id.index);
        self.hard_state.commit = self.hard_state.commit.min(last);
    }
}
