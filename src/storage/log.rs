//! The durable log: hard state and entries in one stream of records, over a [`Disk`], behind a
//! snapshot that stands for the entries before.
//!
//! Owned by the consensus thread. One write and one fdatasync a batch; a failed one is final: the
//! kernel may have dropped the pages, so that a later fsync that succeeds says nothing about them.
//!
//! The rules that a crash at any point leaves in force:
//!
//! 1. What the snapshot does not stand for is in the log, without a gap. So the snapshot is durable
//!    first; then segments go, the oldest first, each for good before the next.
//! 2. A log that begins elsewhere, at a snapshot from the leader that it did not lead up to, does
//!    so with a new segment that says so; only then do the segments before it go. A crash before
//!    that leaves a log that does not contain the snapshot's last entry: it is dropped when it is
//!    opened (Raft §7: one that contains it keeps what follows).

use crate::bugs::{self, Bug};
use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;

use super::disk::{Disk, LOG};
use super::error::StorageError;
use super::outline::{Outline, in_order, succeeds};
use super::segment::{self, Header};
use super::snapshot::Snapshots;
use crate::raft::{Durable, Entry, EntryId, HardState, LogIndex, SnapshotMeta};

/// A segment that grew beyond this is followed by a new one.
pub(super) const SEGMENT_BYTES: u64 = 8 << 20;

/// Log and snapshot, open for writing.
#[derive(Debug)]
pub struct Storage<D: Disk> {
    pub(super) disk: D,
    pub(super) snapshots: Snapshots<D>,
    /// Where a new segment is due.
    pub(super) segment_bytes: u64,
    /// What the log is.
    pub(super) outline: Outline,
    /// The segments before the last, the oldest first.
    pub(super) closed: VecDeque<Closed>,
    /// The last segment: its number, and its length.
    pub(super) number: u64,
    pub(super) len: u64,
    /// A hard state that need not be durable yet: it goes with the next batch that must be.
    waiting: Option<HardState>,
    failed: Option<String>,
}

/// A segment that is not written any more.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) number: u64,
    pub(super) bytes: u64,
    /// No entry behind this one is in it or in one before it, but for replaced ones.
    pub(super) end: LogIndex,
}

