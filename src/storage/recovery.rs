//! Opening the storage: reads snapshot and log back, cuts off what power cut short, finishes what a
//! crash left half done, and refuses what no sound node could have left.

use super::disk::{Disk, LOG};
use super::error::StorageError;
use super::log::{Closed, Recovered, SEGMENT_BYTES, Storage, TornTail, file};
use super::outline::{Fit, Outline, succeeds};
use super::segment::{self, Batch, Contents, Header};
use super::snapshot::Snapshots;
use crate::raft::LogIndex;

/// So no segment is longer than this.
const SEGMENT_BYTES_MAX: u64 = SEGMENT_BYTES + segment::RECORD_BYTES_MAX as u64 + 1024;

impl<D: Disk> Storage<D> {
    /// Reads snapshot and log back. A torn tail is cut off; damage anywhere else is an error.
    pub fn open(disk: D) -> Result<(Storage<D>, Recovered), StorageError> {
        Storage::open_with(disk, SEGMENT_BYTES)
    }

    /// As `open`, with segments of another size: tests want many.
    pub fn open_with(
        mut disk: D,
        segment_bytes: u64,
    ) -> Result<(Storage<D>, Recovered), StorageError> {
        let (snapshots, snapshot) = Snapshots::open(&disk)?;
        let names = disk.list(LOG).map_err(StorageError::io("list", &disk.path(LOG)))?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::number(name)).collect();
        numbers.sort_unstable();
        let mut storage = Storage::new(disk, snapshots, segment_bytes);
        let mut recovered = Recovered { snapshot, ..Recovered::default() };
        let first = numbers.first().copied().unwrap_or(1);
        for (expected, &number) in (first..).zip(&numbers) {
            if number != expected {
                let what = format!("segment {expected} is missing");
                return Err(storage.damaged(number, 0, what));
            }
            storage.read_segment(number, numbers.last() == Some(&number), &mut recovered)?;
        }
        if storage.number == 0 {
            if recovered.snapshot.is_some() {
                let what = "it is missing, although there is a snapshot".to_owned();
                return Err(storage.damaged(1, 0, what));
            }
            storage.new_segment(true)?;
        }
        // Who made the last segment may have been killed before this.
        storage.sync_names()?;
        storage.join(first, &mut recovered)?;
        Ok((storage, recovered))
    }

    fn read_segment(
        &mut self,
        number: u64,
        last: bool,
        recovered: &mut Recovered,
    ) -> Result<(), StorageError> {
        let name = file(number);
        let path = self.disk.path(&name);
        let bytes =
            self.disk.read(&name, SEGMENT_BYTES_MAX).map_err(StorageError::io("read", &path))?;
        let Contents { header, batches, last: last_record, end, broken } = segment::read(&bytes);
        let bytes_before = self.len;
        if self.number > 0 {
            let end = self.outline.last().index;
            self.closed.push_back(Closed { number: self.number, bytes: self.len, end });
        }
        let first = self.number == 0;
        (self.number, self.len) = (number, end);
        if let Some(header) = header {
            let checked = self.take_header(&header, first, bytes_before, recovered);
            checked.map_err(|what| self.damaged(number, 0, what))?;
        }
        for (offset, batch) in batches {
            let taken = self.take_batch(batch, recovered);
            taken.map_err(|what| self.damaged(number, offset, what))?;
        }
        match broken {
            Some(broken) if broken.damage || !last => {
                return Err(self.damaged(number, end, broken.what));
            }
            Some(_) => {
                let cut = bytes.len() as u64 - end;
                let truncated = self.disk.truncate(&name, end);
                truncated.map_err(StorageError::io("truncate", &path))?;
                recovered.torn = Some(TornTail { path, offset: end, bytes: cut });
            }
            None => {}
        }
        match header {
            Some(_) if last => self.write_again(last_record, &bytes[..end as usize]),
            Some(_) => Ok(()),
            None if !last => Err(self.damaged(number, 0, "it is empty".to_owned())),
            // Power failed when it was made: nothing can be in it.
            None if !first || number == 1 => self.write_header(first, bytes_before),
            None => Err(self.damaged(number, 0, "the log's beginning cannot be read".to_owned())),
        }
    }

    /// What a segment says of the log before it; `Err`: what cannot be.
    fn take_header(
        &mut self,
        header: &Header,
        first: bool,
        bytes_before: u64,
        recovered: &mut Recovered,
    ) -> Result<(), String> {
        let Header { number, begins, start, hard_state, .. } = *header;
        if number != self.number {
            return Err(format!("this is segment {number}, not {}", self.number));
        }
        if !first && header.bytes_before != bytes_before {
            let before = header.bytes_before;
            return Err(format!("the segment before it has {bytes_before} bytes, not {before}"));
        }
        if begins {
            succeeds(&self.outline.hard_state(), &hard_state)?;
            if start.index < self.outline.committed() {
                return Err(format!("committed entry {} is dropped", start.index.0 + 1));
            }
            self.outline = Outline::new(start, hard_state);
            self.forget_replaced(LogIndex(0));
        } else if first {
            self.outline = Outline::partial(start, hard_state);
        } else if (start, hard_state) != (self.outline.last(), self.outline.hard_state()) {
            return Err("it does not follow the segment before it".to_owned());
        }
        if begins || first {
            recovered.entries.clear();
        }
        Ok(())
    }

    /// One batch more; `Err`: what contradicts what came before.
    fn take_batch(&mut self, batch: Batch, recovered: &mut Recovered) -> Result<(), String> {
        let Batch { prev, hard_state, entries } = batch;
        let fit = self.outline.follow(prev, &entries, hard_state.as_ref())?;
        self.forget_replaced(prev.index);
        let kept = match fit {
            Fit::Lower => 0,
            Fit::Behind => prev.index.0 - self.outline.base().index.0,
        };
        recovered.entries.truncate(kept as usize);
        recovered.entries.extend(entries);
        Ok(())
    }

    /// Brings log and snapshot together (Raft §7).
    fn join(&mut self, first: u64, recovered: &mut Recovered) -> Result<(), StorageError> {
        let base = self.outline.base();
        let covered = recovered.snapshot.as_ref().map(|(meta, _)| meta.last).unwrap_or_default();
        if first > 1 && covered.index == LogIndex(0) {
            let what = format!("segment {} is missing, and there is no snapshot", first - 1);
            return Err(self.damaged(first, 0, what));
        }
        if base.index > covered.index {
            let (base, covered) = (base.index.0, covered.index.0);
            let what = format!("it begins behind entry {base}, but the snapshot ends at {covered}");
            return Err(self.damaged(first, 0, what));
        }
        if !self.outline.contains(covered) {
            if covered.index <= self.outline.committed() {
                let index = covered.index.0;
                let what = format!("entry {index} is committed and not the snapshot's last");
                return Err(self.damaged(first, 0, what));
            }
            // A crash came between the leader's snapshot and the segment that begins behind it.
            self.begin_at(covered)?;
            recovered.entries.clear();
        }
        recovered.base = self.outline.base();
        recovered.hard_state = self.outline.hard_state();
        // A batch too long for one record comes in several, the commit index with the first: a
        // crash between them leaves it ahead.
        let commit = self.outline.committed().max(covered.index);
        recovered.hard_state.commit = commit;
        Ok(())
    }

    /// Makes the last record durable. It may be in memory only: this process's predecessor may have
    /// been killed before its sync, or have ended *because* that failed, after which another sync
    /// reports success and writes nothing. So the record is written once more, over itself.
    fn write_again(&mut self, offset: u64, segment: &[u8]) -> Result<(), StorageError> {
        let name = file(self.number);
        let path = self.disk.path(&name);
        let written = self.disk.overwrite(&name, offset, &segment[offset as usize..]);
        written.map_err(StorageError::io("write", &path))?;
        self.disk.sync(&name).map_err(StorageError::io("sync", &path))
    }

    fn damaged(&self, number: u64, offset: u64, what: String) -> StorageError {
        StorageError::Damaged { path: self.disk.path(&file(number)), offset, what }
    }
}