/// What was there when the storage was opened.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The last hard state.
    pub hard_state: HardState,
    /// What stands for the log's beginning: description and data.
    pub snapshot: Option<(SnapshotMeta, Vec<u8>)>,
    /// The entry before the first of `entries`, at most the snapshot's last.
    pub base: EntryId,
    /// The log behind `base`, up to the snapshot's last at least.
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
    /// A storage of which nothing was read yet.
    pub(super) fn new(disk: D, snapshots: Snapshots<D>, segment_bytes: u64) -> Storage<D> {
        Storage {
            disk,
            snapshots,
            segment_bytes: segment_bytes.min(SEGMENT_BYTES),
            outline: Outline::default(),
            closed: VecDeque::new(),
            number: 0,
            len: 0,
            waiting: None,
            failed: None,
        }
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
        self.attempt(|storage| {
            // As known before: the commit index may come with the entries that it covers.
            let committed = storage.committed();
            storage.wait(hard_state)?;
            if must_sync || !entries.is_empty() {
                storage.write(entries, committed)?;
            }
            Ok(Durable::attest())
        })
    }

    /// Makes a snapshot from the leader, and the hard state, durable. A log that contains the
    /// snapshot's last entry keeps what follows it; any other is dropped, and the next entry is the
    /// one behind the snapshot (Raft §7). Does nothing to a log whose snapshot is at least as new.
    /// After an error every further call fails.
    pub fn install(
        &mut self,
        meta: &SnapshotMeta,
        data: &[u8],
        hard_state: Option<&HardState>,
    ) -> Result<Durable, StorageError> {
        self.attempt(|storage| {
            let committed = storage.committed();
            storage.wait(hard_state)?;
            let kept = storage.outline.contains(meta.last)
                || storage.snapshots.durable().is_some_and(|last| last.index >= meta.last.index);
            if !kept && meta.last.index <= committed {
                let what =
                    format!("the snapshot contradicts committed entry {}", meta.last.index.0);
                return Err(StorageError::Unfit(what));
            }
            storage.snapshots.receive(meta, data)?;
            if !kept {
                storage.begin_at(meta.last)?;
            } else if hard_state.is_some() {
                storage.write(&[], committed)?;
            }
            Ok(Durable::attest())
        })
    }

    /// Forgets the log up to `base`, for which a durable snapshot stands: deletes the segments that
    /// hold nothing behind it. After an error every further call fails.
    pub fn compact(&mut self, base: EntryId) -> Result<(), StorageError> {
        self.attempt(|storage| {
            let covered = storage.snapshots.durable().unwrap_or_default().index;
            if base.index > storage.outline.base().index {
                if base.index > covered || !storage.outline.contains(base) {
                    return Err(StorageError::Unfit(format!(
                        "a log that begins behind entry {}, with a snapshot of entry {}",
                        base.index.0, covered.0
                    )));
                }
                storage.outline.compact(base);
            }
            if covered > LogIndex(0) { storage.drop_segments() } else { Ok(()) }
        })
    }

    /// A handle on the stored snapshot, for the thread that writes this node's own and for reading
    /// what a follower is to get.
    pub fn snapshots(&self) -> Snapshots<D> {
        self.snapshots.clone()
    }

    /// The bytes of log on disk.
    pub fn bytes(&self) -> u64 {
        self.closed.iter().map(|segment| segment.bytes).sum::<u64>() + self.len
    }

    fn attempt<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        if let Some(earlier) = &self.failed {
            return Err(StorageError::Failed(earlier.clone()));
        }
        let result = act(self);
        if let Err(error) = &result {
            self.failed = Some(error.to_string());
        }
        result
    }

    /// Takes in a hard state, to go with the next write.
    fn wait(&mut self, hard_state: Option<&HardState>) -> Result<(), StorageError> {
        if let Some(next) = hard_state {
            let known = self.waiting.unwrap_or(self.outline.hard_state());
            succeeds(&known, next).map_err(StorageError::Unfit)?;
            self.waiting = Some(*next);
        }
        Ok(())
    }

    /// Up to where the log is known to be committed, be that durable or not.
    fn committed(&self) -> LogIndex {
        let waiting = self.waiting.map_or(LogIndex(0), |hard_state| hard_state.commit);
        waiting.min(self.outline.last().index).max(self.outline.committed())
    }

    fn write(&mut self, entries: &[Entry], committed: LogIndex) -> Result<(), StorageError> {
        let mut prev = self.check(entries, committed).map_err(StorageError::Unfit)?;
        let mut rest = entries;
        loop {
            if self.len >= self.segment_bytes {
                self.new_segment(false)?;
            }
            let hard_state = self.waiting.take();
            let (record, taken) = segment::encode(prev, hard_state.as_ref(), rest);
            if record.len() > segment::RECORD_BYTES_MAX as usize {
                return Err(StorageError::TooLarge { bytes: record.len() });
            }
            let (batch, later) = rest.split_at(taken);
            let fit = self.outline.follow(prev, batch, hard_state.as_ref());
            fit.map_err(StorageError::Unfit)?;
            self.append(&record)?;
            self.forget_replaced(prev.index);
            let Some(last) = batch.last().filter(|_| !later.is_empty()) else {
                return Ok(());
            };
            (prev, rest) = (last.id, later);
        }
    }

    /// Whether `entries` can be written, and behind which entry. Before anything is: the record
    /// that does not fit might be the second of several.
    fn check(&self, entries: &[Entry], committed: LogIndex) -> Result<EntryId, String> {
        let Some(first) = entries.first() else { return Ok(self.outline.last()) };
        let index = first.id.index;
        let Some(prev) = self.outline.id_at(index.prev()) else {
            let last = self.outline.last().index.0;
            return Err(format!("entry {} follows entry {last}", index.0));
        };
        if index <= committed {
            return Err(format!("committed entry {} is replaced", index.0));
        }
        in_order(prev, entries)?;
        Ok(prev)
    }

    /// Entries behind `keep` in earlier segments were replaced.
    pub(super) fn forget_replaced(&mut self, keep: LogIndex) {
        for segment in self.closed.iter_mut().rev().take_while(|segment| segment.end > keep) {
            segment.end = keep;
        }
    }

    /// Drops the log: it begins behind `base`, for which a durable snapshot stands.
    pub(super) fn begin_at(&mut self, base: EntryId) -> Result<(), StorageError> {
        let mut hard_state = self.waiting.take().unwrap_or(self.outline.hard_state());
        if hard_state.term < base.term {
            // Its leader's term would have come with it, but for a crash. No vote was given in it.
            hard_state = HardState { term: base.term, vote: None, ..hard_state };
        }
        self.outline = Outline::new(base, hard_state);
        self.forget_replaced(LogIndex(0));
        self.new_segment(true)?;
        self.drop_segments()
    }

    /// Removes the segments that hold nothing behind the log's base. Each is gone for good before
    /// the next one is removed, so that a power failure cannot leave a hole.
    fn drop_segments(&mut self) -> Result<(), StorageError> {
        let base = self.outline.base().index;
        while let Some(oldest) = self.closed.front().filter(|oldest| oldest.end <= base) {
            let name = file(oldest.number);
            self.disk.remove(&name).map_err(StorageError::io("remove", &self.disk.path(&name)))?;
            self.sync_names()?;
            self.closed.pop_front();
        }
        Ok(())
    }

    pub(super) fn sync_names(&mut self) -> Result<(), StorageError> {
        self.disk.sync_names(LOG).map_err(StorageError::io("sync", &self.disk.path(LOG)))
    }

    /// Begins the next segment, and with `begins` the log.
    pub(super) fn new_segment(&mut self, begins: bool) -> Result<(), StorageError> {
        let name = file(self.number + 1);
        let path = self.disk.path(&name);
        self.disk.create(&name).map_err(StorageError::io("create", &path))?;
        let bytes_before = self.len;
        if self.number > 0 {
            let end = if begins { LogIndex(0) } else { self.outline.last().index };
            self.closed.push_back(Closed { number: self.number, bytes: self.len, end });
        }
        self.number += 1;
        self.len = 0;
        self.write_header(begins, bytes_before)
    }

    pub(super) fn write_header(
        &mut self,
        begins: bool,
        bytes_before: u64,
    ) -> Result<(), StorageError> {
        let header = Header {
            number: self.number,
            bytes_before,
            begins,
            start: self.outline.last(),
            hard_state: self.outline.hard_state(),
        };
        self.append(&segment::header(&header))
    }

    fn append(&mut self, record: &[u8]) -> Result<(), StorageError> {
        let name = file(self.number);
        let path = self.disk.path(&name);
        self.disk.append(&name, record).map_err(StorageError::io("write", &path))?;
        if !bugs::on(Bug::AckBeforeSync) {
            self.disk.sync(&name).map_err(StorageError::io("sync", &path))?;
        }
        self.len += record.len() as u64;
        Ok(())
    }
}

impl<D: Disk> Drop for Storage<D> {
    fn drop(&mut self) {
        self.snapshots.close();
    }
}

/// The file of segment `number`.
pub(super) fn file(number: u64) -> String {
    format!("{LOG}/{}", segment::name(number))
}
